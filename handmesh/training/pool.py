"""Sources that keep their images and labels on the training device, where a batch costs the CPU next to nothing.

`RenderedPool` holds a moving window of rendered images, `PhotographPool` all photographs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from handmesh.errors import UserError
from handmesh.hand_model import HandModel
from handmesh.photographs import PhotographReader
from handmesh.synthetic.stream import BLOCK_IMAGES, ImageStream
from handmesh.training.command import AugmentConfig
from handmesh.training.data import Batch, mirrored_to_validate, read_shards
from handmesh.training.photographs import PhotographSource

# Growth is counted in millionths, so that it is exact.
GROWTH_PARTS = 1_000_000
_COMPACT = {"parts": torch.uint8, "depth_m": torch.float16}
_FILL_IMAGES = 1024


@dataclass(frozen=True)
class Window:
    """Which rendered images a draw may show: a function of the number of the draw alone.

    Attributes:
        first: images that are there before the first draw.
        capacity: images that are there at most; the oldest go.
        growth: new images a million draws.
    """

    first: int
    capacity: int
    growth: int

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.capacity or self.growth < 0:
            raise UserError(f"expected 0 < first <= capacity and a growth of at least 0, got {self}; change them")

    def ends(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the window's first image and the one after its last, for draws number (N,)."""
        high = self.first + draws * self.growth // GROWTH_PARTS
        return np.maximum(high - self.capacity, 0), high


def scrambled(seed: int, numbers: np.ndarray, stream: int = 0) -> np.ndarray:
    """(N,) uint64, evenly distributed, a function of seed, stream and each number alone (SplitMix64, Steele et al. 2014)."""
    start = np.uint64(np.random.SeedSequence([seed % 2**64, stream]).generate_state(1, np.uint64)[0])
    with np.errstate(over="ignore"):
        x = start + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def mirror_some(batch: Batch, is_mirrored: Tensor) -> Batch:
    """The batch with some of its right hands shown as left ones: x -> S-1-x, and no 3D labels.

    Args:
        is_mirrored: (N,) bool, on the batch's device.
    """
    side = batch.crops.shape[1]

    def flipped(values: Tensor) -> Tensor:
        return torch.where(is_mirrored.view(-1, 1, 1, *(1,) * (values.ndim - 3)), values.flip(2), values)

    def where(values: Tensor, otherwise: float = 0.0) -> Tensor:
        return torch.where(is_mirrored.view(-1, *(1,) * (values.ndim - 1)), torch.full_like(values, otherwise), values)

    moved_px = torch.stack([side - 1 - batch.keypoints_px[..., 0], batch.keypoints_px[..., 1]], dim=-1)
    has_flipped = is_mirrored & batch.has_keypoints
    right = torch.where(is_mirrored & (batch.right == 1), 0, batch.right)
    gone = {name: getattr(batch, name) & ~is_mirrored for name in ("has_joints", "has_params", "has_vertices")}
    return replace(
        batch,
        crops=flipped(batch.crops),
        parts=flipped(batch.parts),
        depth_m=flipped(batch.depth_m),
        keypoints_px=torch.where(has_flipped[:, None, None], moved_px, batch.keypoints_px),
        param_weight=where(batch.param_weight, 1.0),
        right=right,
        **{name: where(getattr(batch, name)) for name in ("joints_m", "root_m", "rotmats", "betas", "vertices_m")},
        **gone,
    )


class DeviceStore:
    """Rows of a `Batch` on a device, the large labels in small types.

    Args:
        rows: how many.
        device: where.
    """

    def __init__(self, rows: int, device: torch.device | str) -> None:
        self._rows, self._device = rows, torch.device(device)
        self._tensors: dict[str, Tensor] = {}

    def put(self, rows: np.ndarray, batch: Batch) -> None:
        """Write a batch on the CPU into rows (N,)."""
        index = self._moved(torch.from_numpy(rows))
        for field in fields(Batch):
            values = getattr(batch, field.name)
            values = values.to(_COMPACT.get(field.name, values.dtype))
            if field.name not in self._tensors:
                self._tensors[field.name] = torch.zeros((self._rows, *values.shape[1:]), dtype=values.dtype, device=self._device)
            self._tensors[field.name].index_copy_(0, index, self._moved(values))

    def take(self, rows: np.ndarray) -> Batch:
        """The batch in rows (N,), on the device."""
        index = self._moved(torch.from_numpy(rows))
        taken = {name: values.index_select(0, index) for name, values in self._tensors.items()}
        return Batch(**{**taken, "parts": taken["parts"].long(), "depth_m": taken["depth_m"].float()})

    def _moved(self, values: Tensor) -> Tensor:
        if self._device.type == "cuda":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values


class RenderedPool:
    """A window of rendered images that moves on while a network trains; a `data.Source`.

    Draw d shows an image of the window of d, any of them alike: a function of the seed and of d alone. A reader waits for images that
    are not rendered yet.

    Args:
        stream: of the images; its ring holds the window's capacity, and as much more as is rendered ahead.
        window: which of its images (without those of validation) a draw may show.
        hand_model: that is trained.
        size_px: side of the crops, at most that of the images.
        device: that trains.
    """

    name = "rendered"
    augment: AugmentConfig | None = None

    def __init__(self, stream: ImageStream, window: Window, hand_model: HandModel, size_px: int, device: torch.device | str) -> None:
        self._ahead = stream.plan.ring - window.capacity
        if self._ahead < 4 * BLOCK_IMAGES:
            raise UserError(
                f"expected a ring of at least {window.capacity + 4 * BLOCK_IMAGES} images for a window of {window.capacity}, "
                f"got {stream.plan.ring}; enlarge it"
            )
        self._stream, self.window = stream, window
        self._hand_model, self._size_px, self._device = hand_model, size_px, device
        rows = stream.plan.validation + stream.plan.ring
        self._store = DeviceStore(rows, device)
        self._blocks = np.full(rows // BLOCK_IMAGES, -1)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many images the window holds at most."""
        return self.window.capacity

    def picks(self, seed: int, draws: np.ndarray) -> np.ndarray:
        """Numbers of images; see `Source`. Also lets them be rendered."""
        low, high = self.window.ends(draws)
        held_out = self._stream.plan.validation
        # What is left of the ring is for batches that are read at the same time.
        first = held_out + int(low.min())
        self._stream.want(first, first + self._stream.plan.ring - self._ahead // 2)
        return held_out + low + (scrambled(seed, draws) % (high - low).astype(np.uint64)).astype(np.int64)

    def read(self, picks: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray) -> Batch:
        """See `Source`; on the device. Nothing is random about an image."""
        with self._lock:
            self._fetch(np.unique(picks // BLOCK_IMAGES))
            batch = self._store.take(self._stream.plan.slots(picks))
        return mirror_some(batch, torch.from_numpy(is_mirrored).to(self._device))

    def validation(self, size: int) -> Iterator[Batch]:
        """See `Source`."""
        self._stream.want(0, 0)
        for start in range(0, self._stream.plan.validation, size):
            numbers = np.arange(start, min(start + size, self._stream.plan.validation))
            yield self.read(numbers, mirrored_to_validate(numbers), numbers)

    def notes(self) -> list[str]:
        """See `Source`."""
        window = self.window
        return [
            f"rendered: a window of {window.first} to {window.capacity} images, {window.growth / GROWTH_PARTS:.4f} new ones a draw; "
            f"{self._stream.plan.validation} held out; {self._stream.workers} processes render"
        ]

    def _fetch(self, blocks: np.ndarray) -> None:
        """Copy blocks of images to the device that are not there."""
        plan = self._stream.plan
        places = plan.slots(blocks * BLOCK_IMAGES) // BLOCK_IMAGES
        missing = blocks[self._blocks[places] != blocks]
        # Block by block: the last bits of vertices depend on how many hands are posed at once.
        for part in missing[:, None]:
            numbers = (part[:, None] * BLOCK_IMAGES + np.arange(BLOCK_IMAGES)).reshape(-1)
            nobody = np.zeros(len(numbers), bool)
            batch = read_shards(self._stream, self._stream.hand_model, self._hand_model, numbers, nobody, self._size_px)
            self._store.put(plan.slots(numbers), batch)
            self._blocks[plan.slots(part * BLOCK_IMAGES) // BLOCK_IMAGES] = part


class PhotographPool(PhotographSource):
    """`PhotographSource` that keeps the stored squares on the device and cuts the crops out there. Arguments as there.

    Args:
        device: that trains.
    """

    def __init__(
        self,
        photographs: PhotographReader,
        hand_model: HandModel,
        size_px: int,
        validation_pictures: int,
        augment: AugmentConfig,
        device: torch.device | str,
    ) -> None:
        super().__init__(photographs, hand_model, size_px, validation_pictures, augment)
        self._device = device
        self._store = DeviceStore(len(self._training), device)
        for rows in np.array_split(np.arange(len(self._training)), -(-len(self._training) // _FILL_IMAGES)):
            self._store.put(rows, self.stored(self._training[rows], np.zeros(len(rows), bool)))

    def read(self, picks: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray) -> Batch:
        """See `data.Source`; on the device. Random is the camera."""
        uniform = np.stack([scrambled(stream, seeds) for stream in range(6)], axis=1) / 2.0**64
        # Box and Muller: two normal numbers from two even ones.
        radius, angle = np.sqrt(-2 * np.log1p(-uniform[:, 2:4].clip(max=1 - 2.0**-53))), 2 * np.pi * uniform[:, 4:]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        draws = torch.from_numpy(np.concatenate([uniform[:, :2], normal], axis=1).astype(np.float32)).to(self._device)
        stored = mirror_some(self._store.take(picks), torch.from_numpy(is_mirrored).to(self._device))
        return self.crop(stored, draws[:, :2], draws[:, 2:])
