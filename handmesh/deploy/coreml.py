"""A network as a Core ML package with a picture as its input. It runs on Apple's devices alone: here its description is checked."""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handmesh.deploy.graph import DeployNet
from handmesh.deploy.job import Job, Written
from handmesh.deploy.parity import run_torch
from handmesh.errors import UserError, one_line
from handmesh.runtime import INPUT, METADATA_KEY, OUTPUTS

_TESTED_TORCH = "2.7.0"


class PictureNet(nn.Module):
    """A network as Core ML calls it: one picture (1, 3, S, S) in 0..255, as its image inputs are."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = DeployNet(net)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        return self.net(picture.permute(0, 2, 3, 1))


def write(job: Job) -> Written:
    """Write an .mlpackage of f32 or fp16 and check its description.

    The parity is that of the torch program that is converted, with its weights rounded as the file stores them; Core ML's own arithmetic
    is measured nowhere but on a Mac.

    Raises:
        UserError: beyond the parity limit, or coremltools cannot convert with this torch.
        OSError: it cannot be written.
    """
    # Its import tells in six lines that this is no Mac.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools

    stored = copy.deepcopy(job.form.arranged)
    if job.precision == "fp16":
        stored = stored.half().float()
    distance = job.checked_mm("the torch program for Core ML", run_torch(stored, job.form.crops))
    package = convert(job)
    spec = package.get_spec()
    operations = check_spec(spec, job.form.fused.size_px)
    package.short_description = "handmesh: a crop of a hand to its parameters"
    package.user_defined_metadata[METADATA_KEY] = job.metadata_text(distance)
    with _replacing_folder(job.out) as temporary:
        package.save(str(temporary))
    size_px = job.form.fused.size_px
    note = (
        f"checked here: an RGB picture of {size_px} x {size_px} px in, {len(OUTPUTS)} outputs, {operations} operations "
        f"(coremltools {coremltools.__version__}); the distance is that of the converted torch program: running the package needs a Mac"
    )
    return Written(job.out, f"the converted program with {job.precision} weights", distance, (note,))


def convert(job: Job) -> Any:
    """The `coremltools.models.MLModel`.

    Raises:
        UserError: coremltools and torch do not fit.
    """
    import coremltools as ct

    size = job.form.fused.size_px
    net = PictureNet(copy.deepcopy(job.form.arranged)).eval()
    precision = ct.precision.FLOAT16 if job.precision == "fp16" else ct.precision.FLOAT32
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(net, torch.zeros(1, 3, size, size))
            return ct.convert(
                traced,
                inputs=[ct.ImageType(name=INPUT, shape=(1, 3, size, size), color_layout=ct.colorlayout.RGB)],
                outputs=[ct.TensorType(name=name) for name in OUTPUTS],
                convert_to="mlprogram",
                compute_precision=precision,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError, AssertionError) as error:
        raise UserError(
            f"expected coremltools {ct.__version__} to convert with torch {torch.__version__}, but it does not ({one_line(error)[:120]}); "
            f"install torch {_TESTED_TORCH}, the newest it was made for"
        ) from error


def check_spec(spec: Any, size_px: int) -> int:
    """Compare a package's description with what was asked for.

    Returns:
        How many operations it has.

    Raises:
        UserError: another input or other outputs.
    """
    image = spec.description.input[0].type.imageType
    names = [output.name for output in spec.description.output]
    if (image.width, image.height) != (size_px, size_px) or sorted(names) != sorted(OUTPUTS) or len(spec.description.input) != 1:
        raise UserError(
            f"expected a Core ML package with a picture of {size_px} px and {', '.join(OUTPUTS)}, "
            f"got {image.width} px and {', '.join(names)}; report it"
        )
    return sum(len(block.operations) for function in spec.mlProgram.functions.values() for block in function.block_specializations.values())


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """As `wholefile.replacing` for a package, which is a folder."""
    temporary, old = (path.with_name(f".{path.stem}.{what}{path.suffix}") for what in ("part", "old"))
    try:
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
