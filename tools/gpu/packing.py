"""What a GPU run takes along: photographs, strongly compressed, and small panoramas, in one folder.

    python tools/gpu/packing.py PHOTOGRAPHS HDRI OUT

PHOTOGRAPHS is what tools/pack_photographs.py wrote (128 px), HDRI a folder of panoramas.

    OUT/photographs.bin    WebP images, one after the other
    OUT/photographs.npz    labels (handmesh.photographs.LABEL_DTYPE) and ends (N,) of the images in bytes
    OUT/photographs.json   the manifest of the photographs
    OUT/hdri/*.hdr         512 x 256
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from handmesh.cli import guard
from handmesh.errors import UserError, one_line
from handmesh.photographs import MANIFEST, TRAINING, Origin, PhotographReader, write_photographs
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import panorama_paths

LARGEST_BYTES = 20 * 2**20
LARGEST_TOTAL_BYTES = 60 * 2**20
SIZE_PX = 128
# Of these origins every so many-th training photograph is kept: many of few people.
THINNED = {"emre": 3}
_PANORAMA_PX = (512, 256)
_QUALITIES = (70, 60, 50, 40, 35, 30, 25, 20, 15, 10, 5, 1)
_SAMPLE_EVERY = 16


def pack(photographs: Path, hdri: Path, out: Path, root: Path) -> None:
    """Write the folder, with the best quality of images that it has room for; one that is there stays until the new one is whole.

    Args:
        root: of the repository, whose tracked files travel as well.

    Raises:
        UserError: bad input, a folder with other files, or too much of it.
    """
    reader = PhotographReader(photographs)
    if reader.size_px != SIZE_PX:
        raise UserError(f"expected photographs of {SIZE_PX} px in '{photographs}', got {reader.size_px}; pack them with --size {SIZE_PX}")
    if out.exists() and any(out.iterdir()) and not (out / "photographs.json").is_file():
        raise UserError(f"expected an empty folder, got '{out}', which holds other files; choose another")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        said = _write(reader, hdri, part, root)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"'{out}': {said}")


def _write(reader: PhotographReader, hdri: Path, out: Path, root: Path) -> str:
    """Write the files; what they hold, in words."""
    (out / "hdri").mkdir(parents=True)
    for path in panorama_paths(hdri, SynthConfig()):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise UserError(f"expected a panorama, got '{path}', which cannot be read; take it away")
        cv2.imwrite(str(out / "hdri" / path.name), cv2.resize(picture.astype(np.float32), _PANORAMA_PX, interpolation=cv2.INTER_AREA))
    kept = kept_photographs(reader)
    # A detector is less exact than this, and rounded numbers compress.
    labels = reader.labels[kept].copy()
    labels["landmarks_px"] = np.round(labels["landmarks_px"] * 16) / 16
    np.savez_compressed(out / "photographs.npz", labels=labels, ends=np.zeros(len(kept), np.int64))
    manifest = {"hand_model": reader.hand_model, "origins": [asdict(origin) for origin in reader.origins]}
    (out / "photographs.json").write_text(json.dumps(manifest, indent=1) + "\n")
    # Ends of images take 2 bytes and some each when compressed.
    room = LARGEST_BYTES - folder_bytes(out) - 3 * len(kept)
    images = reader.images(kept)
    sample = images[::_SAMPLE_EVERY]
    for quality in _QUALITIES:
        if sum(map(len, encoded(sample, quality))) * len(images) / len(sample) > room:
            continue
        files = encoded(images, quality)
        if sum(map(len, files)) <= room:
            break
    else:
        raise UserError(f"expected photographs and panoramas that fit into {LARGEST_BYTES >> 20} MiB, got more; give fewer")
    (out / "photographs.bin").write_bytes(b"".join(files))
    np.savez_compressed(out / "photographs.npz", labels=labels, ends=np.cumsum([len(file) for file in files]))
    size, tree = folder_bytes(out), tracked_bytes(root)
    if size > LARGEST_BYTES or size + tree > LARGEST_TOTAL_BYTES:
        raise UserError(
            f"expected at most {LARGEST_BYTES >> 20} MiB, and {LARGEST_TOTAL_BYTES >> 20} with the tracked files, "
            f"got {size / 2**20:.1f} and {(size + tree) / 2**20:.1f}; give fewer photographs or panoramas"
        )
    whole = f"{size / 2**20:.1f} MiB, with the tracked files {(size + tree) / 2**20:.1f}"
    return f"{len(kept)} photographs of WebP quality {quality}, {whole}"


def kept_photographs(reader: PhotographReader) -> np.ndarray:
    """(M,) indices without those that `THINNED` leaves out."""
    is_kept = np.ones(len(reader), bool)
    for number, origin in enumerate(reader.origins):
        if origin.name in THINNED:
            rows = np.flatnonzero((reader.labels["origin"] == number) & (reader.labels["split"] == TRAINING))
            is_kept[np.delete(rows, np.s_[:: THINNED[origin.name]])] = False
    return np.flatnonzero(is_kept)


def encoded(images: np.ndarray, quality: int) -> list[bytes]:
    """WebP files of (N, S, S, 3) uint8 RGB."""
    return [cv2.imencode(".webp", image[..., ::-1], (cv2.IMWRITE_WEBP_QUALITY, quality))[1].tobytes() for image in images]


def folder_bytes(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tracked_bytes(root: Path) -> int:
    """Of the repository's tracked files.

    Raises:
        UserError: no repository.
    """
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"expected a git repository in '{root}', whose files are counted ({one_line(error)}); run this in a clone"
        ) from error
    return sum((root / name).stat().st_size for name in names.split("\0") if name and (root / name).is_file())


def unpack(folder: Path, work: Path) -> tuple[Path, Path]:
    """The photographs of a packed folder as `PhotographReader` reads them; once for each content.

    Args:
        folder: what `pack` wrote.
        work: where folders for the photographs are made.

    Returns:
        Folders of the photographs and of the panoramas.

    Raises:
        UserError: no such folder, or a damaged one.
    """
    try:
        files = (folder / "photographs.bin").read_bytes()
        manifest = json.loads((folder / "photographs.json").read_text())
        with np.load(folder / "photographs.npz") as arrays:
            labels, ends = arrays["labels"], arrays["ends"]
        origins = [Origin(**origin) for origin in manifest["origins"]]
        model = manifest["hand_model"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"expected a folder of tools/gpu/pack.sh, got '{folder}' ({one_line(error)}); make it again") from error
    photographs = work / hashlib.sha256(files + labels.tobytes()).hexdigest()[:12]
    if not (photographs / MANIFEST).is_file():
        starts = np.concatenate([[0], ends])[:-1]
        if not len(ends) or len(files) != ends[-1]:
            raise UserError(
                f"expected {ends[-1:].sum()} bytes of WebP in '{folder / 'photographs.bin'}', got {len(files)}; make the folder again"
            )
        images = [
            cv2.imdecode(np.frombuffer(files[start:end], np.uint8), cv2.IMREAD_COLOR) for start, end in zip(starts, ends, strict=True)
        ]
        if any(image is None for image in images):
            raise UserError(f"expected WebP images in '{folder / 'photographs.bin'}', got a damaged one; make the folder again")
        write_photographs(photographs, np.stack(images)[..., ::-1], labels, origins, model)
    return photographs, folder / "hdri"


def main(argv: Sequence[str]) -> None:
    if len(argv) != 3:
        raise UserError(f"expected PHOTOGRAPHS, HDRI and OUT, got {len(argv)} arguments; see the top of this file")
    photographs, hdri, out = map(Path, argv)
    pack(photographs, hdri, out, Path(__file__).resolve().parents[2])


if __name__ == "__main__":
    sys.exit(guard("packing", main))
