"""Every FastViT variant through every format and precision: does it convert, how large is the file, how far from the training form?

    python tools/prove_exports.py [--size-px 224] [--variants fastvit_t8 ...] [--out docs/exports.md]

The weights are random, but made to matter: normalisation has the statistics of pictures, layer scales are as large as trained ones, and the
last layer is scaled until the vertices move by centimetres from picture to picture. That spread is printed beside the distances, which
prove nothing without it. A distance beyond its limit is printed as refused: nothing is written then. Needs the `train` and `export` extras.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from handmesh.bench.macs import count_macs
from handmesh.deploy.command import SUFFIXES, Format, Precision
from handmesh.deploy.export import write_form
from handmesh.deploy.job import Form, fuse_and_compare
from handmesh.deploy.parity import PARITY_PICTURES, noise_pictures
from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_RULE
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.runtime import METADATA_FORMAT
from handmesh.skeleton import JOINTS, ROOT
from handmesh.training.model import VARIANTS, HandNet
from handmesh.wholefile import replacing

FORMS: tuple[tuple[Format, Precision], ...] = (
    ("onnx", "f32"),
    ("onnx", "fp16"),
    ("openvino", "f32"),
    ("openvino", "fp16"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("coreml", "f32"),
    ("coreml", "fp16"),
    ("tensorrt", "f32"),
)
CALIBRATION_PICTURES = 64
# Of the rotations' raw numbers, between pictures: vertices then move by a few centimetres.
OUTPUT_SPREAD = 0.25


def lively_net(variant: str, model: HandModel, size_px: int) -> HandNet:
    """A network of random weights whose hands differ from picture to picture."""
    torch.manual_seed(0)
    net = HandNet(variant, "keypoint", size_px)
    net.start_at(model)
    pictures = torch.from_numpy(noise_pictures(size_px, 32, seed=1))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
            if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
                gamma.uniform_(0.1, 0.5)
        net.train()
        for batch in pictures.split(16):
            net(batch)
        net.eval()
        spread = net(pictures).rot6d.std(dim=0).mean()
        net.head.output.weight.mul_(OUTPUT_SPREAD / spread)
    return net


def prove(variant: str, model: HandModel, size_px: int) -> list[str]:
    """The cells of one variant's row."""
    # After handmesh, which switches its usage reports off.
    import openvino

    net = lively_net(variant, model, size_px)
    form = fuse_and_compare(net, model, noise_pictures(size_px, PARITY_PICTURES))
    vertices_m = form.reference_m
    spread_mm = float(1e3 * np.linalg.norm(vertices_m - vertices_m.mean(axis=0), axis=-1).mean())
    parameters = [sum(values.numel() for values in deployed(each)) / 1e6 for each in (net, form.fused)]
    graph = openvino.Core().read_model(form.onnx)
    graph.reshape([1, size_px, size_px, 3])
    cells = [variant, f"{parameters[0]:.2f} -> {parameters[1]:.2f}", f"{count_macs(graph) / 1e9:.2f}", f"{spread_mm:.0f}"]
    cells.append(f"{form.fused_f64_mm:.0e}")
    print(f"{variant}: vertices {spread_mm:.1f} mm from their mean; fused f64 {form.fused_f64_mm:.1e} mm", flush=True)
    for file_format, precision in FORMS:
        cells.append(written(form, model, variant, size_px, file_format, precision))
        print(f"{variant}: {file_format} {precision}: {cells[-1]}", flush=True)
    return cells


def deployed(net: HandNet) -> list[nn.Parameter]:
    """Parameters of what is exported: the training form's dense heads are not."""
    return [values for name, values in net.named_parameters() if not name.startswith(("head.parts", "head.depth"))]


def written(form: Form, model: HandModel, variant: str, size_px: int, file_format: Format, precision: Precision) -> str:
    """Size and distance of one file, or why there is none."""
    if missing := [package for package in ("nncf",) if precision == "int8" and find_spec(package) is None]:
        return f"{missing[0]} is not installed"
    if file_format == "coreml" and find_spec("coremltools") is None:
        return "coremltools is not installed"
    metadata = {
        "format": METADATA_FORMAT,
        "hand_model": model.id,
        "crop_rule": CROP_RULE,
        "input_size_px": size_px,
        "root": JOINTS[ROOT],
        "variant": variant,
    }
    calibration = noise_pictures(size_px, CALIBRATION_PICTURES, seed=2) if precision == "int8" else None
    with tempfile.TemporaryDirectory() as folder:
        try:
            out = Path(folder) / f"network{SUFFIXES[file_format]}"
            report = write_form(form, out, precision, metadata, file_format, calibration)
        except UserError as error:
            beyond = re.search(r"got (\S+) mm; nothing was written", str(error))
            return f"refused, {float(beyond[1]):.2g}" if beyond else f"none: {str(error).partition('; ')[0].removeprefix('expected ')}"
    return f"{report.size_mb:.1f} MB, {report.file_mm:.1g}"


def table(rows: list[list[str]], size_px: int) -> str:
    """Markdown."""
    headings = ["variant", "parameters M, train -> fused", f"GMACs at {size_px} px", "spread mm", "fused f64 mm"]
    headings += [f"{file_format} {precision}" for file_format, precision in FORMS]
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--out", type=Path, default=Path("exports.md"))
    arguments = parser.parse_args()

    model = load_hand_model("open")
    rows = []
    for variant in arguments.variants:
        rows.append(prove(variant, model, arguments.size_px))
        # After each, so that a long run that is broken off leaves what it has.
        with replacing(arguments.out) as temporary:
            temporary.write_text(table(rows, arguments.size_px), encoding="utf-8")
    print(table(rows, arguments.size_px))


if __name__ == "__main__":
    main()
