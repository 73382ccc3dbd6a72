"""Pictures in FreiHAND's layout, format "handmesh-freihand-1", for everything that reads FreiHAND; `handmesh.freihand` does.

    DIR/training/...                       right hands, exactly as FreiHAND's training split
    DIR/left/training/...                  left hands: mirrored pictures with their own coordinates and left-hand parameters
    DIR/negative/training/rgb              pictures without a hand
    DIR/[left/|negative/]training_side.json   what FreiHAND does not say, one entry a picture (`handmesh.freihand.Side`)
    DIR/labels.npy, kinds.npy              (count,) scene.LABEL_DTYPE and index into KINDS, by index of the set
    DIR/manifest.json

Numbers of a left hand are mirrored (x -> -x, W-1-x in pixels, rotation vectors (a, b, c) -> (a, -b, -c)). In labels.npy only its
`keypoints_px` are: `rotmats`, `betas` and `root_m` are always those of the right-hand model in the mirrored picture.
Workers leave the text of a block's annotations in "blocks/", renamed into place when its pictures are written; the long JSON files are
joined from those at the end, so nothing grows with the set.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.freihand import Annotation, Side, read_picture, text_template
from handmesh.geometry.crop import mirror_picture
from handmesh.geometry.rotation import mirror_rotvec
from handmesh.hand_model import HandModel
from handmesh.hand_model.mano_params import FreiHandParams, freihand_points, params_to_freihand
from handmesh.hand_model.skinning import mirror_points
from handmesh.skeleton import JOINTS
from handmesh.synthetic.config import PictureSet
from handmesh.synthetic.manifest import FOLDERS, FREIHAND, expect_complete, read_manifest, write_manifest
from handmesh.synthetic.scene import LABEL_DTYPE, POSE_KINDS, kind_of
from handmesh.synthetic.sets import Draw, blocks_of
from handmesh.wholefile import replacing

KINDS = ("right", "left", "negative")
_NUMBERS = ("K", "mano", "xyz", "verts", "scale")
# Significant digits: 0.1 micrometres of a vertex, and less than a thousandth of a pixel.
_DIGITS = {"K": 9, "mano": 9, "xyz": 9, "verts": 7, "scale": 9}
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 96)
_MASK_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95)
_BONE = (JOINTS.index("middle_mcp"), JOINTS.index("middle_pip"))


def kinds_of(pictures: PictureSet) -> np.ndarray:
    """(count,) u1 index into KINDS of every picture, before any is drawn: their numbers in the folders follow from it."""
    kinds = (KINDS.index(kind_of(pictures.pictures, pictures.seed, index)) for index in range(pictures.count))
    return np.fromiter(kinds, np.uint8, pictures.count)


def numbers_in_folder(kinds: np.ndarray) -> np.ndarray:
    """(count,) how many pictures of the same kind come before each one."""
    numbers = np.zeros(len(kinds), np.int64)
    for kind in range(len(KINDS)):
        numbers[kinds == kind] = np.arange(int((kinds == kind).sum()))
    return numbers


def annotate(model: HandModel, label: np.ndarray, width_px: int, height_px: int, is_left: bool) -> Annotation:
    """FreiHAND's annotation of a rendered hand.

    Args:
        model: f64, the right-hand model that the label's parameters are meant for.
        label: () LABEL_DTYPE of the picture as drawn, which shows a right hand.
        is_left: whether the picture will be mirrored; all numbers are then those of the left hand in it.
    """
    focal_px = float(label["focal_px"])
    K = np.array([[focal_px, 0, (width_px - 1) / 2], [0, focal_px, (height_px - 1) / 2], [0, 0, 1]])
    params = FreiHandParams(*(label[name].astype(np.float64) for name in ("rotmats", "betas", "root_m")))
    mano = params_to_freihand(model, params, K)
    verts_m, xyz_m = freihand_points(model, params)
    scale_m = float(np.linalg.norm(xyz_m[_BONE[0]] - xyz_m[_BONE[1]]))
    if is_left:
        verts_m, xyz_m, mano = mirror_points(verts_m), mirror_points(xyz_m), mirror_mano(mano, width_px)
    return Annotation(K, xyz_m, verts_m, mano, scale_m)


def mirror_mano(mano: np.ndarray, width_px: int) -> np.ndarray:
    """FreiHAND's (..., 61) numbers of the hand in the mirrored picture. Its own inverse; the camera looks at the picture's middle."""
    turned = mirror_rotvec(mano[..., :48].reshape(*mano.shape[:-1], 16, 3)).reshape(*mano.shape[:-1], 48)
    return np.concatenate([turned, mano[..., 48:58], width_px - 1 - mano[..., 58:59], mano[..., 59:]], axis=-1)


def _entry_texts(annotation: Annotation) -> dict[str, str]:
    """One entry of each of FreiHAND's files."""
    values = {
        "K": annotation.K,
        "mano": annotation.mano[None],
        "xyz": annotation.xyz_m,
        "verts": annotation.verts_m,
        "scale": np.array(annotation.scale_m),
    }
    return {name: text_template(value.shape, f"%.{_DIGITS[name]}g") % tuple(value.ravel().tolist()) for name, value in values.items()}


def _side_text(index: int, kind: str, label: np.ndarray) -> str:
    is_hand = kind != "negative"
    side = Side(
        index=index,
        is_right=kind == "right" if is_hand else None,
        presence=int(label["presence"]),
        visible=tuple(label["visible"].tolist()),
        seen=round(float(label["seen"]), 4),
        tone=round(float(label["tone"]), 4),
        pose=POSE_KINDS[label["pose"]] if is_hand and label["pose"] < len(POSE_KINDS) else None,
    )
    return json.dumps(asdict(side))


def _write_jpeg(path: Path, picture: np.ndarray, options: tuple[int, ...]) -> None:
    # Not cv2.imwrite, which says nothing of a full disk.
    path.write_bytes(cv2.imencode(".jpg", picture, options)[1].tobytes())


@dataclass(frozen=True)
class LayoutJob:
    """Writes pictures, masks and the text of annotations.

    Attributes:
        folder: of the set.
        model: f64, whose parameters and vertices are written.
        kinds: (count,) of `kinds_of`.
        numbers: (count,) of `numbers_in_folder`.
        versions: colourings of each picture.
    """

    folder: Path
    model: HandModel
    kinds: np.ndarray
    numbers: np.ndarray
    versions: int

    def write(self, block: range, draw: Draw) -> None:
        """See `sets.BlockJob`."""
        labels, texts = np.zeros(len(block), LABEL_DTYPE), {}
        for row, index in enumerate(block):
            labels[row] = self._write_index(index, draw, texts)
        joined = {name: np.frombuffer(", ".join(parts).encode(), np.uint8) for name, parts in texts.items()}
        with replacing(_block_file(self.folder, block)) as temporary:
            np.savez(temporary, labels=labels, **joined)

    def _write_index(self, index: int, draw: Draw, texts: dict[str, list[str]]) -> np.ndarray:
        """One hand in all its colourings; adds to `texts`, and gives the label as `labels.npy` holds it."""
        kind, number = KINDS[self.kinds[index]], int(self.numbers[index])
        of_kind = int((self.kinds == self.kinds[index]).sum())
        is_left = kind == "left"
        folder = self.folder / FOLDERS[kind] / "training"
        first = None
        for version in range(self.versions):
            sample = draw(index, version)
            first = sample if first is None else first
            image = mirror_picture(sample.image) if is_left else sample.image
            _write_jpeg(folder / "rgb" / f"{number + version * of_kind:08d}.jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)
            texts.setdefault(f"{kind}.side.{version}", []).append(_side_text(index, kind, sample.label))
        assert first is not None
        label = first.label.copy()
        if kind != "negative":
            height_px, width_px = first.mask.shape
            _write_jpeg(folder / "mask" / f"{number:08d}.jpg", mirror_picture(first.mask[..., None]) if is_left else first.mask, _MASK_JPEG)
            for name, text in _entry_texts(annotate(self.model, label, width_px, height_px, is_left)).items():
                texts.setdefault(f"{kind}.{name}", []).append(text)
            if is_left:
                label["keypoints_px"][:, 0] = width_px - 1 - label["keypoints_px"][:, 0]
        return label


def _block_file(folder: Path, block: range) -> Path:
    return folder / "blocks" / f"{block.start:09d}.npz"


def bytes_a_picture(width_px: int, height_px: int, versions: int, vertices: int) -> float:
    """Room on disk that one index with all its versions takes, a little generous."""
    pixels = width_px * height_px
    # The text is there twice while it is joined, 12 bytes a number.
    text = 2 * 12 * 3 * (vertices + 64) + 2 * LABEL_DTYPE.itemsize + 400 * versions
    return 0.9 * pixels * versions + 0.15 * pixels + text


class LayoutWriter:
    """Makes the folders, and joins what the workers left.

    Args:
        folder: of the set.
        manifest: of `sets.open_set`; kept up to date.
        pictures: what the set is to hold.
        model: whose parameters the labels are.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], pictures: PictureSet, model: HandModel) -> None:
        self._folder, self._manifest = folder, manifest
        path = folder / "kinds.npy"
        if path.exists():
            kinds = np.load(path)
        else:
            kinds = kinds_of(pictures)
            with replacing(path) as temporary:
                np.save(temporary, kinds)
        self.job = LayoutJob(folder, model.astype(np.float64), kinds, numbers_in_folder(kinds), pictures.versions)

    def todo(self) -> list[range]:
        """See `sets.SetWriter`."""
        if self._manifest["pieces"]:
            return []
        return [block for block in self._blocks() if not _block_file(self._folder, block).exists()]

    def begin(self, block: range) -> None:
        """See `sets.SetWriter`."""
        (self._folder / "blocks").mkdir(exist_ok=True)
        for kind in np.unique(self.job.kinds[block.start : block.stop]):
            for name in ("rgb",) if KINDS[kind] == "negative" else ("rgb", "mask"):
                (self._folder / FOLDERS[KINDS[kind]] / "training" / name).mkdir(parents=True, exist_ok=True)

    def done(self, block: range) -> None:
        """See `sets.SetWriter`: the block's own file says it."""

    def close(self) -> None:
        """See `sets.SetWriter`. Joins the blocks' texts and labels, block by block."""
        if not self._manifest["pieces"]:
            self._join()
        shutil.rmtree(self._folder / "blocks", ignore_errors=True)

    def _blocks(self) -> list[range]:
        return blocks_of(0, self._manifest["count"])

    def _join(self) -> None:
        kinds = self.job.kinds
        there = [kind for number, kind in enumerate(KINDS) if (kinds == number).any()]
        sums = {kind: hashlib.sha256() for kind in there}
        with ExitStack() as stack:

            def new_file(path: Path):
                return stack.enter_context(stack.enter_context(replacing(path)).open("wb"))

            # Names of the text in a block; the pictures' ids go through all hands before the next colouring.
            files = {
                f"{kind}.{name}": new_file(self._folder / FOLDERS[kind] / f"training_{name}.json")
                for kind in there
                for name in (("side",) if kind == "negative" else (*_NUMBERS, "side"))
            }
            labels = new_file(self._folder / "labels.npy")
            header = {"descr": np.lib.format.dtype_to_descr(LABEL_DTYPE), "fortran_order": False, "shape": (len(kinds),)}
            np.lib.format.write_array_header_1_0(labels, header)
            between = dict.fromkeys(files, b"[")
            for version in range(self.job.versions):
                for block in self._blocks():
                    with np.load(_block_file(self._folder, block)) as arrays:
                        for name, file in files.items():
                            text = f"{name}.{version}" if name.endswith(".side") else name
                            if text in arrays and (version == 0 or text != name):
                                file.write(between[name] + arrays[text].tobytes())
                                between[name] = b", "
                        if version == 0:
                            rows = arrays["labels"]
                            labels.write(rows.tobytes())
                            for kind in there:
                                sums[kind].update(rows[kinds[block.start : block.stop] == KINDS.index(kind)].tobytes())
            for file in files.values():
                file.write(b"]")
        counts = {kind: int((kinds == KINDS.index(kind)).sum()) for kind in there}
        self._manifest["pieces"] = [{"name": kind, "count": counts[kind], "labels_sha256": sums[kind].hexdigest()} for kind in there]
        write_manifest(self._folder, self._manifest)


class LayoutReader:
    """A whole set, all three folders, by index; a `sheet.Pictures`. `handmesh.freihand.FreiHand` reads one folder as FreiHAND's.

    Args:
        folder: a set of pictures in FreiHAND's layout.

    Raises:
        UserError: not such a set, an incomplete one, or files that do not fit the manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, FREIHAND)
        expect_complete(self.folder, self.manifest, sum(entry["count"] for entry in self.manifest["pieces"]))
        self._kinds = self._load("kinds", np.dtype(np.uint8))
        self._labels = self._load("labels", LABEL_DTYPE)
        self._numbers = numbers_in_folder(self._kinds)

    def _load(self, name: str, dtype: np.dtype) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"expected '{path}', but it cannot be read ({error}); delete it and draw it again") from error
        if array.dtype != dtype or array.shape != (self.manifest["count"],):
            raise UserError(
                f"expected {self.manifest['count']} {dtype} in '{path}', got {array.shape} {array.dtype}; delete it and draw it again"
            )
        return array

    def __len__(self) -> int:
        """How many indices there are; each has `manifest["versions"]` pictures."""
        return len(self._kinds)

    def image(self, index: int, /, version: int = 0) -> np.ndarray:
        """(H, W, 3) uint8 RGB, mirrored where `is_left`."""
        if not 0 <= version < self.manifest["versions"]:
            raise IndexError(f"expected a version in 0..{self.manifest['versions'] - 1}, got {version}")
        of_kind = int((self._kinds == self._kinds[index]).sum())
        path = self._path("rgb", index, int(self._numbers[index]) + version * of_kind)
        return cv2.cvtColor(read_picture(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def label(self, index: int, /) -> np.ndarray:
        """() LABEL_DTYPE of the first colouring; `keypoints_px` fit the picture."""
        return self._labels[index]

    def labels(self) -> np.ndarray:
        """(count,) LABEL_DTYPE, memory-mapped."""
        return self._labels

    def is_left(self, index: int, /) -> bool:
        """Whether the picture shows a left hand."""
        return KINDS[self._kinds[index]] == "left"

    def overlay(self, index: int, /) -> np.ndarray:
        """(H, W) uint8, 1 on the hand."""
        if KINDS[self._kinds[index]] == "negative":
            return np.zeros((self.manifest["size_px"], self.manifest["width_px"]), np.uint8)
        mask = read_picture(self._path("mask", index, int(self._numbers[index])), cv2.IMREAD_GRAYSCALE)
        return (mask >= 128).astype(np.uint8)

    def _path(self, name: str, index: int, number: int) -> Path:
        return self.folder / FOLDERS[KINDS[self._kinds[index]]] / "training" / name / f"{number:08d}.jpg"
