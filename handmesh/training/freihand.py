"""Crops of FreiHAND's pictures, and of sets that handmesh-synth writes in its layout, as `training.data.Source`.

All hands are made right ones: left hands' pictures and numbers are mirrored when they are read. Targets are FreiHAND's own vertices
and joints; only rotations and shape come from its parameters, whose posed hand differs from them by what `notes` measures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from handmesh.errors import UserError
from handmesh.freihand import FreiHand, read_picture, split_ids
from handmesh.geometry.camera import camera_from_fov, camera_from_matrix
from handmesh.geometry.crop import CROP_PADDING, FIXED_SHARE, look_at_box, middle_box, mirror_picture, take_crop
from handmesh.hand_model import HandModel
from handmesh.hand_model.mano_params import FreiHandParams, freihand_points, freihand_to_params
from handmesh.hand_model.skinning import mirror_points
from handmesh.records import Camera
from handmesh.skeleton import JOINTS, ROOT
from handmesh.synthetic.freihand_layout import mirror_mano
from handmesh.synthetic.light import photo_paths
from handmesh.synthetic.manifest import FOLDERS, FREIHAND, MANIFEST, read_manifest
from handmesh.synthetic.scene import presence_of
from handmesh.training.command import AugmentConfig, DataConfig, FreiHandCrop
from handmesh.training.data import Batch, empty_batch, expect_arrays_of, in_order, mirrored_to_validate, permuted

MANO_VERTICES = 778
# Hands that are posed to see whether parameters and vertices are of one model.
_MEASURED_HANDS = 256
_LARGE_GAP_MM = 1.0
# Order of the pictures, beside those of shards (`data.permuted`).
_STREAM = 2
_MASK_SIGMA_PX = 1.0
_ASSUMED_FOV_DEG = 65.0


@dataclass(frozen=True)
class Hands:
    """All hands of one folder as right hands in their full pictures' cameras.

    Attributes:
        K: (n, 3, 3) intrinsics in pixels.
        xyz_m: (n, 21, 3) joints.
        verts_m: (n, V, 3) f32 vertices; None where the trained hand model is another.
        params: of the trained hand model; None where it is another.
    """

    K: np.ndarray
    xyz_m: np.ndarray
    verts_m: np.ndarray | None
    params: FreiHandParams | None


@dataclass(frozen=True)
class _Folder:
    """Pictures of one kind: right hands, left hands, or none.

    Attributes:
        pictures: the files.
        hands: None where there are none.
        is_left: the pictures are mirrored when they are read.
        presence: (P,) int64 by picture id, as the set says.
        visible: (P, 21) bool by picture id.
        training, held_out: sorted picture ids.
        start: number of the folder's first picture within the source.
    """

    pictures: FreiHand
    hands: Hands | None
    is_left: bool
    presence: np.ndarray
    visible: np.ndarray
    training: np.ndarray
    held_out: np.ndarray
    start: int


class FreiHandSource:
    """Pictures of a folder in FreiHAND's layout.

    Args:
        root: the folder that holds training/.
        config: `freihand_crop`, `backgrounds`, `background_share` and `validation_pictures` of it.
        hand_model: that is trained.
        size_px: side of the crops.

    Raises:
        UserError: a folder that is missing, broken or without hands, or too few pictures.
    """

    name = "FreiHAND"
    augment: AugmentConfig | None = None

    def __init__(self, root: Path, config: DataConfig, hand_model: HandModel, size_px: int) -> None:
        self._root, self._hand_model, self._size_px = root, hand_model, size_px
        self._crop: FreiHandCrop = config.freihand_crop
        self._background_share = config.background_share
        self._backgrounds = [] if config.backgrounds is None else photo_paths(config.backgrounds)
        self._is_own_model = _is_labelled_with(self._root, hand_model)
        self._folders = _open_folders(self._root, hand_model if self._is_own_model else None, config.validation_pictures)
        if not any(folder.hands for folder in self._folders):
            raise UserError(f"expected hands in '{self._root}', got pictures without any; give the folder of the whole set")
        # What is trained on and what is held out, through all folders: number of the folder, and picture id.
        self._training = _listed([folder.training for folder in self._folders])
        self._held_out = _listed([folder.held_out for folder in self._folders])
        if not len(self._training):
            raise UserError(
                f"expected more than data.validation_pictures = {config.validation_pictures} pictures in '{self._root}', got "
                f"{len(self._held_out)}; hold out fewer"
            )

    def __len__(self) -> int:
        """How many pictures there are to train on."""
        return len(self._training)

    def picks(self, seed: int, draws: np.ndarray) -> np.ndarray:
        """See `data.Source`."""
        return permuted(seed, _STREAM, draws, len(self))

    def read(self, picks: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray) -> Batch:
        """See `data.Source`. Random is whether a picture gets another background, and which."""
        return self._read(self._training[picks], is_mirrored, seeds)

    def validation(self, size: int) -> Iterator[Batch]:
        """See `data.Source`."""
        for start in range(0, len(self._held_out), size):
            numbers = np.arange(start, min(start + size, len(self._held_out)))
            yield self._read(self._held_out[numbers], mirrored_to_validate(numbers), None)

    def notes(self) -> list[str]:
        """See `data.Source`. Poses some hands, to see how far their vertices are from FreiHAND's."""
        hands = sum(folder.pictures.count for folder in self._folders if folder.hands)
        crops = "the annotated keypoints" if self._crop == "keypoints" else "the middle of the picture (METRO's)"
        lines = [
            f"FreiHAND: {hands} hands, {len(self)} pictures to train on, {len(self._held_out)} held out (all versions of their hands), "
            f"cropped around {crops}"
        ]
        if self._backgrounds:
            share, count = f"{self._background_share:.0%}", len(self._backgrounds)
            lines.append(f"FreiHAND: {share} of the hands are cut out and shown before one of {count} pictures")
        if not self._is_own_model:
            own = read_manifest(self._root)["hand_model"] if (self._root / MANIFEST).is_file() else "MANO"
            lines.append(f"FreiHAND without {own}: joints alone supervise '{self._hand_model.id}'; with {own} as hand_model more does")
            return lines
        gap_mm = measure_gap(self._hand_model, next(folder.hands for folder in self._folders if folder.hands))
        mean, largest = f"{gap_mm.mean():.2f} mm", f"{gap_mm.max():.2f} mm"
        lines.append(
            f"FreiHAND: vertices, joints and parameters supervise; '{self._hand_model.id}' posed with parameters of {len(gap_mm)} hands "
            f"is {mean} from their vertices, {largest} at most"
        )
        if gap_mm.max() > _LARGE_GAP_MM:
            lines.append(
                "FreiHAND: warning: more than 1 mm; vertices and joints are taken as they are, but rotations and shape disagree with them; "
                "is the hand model MANO's right hand with its mean pose, as handmesh-mano imports it?"
            )
        return lines

    def _read(self, chosen: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray | None) -> Batch:
        batches, order = [], []
        for number in np.unique(chosen[:, 0]):
            rows = np.flatnonzero(chosen[:, 0] == number)
            folder, ids = self._folders[number], chosen[rows, 1]
            chances = [None] * len(rows) if seeds is None else seeds[rows].tolist()
            images = [self._image(folder, picture, seed) for picture, seed in zip(ids.tolist(), chances, strict=True)]
            batches.append(
                _crop_pictures(folder, ids, images, is_mirrored[rows], self._crop, self._size_px, len(self._hand_model.template_m))
            )
            order.append(rows)
        return in_order(batches, order)

    def _image(self, folder: _Folder, picture: int, seed: int | None) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a right hand, perhaps before another background."""
        image = folder.pictures.image(picture)
        if seed is not None and self._backgrounds and folder.hands is not None:
            rng = np.random.default_rng(seed)
            if rng.random() < self._background_share:
                path = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
                mask = folder.pictures.mask(picture)
                if mask.shape != image.shape[:2]:
                    raise UserError(
                        f"expected a mask as large as picture {picture} of '{folder.pictures.root}', {image.shape[:2]}, got {mask.shape}; "
                        "unpack the archive again"
                    )
                image = put_before(image, mask, _part_of(_background(path), image.shape, rng))
        return mirror_picture(image) if folder.is_left else image


def measure_gap(hand_model: HandModel, hands: Hands) -> np.ndarray:
    """How well a hand model and a set agree.

    Args:
        hands: with parameters and vertices.

    Returns:
        (n,) mean distance of the vertices that the parameters of some hands pose, spread over the set, to those of the set, in mm.
    """
    assert hands.params is not None and hands.verts_m is not None
    some = np.unique(np.linspace(0, len(hands.K) - 1, _MEASURED_HANDS).astype(int))
    params = FreiHandParams(hands.params.rotmats[some], hands.params.betas[some], hands.params.root_m[some])
    posed_m, _ = freihand_points(hand_model, params)
    return 1e3 * np.linalg.norm(posed_m - hands.verts_m[some], axis=-1).mean(axis=-1)


def put_before(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """A hand cut out and shown before something else.

    Args:
        image, background: (H, W, 3) uint8.
        mask: (H, W) bool, True on the hand; its edge is softened.

    Returns:
        (H, W, 3) uint8.
    """
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), _MASK_SIGMA_PX)
    return cv2.blendLinear(image, background, alpha, 1 - alpha)


def look_at(points_m: np.ndarray, size_px: int, padding: float = CROP_PADDING) -> tuple[np.ndarray, np.ndarray]:
    """`geometry.crop.look_at_points` of many hands at once, by their points in space.

    Args:
        points_m: (N, P, 3) in the full cameras.
        size_px: side S of the crops.
        padding: side of the crop over the larger side of the points' box.

    Returns:
        (N, 3, 3) `R_camera_crop`, and (N,) focal lengths of the crop cameras in pixels.
    """
    rays = points_m / points_m[..., 2:]
    R_camera_crop = _turned_to(rays.min(axis=1) + rays.max(axis=1))
    for _ in range(8):
        low, high = _seen_box(rays, R_camera_crop)
        middle = np.concatenate([(low + high) / 2, np.ones((len(rays), 1))], axis=1)
        R_camera_crop = _turned_to((R_camera_crop @ middle[..., None])[..., 0])
    low, high = _seen_box(rays, R_camera_crop)
    return R_camera_crop, size_px / (padding * np.maximum((high - low).max(axis=1), 1e-9))


def _seen_box(rays: np.ndarray, R_camera_crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, 2) of the box around rays (N, P, 3), at unit depth of turned cameras."""
    seen = rays @ R_camera_crop
    xy = seen[..., :2] / seen[..., 2:]
    return xy.min(axis=1), xy.max(axis=1)


def _turned_to(directions: np.ndarray) -> np.ndarray:
    """(N, 3, 3) smallest rotations of z to directions (N, 3) before the camera; see `rotation.shortest_arc`."""
    x, y, z = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    share = 1 / (1 + z)
    rows = [1 - x * x * share, -x * y * share, x, -x * y * share, 1 - y * y * share, y, -x, -y, z]
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


def _crop_pictures(
    folder: _Folder,
    ids: np.ndarray,
    images: list[np.ndarray],
    is_mirrored: np.ndarray,
    crop: FreiHandCrop,
    size_px: int,
    vertices: int,
) -> Batch:
    """Pictures of one folder with their labels turned into the crop cameras."""
    batch = empty_batch(len(ids), size_px, vertices)
    batch.index.copy_(torch.from_numpy(folder.start + ids))
    heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (0, 1))
    # Without keypoints: METRO's square, or as large as can be.
    share = FIXED_SHARE if crop == "fixed" else 1.0
    if folder.hands is None:
        for row, image in enumerate(images):
            full = camera_from_fov(image.shape[1], image.shape[0], _ASSUMED_FOV_DEG, is_known=False)
            seen = take_crop(image, full, *look_at_box(middle_box(full, share), full, size_px, padding=1.0), bool(is_mirrored[row]))
            batch.crops[row] = torch.from_numpy(seen.image)
        batch.presence.copy_(torch.from_numpy(folder.presence[ids]))
        return batch

    hands, numbers = folder.hands, ids % folder.pictures.count
    K, xyz_m = hands.K[numbers], hands.xyz_m[numbers]
    cameras = [camera_from_matrix(k, int(width), int(height)) for k, width, height in zip(K, widths, heights, strict=True)]
    if crop == "keypoints":
        R_camera_crop, focal_px = look_at(xyz_m, size_px)
    else:
        looks = [look_at_box(middle_box(camera, share), camera, size_px, padding=1.0) for camera in cameras]
        R_camera_crop = np.stack([R for _, R in looks])
        focal_px = np.array([camera.fx for camera, _ in looks])
    middle_px = (size_px - 1) / 2
    for row, (image, camera) in enumerate(zip(images, cameras, strict=True)):
        crop_camera = Camera(float(focal_px[row]), float(focal_px[row]), middle_px, middle_px, size_px, size_px)
        seen = take_crop(image, camera, crop_camera, R_camera_crop[row], bool(is_mirrored[row]))
        batch.crops[row] = torch.from_numpy(seen.image)

    seen_m = xyz_m @ R_camera_crop
    keypoints_px = seen_m[..., :2] / seen_m[..., 2:] * focal_px[:, None, None] + middle_px
    full_px = (xyz_m @ K.transpose(0, 2, 1))[..., :2] / xyz_m[..., 2:]
    inside = _is_inside(full_px, widths[:, None], heights[:, None]) & _is_inside(keypoints_px, size_px, size_px)
    presence = folder.presence[ids]
    # Who made the set judged the whole picture: the crop may hold less of the hand.
    in_crop = np.array([presence_of(row) for row in inside & folder.visible[ids]])
    presence = np.where(presence == 1, in_crop, presence)
    there = presence == 1
    mine = there & ~is_mirrored
    keypoints_px[is_mirrored, :, 0] = size_px - 1 - keypoints_px[is_mirrored, :, 0]

    def fill(target: torch.Tensor, values: np.ndarray, holds: np.ndarray) -> None:
        target[torch.from_numpy(holds)] = torch.from_numpy(values[holds].astype(np.float32))

    fill(batch.focal_px, focal_px, there)
    fill(batch.keypoints_px, keypoints_px, there)
    root_m = seen_m[:, ROOT]
    fill(batch.root_m, root_m, mine)
    fill(batch.joints_m, seen_m - root_m[:, None], mine)
    if hands.params is not None:
        rotmats = hands.params.rotmats[numbers]
        rotmats[:, 0] = R_camera_crop.transpose(0, 2, 1) @ rotmats[:, 0]
        fill(batch.rotmats, rotmats, mine)
        fill(batch.betas, hands.params.betas[numbers], mine)
        batch.has_params.copy_(torch.from_numpy(mine))
    if hands.verts_m is not None:
        # Relative first, so that single precision is enough.
        relative_m = hands.verts_m[numbers] - xyz_m[:, ROOT : ROOT + 1].astype(np.float32)
        fill(batch.vertices_m, relative_m @ R_camera_crop.astype(np.float32), mine)
        batch.has_vertices.copy_(torch.from_numpy(mine))
    batch.has_keypoints.copy_(torch.from_numpy(there))
    batch.has_joints.copy_(torch.from_numpy(mine))
    batch.presence.copy_(torch.from_numpy(presence))
    batch.right.copy_(torch.from_numpy(np.where(there, ~is_mirrored, -1)))
    return batch


def _is_inside(pixels: np.ndarray, width: int | np.ndarray, height: int | np.ndarray) -> np.ndarray:
    """(...) bool for (..., 2): within the picture's edges, half a pixel beyond its outer pixels' centres."""
    x, y = pixels[..., 0], pixels[..., 1]
    return (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)


# Files


def _is_labelled_with(root: Path, hand_model: HandModel) -> bool:
    """Whether a folder's parameters and vertices are the hand model's: as its manifest says, or MANO's in FreiHAND itself."""
    if (root / MANIFEST).is_file():
        manifest = read_manifest(root, FREIHAND)
        if manifest["hand_model"] != hand_model.id:
            return False
        expect_arrays_of(hand_model, manifest, root)
        return True
    return hand_model.id.startswith("mano") and len(hand_model.template_m) == MANO_VERTICES


def _open_folders(root: Path, hand_model: HandModel | None, validation_pictures: int) -> list[_Folder]:
    """All pictures under a root; parameters and vertices only where they are those of `hand_model`."""
    roots = [root]
    if (root / MANIFEST).is_file():
        roots = [root / name for name in FOLDERS.values() if (root / name / "training").is_dir()]
    found = [FreiHand(folder) for folder in roots]
    share = min(1.0, validation_pictures / max(1, sum(map(len, found))))
    folders, start = [], 0
    for pictures in found:
        training, held_out = split_ids(pictures.count, pictures.versions, share)
        side = pictures.side if pictures.has("side") else None
        folders.append(
            _Folder(
                pictures=pictures,
                hands=_read_hands(pictures, hand_model) if pictures.has("K") else None,
                is_left=side is not None and side[0].is_right is False,
                presence=np.ones(len(pictures), np.int64) if side is None else np.array([each.presence for each in side]),
                visible=np.ones((len(pictures), len(JOINTS)), bool) if side is None else np.array([each.visible for each in side], bool),
                training=training,
                held_out=held_out,
                start=start,
            )
        )
        start += len(pictures)
    return folders


def _read_hands(pictures: FreiHand, hand_model: HandModel | None) -> Hands:
    """A folder's annotations, mirrored where they are left hands'."""
    is_left = pictures.has("side") and pictures.side[0].is_right is False
    K, xyz_m = pictures.K, pictures.xyz_m
    mano = pictures.mano if hand_model is not None else None
    verts_m = pictures.verts_m if hand_model is not None else None
    if hand_model is not None and verts_m is not None and verts_m.shape[1] != len(hand_model.template_m):
        raise UserError(
            f"expected {len(hand_model.template_m)} vertices a hand in '{pictures.root}', as '{hand_model.id}' has, got "
            f"{verts_m.shape[1]}; set hand_model to the model that the set was made with"
        )
    if is_left:
        width = pictures.image(0).shape[1]
        K = K.copy()
        K[:, 0, 2] = width - 1 - K[:, 0, 2]
        xyz_m = mirror_points(xyz_m)
        verts_m = None if verts_m is None else mirror_points(verts_m)
        mano = None if mano is None else mirror_mano(mano, width)
    if hand_model is None or mano is None:
        return Hands(K, xyz_m, verts_m, None)
    params = freihand_to_params(hand_model, mano, K)
    return Hands(K, xyz_m, verts_m, FreiHandParams(params.rotmats.astype(np.float32), params.betas.astype(np.float32), params.root_m))


def _listed(ids: list[np.ndarray]) -> np.ndarray:
    """(P, 2): number of the folder and picture id, folder by folder."""
    return np.concatenate([np.stack([np.full(len(some), number), some], axis=1) for number, some in enumerate(ids)])


@functools.lru_cache(maxsize=256)
def _background(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, of a size to be kept."""
    try:
        # Large files are large pictures: decoding them at a quarter of their size is several times as fast.
        flags = cv2.IMREAD_REDUCED_COLOR_4 if path.stat().st_size > 1_500_000 else cv2.IMREAD_COLOR
        picture = read_picture(path, flags)
    except (OSError, UserError) as error:
        raise UserError(f"expected pictures in data.backgrounds, got '{path}', which cannot be read; mend it or take it away") from error
    shrink = 512 / min(picture.shape[:2])
    if shrink < 1:
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _part_of(picture: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture, perhaps mirrored, in another picture's shape (H, W, 3)."""
    height, width = picture.shape[:2]
    scale = rng.uniform(0.4, 1.0) * min(height / shape[0], width / shape[1])
    h, w = max(1, int(scale * shape[0])), max(1, int(scale * shape[1]))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    part = cv2.resize(picture[y : y + h, x : x + w], (shape[1], shape[0]), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
    return mirror_picture(part) if rng.random() < 0.5 else part
