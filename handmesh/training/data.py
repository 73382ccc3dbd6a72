"""Batches of labelled crops, in an order that is a function of the seed, the step and the row alone.

`open_data` makes a `TrainingData` of the sources that the configuration lists: shards of handmesh-synth (`ShardSource`), FreiHAND
(`training.freihand.FreiHandSource`), photographs (`training.photographs.PhotographSource`). Knows no network.
"""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from handmesh.errors import UserError
from handmesh.geometry.crop import mirror_picture
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.skeleton import JOINTS, ROOT
from handmesh.threads import one_thread
from handmesh.training.command import AugmentConfig, DataConfig, SourceConfig

# Shares are counted in millionths, so that they are exact.
_SHARE_PARTS = 1_000_000
_VALIDATION_MIRROR_EVERY = 4


@dataclass(frozen=True)
class Batch:
    """N crops and what is in them, in the crop camera. Labels that do not hold are zeros (`focal_px`: S).

    Attributes:
        crops: (N, S, S, 3) RGB in 0..255, uint8 until augmented, then float32.
        focal_px: (N,) of the crop camera; its principal point is (S - 1) / 2.
        keypoints_px: (N, 21, 2) of the hand as it is in the crop, mirrored or not; where `has_keypoints`. The hand model's own, or,
            where `landmark_weight` is not 0, a landmark detector's, which lie elsewhere on the hand (`hand_model.landmarks`).
        joints_m: (N, 21, 3) relative to the root joint; where `has_joints`.
        root_m: (N, 3) position of the root joint; where `has_joints`.
        rotmats: (N, 16, 3, 3) parent-relative; where `has_params`.
        betas: (N, 10); where `has_params`.
        vertices_m: (N, V, 3) of the trained hand model's mesh, relative to the root joint; where `has_vertices`.
        parts: (N, S/4, S/4) int64: 0 background, 1..16 joint + 1, 17 forearm; where `has_dense`.
        depth_m: (N, S/4, S/4) z minus the root joint's, 0 off the hand and forearm; where `has_dense`.
        landmark_weight: (N,) how much landmarks count; 0 where keypoints are the hand model's own.
        param_weight: (N,) how much rotmats and betas count; 1 for true ones.
        has_keypoints: (N,) bool: a hand is there, of either side.
        has_joints: (N,) bool: a right hand is there.
        has_params: (N,) bool: and its parameters in the trained hand model are known.
        has_vertices: (N,) bool: and its vertices in the trained hand model's topology are.
        has_dense: (N,) bool: parts and depth are known, of either side.
        presence: (N,) int64: 1 or 0, or -1 where it is not scored.
        right: (N,) int64: 1 for a right hand, 0 for a mirrored one, -1 where there is no hand to judge.
        index: (N,) int64 number of the picture within its source.
        source: (N,) int64 number of the source in `TrainingData.sources`.
    """

    crops: Tensor
    focal_px: Tensor
    keypoints_px: Tensor
    joints_m: Tensor
    root_m: Tensor
    rotmats: Tensor
    betas: Tensor
    vertices_m: Tensor
    parts: Tensor
    depth_m: Tensor
    landmark_weight: Tensor
    param_weight: Tensor
    has_keypoints: Tensor
    has_joints: Tensor
    has_params: Tensor
    has_vertices: Tensor
    has_dense: Tensor
    presence: Tensor
    right: Tensor
    index: Tensor
    source: Tensor

    def __len__(self) -> int:
        return len(self.crops)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def rows(self, index: slice | Tensor | np.ndarray | Sequence[int]) -> Batch:
        """Some of the samples, in the order that is asked for."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index)
        return Batch(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """One batch of all samples, in order."""
        if len(batches) == 1:
            return batches[0]
        return Batch(**{field.name: torch.cat([getattr(batch, field.name) for batch in batches]) for field in fields(Batch)})


def empty_batch(count: int, size_px: int, vertices: int) -> Batch:
    """Black crops without a label, for a source to fill in.

    Args:
        count: N.
        size_px: S, side of the crops.
        vertices: V of the trained hand model.
    """
    coarse = size_px // 4

    def flags() -> Tensor:
        return torch.zeros(count, dtype=torch.bool)

    return Batch(
        crops=torch.zeros(count, size_px, size_px, 3, dtype=torch.uint8),
        focal_px=torch.full((count,), float(size_px)),
        keypoints_px=torch.zeros(count, len(JOINTS), 2),
        joints_m=torch.zeros(count, len(JOINTS), 3),
        root_m=torch.zeros(count, 3),
        rotmats=torch.zeros(count, 16, 3, 3),
        betas=torch.zeros(count, 10),
        vertices_m=torch.zeros(count, vertices, 3),
        parts=torch.zeros(count, coarse, coarse, dtype=torch.int64),
        depth_m=torch.zeros(count, coarse, coarse),
        landmark_weight=torch.zeros(count),
        param_weight=torch.ones(count),
        has_keypoints=flags(),
        has_joints=flags(),
        has_params=flags(),
        has_vertices=flags(),
        has_dense=flags(),
        presence=torch.zeros(count, dtype=torch.int64),
        right=torch.full((count,), -1),
        index=torch.zeros(count, dtype=torch.int64),
        source=torch.zeros(count, dtype=torch.int64),
    )


class Source(Protocol):
    """Labelled pictures of one origin, some of which are held out to validate with.

    Attributes:
        name: for notes and reports.
        augment: how its pictures are changed; None for the command's `augment`.
    """

    name: str
    augment: AugmentConfig | None

    def __len__(self) -> int:
        """How many pictures there are to train on."""
        ...

    def picks(self, seed: int, draws: np.ndarray) -> np.ndarray:
        """(N,) positions among the training pictures of the source's draws number `draws` (N,): see `permuted`."""
        ...

    def read(self, picks: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray) -> Batch:
        """Training pictures.

        Args:
            picks: (N,) positions among the training pictures.
            is_mirrored: (N,) bool: show it as x -> S-1-x, a hand that is not a right one.
            seeds: (N,) int64 for what is random about each picture.
        """
        ...

    def validation(self, size: int) -> Iterator[Batch]:
        """The held-out pictures, `size` at a time, always the same; every fourth mirrored."""
        ...

    def notes(self) -> list[str]:
        """Lines to print before training: how many pictures, what supervises."""
        ...


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed % 2**64, stream, epoch]).permutation(count)


def permuted(seed: int, stream: int, draws: np.ndarray, count: int) -> np.ndarray:
    """Endless order in which each of `count` things comes once an epoch, and every epoch has its own order.

    Args:
        seed, stream: name the order.
        draws: (N,) int64 numbers of draws, from 0 on.
        count: at least 1.

    Returns:
        (N,) int64 in 0..count-1.
    """
    epochs, places = np.divmod(draws, count)
    picks = np.empty(len(draws), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        picks[here] = _permutation(seed, stream, int(epoch), count)[places[here]]
    return picks


def divide_draws(draws: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Deal draws out to two streams, evenly, so that the first has its share of any long run.

    Args:
        draws: (N,) int64 numbers of draws, from 0 on.
        share: of the first stream, 0..1.

    Returns:
        (N,) bool: which draws are the first stream's; and (N,) int64: the number of each draw within its own stream.
    """
    parts = round(share * _SHARE_PARTS)
    before = draws * parts // _SHARE_PARTS
    is_first = (draws + 1) * parts // _SHARE_PARTS > before
    return is_first, np.where(is_first, before, draws - before)


def deal_draws(draws: np.ndarray, weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """`divide_draws` for any number of streams, by their weights.

    Args:
        draws: (N,) int64 numbers of draws, from 0 on.
        weights: positive, one for each stream.

    Returns:
        (N,) int64: the stream of each draw; and (N,) int64: its number within that stream.
    """
    streams, numbers = np.full(len(draws), len(weights) - 1), np.array(draws)
    rows, left = np.arange(len(draws)), sum(weights)
    for stream, weight in enumerate(weights[:-1]):
        is_mine, numbers[rows] = divide_draws(numbers[rows], weight / left)
        streams[rows[is_mine]] = stream
        rows, left = rows[~is_mine], left - weight
    return streams, numbers


class Shards(Protocol):
    """What `ShardSource` reads: `handmesh.synthetic.shards.ShardReader`, or anything with its methods.

    images (n, S, S, 3) uint8; parts (n, S/4, S/4) uint8, 0 background, 1..16 joint + 1, 17 forearm; depth (n, S/4, S/4) metres behind
    the root joint; labels a structured array with rotmats (16, 3, 3), betas (10), root_m (3), focal_px, keypoints_px (21, 2),
    presence (1, 0 or -1 for not scored). All hands are right hands.
    """

    def __len__(self) -> int: ...
    def images(self, idx: np.ndarray, /) -> np.ndarray: ...
    def parts(self, idx: np.ndarray, /) -> np.ndarray: ...
    def depth(self, idx: np.ndarray, /) -> np.ndarray: ...
    def labels(self, idx: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class ShardFolder:
    """Shards, and the hand model that their parameters are meant for."""

    path: Path
    pictures: Shards
    hand_model: HandModel


def read_shards(
    pictures: Shards, labelled_with: HandModel, hand_model: HandModel, indices: np.ndarray, is_mirrored: np.ndarray, size_px: int
) -> Batch:
    """Pictures by index, some of them mirrored (x -> S-1-x).

    Args:
        labelled_with: what the labels' parameters are meant for.
        hand_model: that is trained; with another one than the labels' they give joints alone.
        indices: (N,) of the pictures.
        is_mirrored: (N,) bool.
        size_px: side of the batch's pictures, at most that of the shards'; larger ones are averaged down.
    """
    labels = pictures.labels(indices)
    images, parts, depth_m = (read(indices) for read in (pictures.images, pictures.parts, pictures.depth))
    scale = size_px / images.shape[1]
    if scale != 1:
        coarse = size_px // 4
        images = _resized(images, size_px, cv2.INTER_AREA)
        parts = _resized(parts, coarse, cv2.INTER_NEAREST_EXACT)
        depth_m = _resized(depth_m.astype(np.float32), coarse, cv2.INTER_NEAREST_EXACT)
    images, parts, depth_m = np.array(images), parts.astype(np.int64), depth_m.astype(np.float32)
    images[is_mirrored] = mirror_picture(images[is_mirrored])
    parts[is_mirrored], depth_m[is_mirrored] = parts[is_mirrored, :, ::-1], depth_m[is_mirrored, :, ::-1]

    presence = labels["presence"].reshape(-1).astype(np.int64)
    there = presence == 1
    mine = there & ~is_mirrored
    is_same_model = labelled_with.id == hand_model.id
    batch = empty_batch(len(indices), size_px, len(hand_model.template_m))
    focal_px = labels["focal_px"].reshape(-1)[there] * scale
    # Pixel centres are integers: (x + 0.5) scales.
    keypoints_px = (labels["keypoints_px"][there] + 0.5) * scale - 0.5
    mirrored = is_mirrored[there]
    keypoints_px[mirrored, :, 0] = size_px - 1 - keypoints_px[mirrored, :, 0]
    parts[~there], depth_m[~there] = 0, 0

    holds, hands = torch.from_numpy(there), torch.from_numpy(mine)
    batch.focal_px[holds] = torch.from_numpy(focal_px.astype(np.float32))
    batch.keypoints_px[holds] = torch.from_numpy(keypoints_px.astype(np.float32))
    if mine.any():
        rotmats, betas = labels["rotmats"][mine].astype(np.float32), labels["betas"][mine].astype(np.float32)
        vertices_m = skin(labelled_with, rotmats, betas)
        joints_m = labelled_with.joints(vertices_m)
        root_m = joints_m[:, ROOT : ROOT + 1]
        batch.joints_m[hands] = torch.from_numpy((joints_m - root_m).astype(np.float32))
        batch.root_m[hands] = torch.from_numpy(labels["root_m"][mine].astype(np.float32))
        if is_same_model:
            batch.rotmats[hands], batch.betas[hands] = torch.from_numpy(rotmats), torch.from_numpy(betas)
            batch.vertices_m[hands] = torch.from_numpy((vertices_m - root_m).astype(np.float32))
    nobody = torch.zeros_like(holds)
    return replace(
        batch,
        crops=torch.from_numpy(images),
        parts=torch.from_numpy(parts),
        depth_m=torch.from_numpy(depth_m),
        has_keypoints=holds,
        has_joints=hands,
        has_params=hands if is_same_model else nobody,
        has_vertices=hands if is_same_model else nobody,
        has_dense=holds,
        presence=torch.from_numpy(presence),
        right=torch.from_numpy(np.where(there, ~is_mirrored, -1).astype(np.int64)),
        index=torch.from_numpy(indices.astype(np.int64)),
    )


def _resized(pictures: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """(N, S, S, ...) to (N, side, side, ...)."""
    out = np.empty((len(pictures), side, side, *pictures.shape[3:]), pictures.dtype)
    for picture, small in zip(pictures, out, strict=True):
        cv2.resize(picture, (side, side), dst=small, interpolation=interpolation)
    return out


def points_up(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: a hand is there whose fingers (-x at rest) point up in the picture (-y), within 60 degrees."""
    return (labels["presence"].reshape(-1) == 1) & (-labels["rotmats"][:, 0, 1, 0] < -0.5)


class ShardSource:
    """Several folders of shards as one. Training draws from all but the first `validation_pictures` of the first folder.

    Args:
        folders: at least one.
        hand_model: that is trained.
        size_px: side of the batches' pictures; those of the shards may be larger.
        validation_pictures: how many are held out.
        upright_share: share of training pictures drawn from those that `points_up`.

    Raises:
        UserError: no folders, too few pictures, or too small ones.
    """

    name = "shards"
    augment: AugmentConfig | None = None

    def __init__(
        self,
        folders: Sequence[ShardFolder],
        hand_model: HandModel,
        size_px: int,
        validation_pictures: int,
        upright_share: float = 0.0,
    ) -> None:
        if not folders:
            raise UserError("expected at least one folder of shards, got none; list one in data.sources")
        self._folders = tuple(folders)
        self._hand_model, self._size_px = hand_model, size_px
        self._held_out, self._upright_share = validation_pictures, upright_share
        self._ends = np.cumsum([len(folder.pictures) for folder in folders])
        first = self._folders[0]
        if len(first.pictures) <= validation_pictures:
            raise UserError(
                f"expected more than data.validation_pictures = {validation_pictures} pictures in '{first.path}', "
                f"got {len(first.pictures)}; render more, or hold out fewer"
            )
        for folder in self._folders:
            side = folder.pictures.images(np.arange(1)).shape[1] if len(folder.pictures) else size_px
            if side < size_px:
                raise UserError(
                    f"expected pictures of at least model.size_px = {size_px} px in '{folder.path}', got {side} px; set it to {side}"
                )
        self._upright = np.zeros(0, np.int64)
        if upright_share > 0:
            upright = np.concatenate([points_up(folder.pictures.labels(np.arange(len(folder.pictures)))) for folder in self._folders])
            self._upright = np.flatnonzero(upright[validation_pictures:])
            if not len(self._upright):
                raise UserError("expected hands that point up for data.upright_share, got none in the shards; set it to 0")

    def __len__(self) -> int:
        """How many pictures there are to train on."""
        return int(self._ends[-1]) - self._held_out

    def picks(self, seed: int, draws: np.ndarray) -> np.ndarray:
        """See `Source`."""
        if not len(self._upright):
            return permuted(seed, 0, draws, len(self))
        is_upright, draws = divide_draws(draws, self._upright_share)
        picks = np.empty(len(draws), np.int64)
        picks[is_upright] = self._upright[permuted(seed, 1, draws[is_upright], len(self._upright))]
        picks[~is_upright] = permuted(seed, 0, draws[~is_upright], len(self))
        return picks

    def read(self, picks: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray) -> Batch:
        """See `Source`. Nothing is random about a picture."""
        return self._read(picks + self._held_out, is_mirrored)

    def validation(self, size: int) -> Iterator[Batch]:
        """See `Source`."""
        for start in range(0, self._held_out, size):
            indices = np.arange(start, min(start + size, self._held_out))
            yield self._read(indices, mirrored_to_validate(indices))

    def notes(self) -> list[str]:
        """See `Source`."""
        lines = [f"shards: {len(self)} pictures to train on, {self._held_out} held out"]
        if self._upright_share > 0:
            lines.append(f"shards: {len(self._upright)} hands point up; they are {self._upright_share:.0%} of what is drawn from shards")
        lines += [
            f"'{folder.path}' holds hands of '{folder.hand_model.id}': their joints alone supervise '{self._hand_model.id}'"
            for folder in self._folders
            if folder.hand_model.id != self._hand_model.id
        ]
        return lines

    def _read(self, indices: np.ndarray, is_mirrored: np.ndarray) -> Batch:
        which = np.searchsorted(self._ends, indices, side="right")
        batches, order = [], []
        for number in np.unique(which):
            rows, folder = np.flatnonzero(which == number), self._folders[number]
            start = int(self._ends[number]) - len(folder.pictures)
            batch = read_shards(
                folder.pictures, folder.hand_model, self._hand_model, indices[rows] - start, is_mirrored[rows], self._size_px
            )
            batches.append(replace(batch, index=torch.from_numpy(indices[rows].astype(np.int64))))
            order.append(rows)
        return in_order(batches, order)


def in_order(batches: Sequence[Batch], rows: Sequence[np.ndarray]) -> Batch:
    """One batch whose row `rows[i][j]` is row j of `batches[i]`; together they are 0..N-1."""
    joined = Batch.join(batches)
    return joined if len(batches) == 1 else joined.rows(np.argsort(np.concatenate(rows)))


def mirrored_to_validate(numbers: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the held-out pictures number 0, 1, ... are shown mirrored."""
    return numbers % _VALIDATION_MIRROR_EVERY == _VALIDATION_MIRROR_EVERY - 1


class TrainingData:
    """Everything that is trained on. Row r of step s is the same whoever asks for it, and in whatever portions.

    Only the last bits of joints and vertices depend on the portions, as matrix products do on their sizes.

    Args:
        sources: at least one.
        weights: one for each source; its fraction of each batch is its weight over their sum, exact in the long run.
        batch_size: rows a step, over all devices.
        mirror_share: of the training pictures.

    Attributes:
        names: of the sources, each once: "shards", "shards 2".
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], batch_size: int, mirror_share: float) -> None:
        self.sources = tuple(sources)
        self.batch_size = batch_size
        self._weights = tuple(weights)
        self._mirror_share = mirror_share
        seen: Counter[str] = Counter()
        names = []
        for source in self.sources:
            seen[source.name] += 1
            names.append(source.name if seen[source.name] == 1 else f"{source.name} {seen[source.name]}")
        self.names = tuple(names)

    def __len__(self) -> int:
        """How many pictures there are to train on."""
        return sum(map(len, self.sources))

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> Batch:
        """Some rows of a step's global batch, in order: a function of seed, step and row alone, but for rounding."""
        row = np.arange(self.batch_size)[rows]
        rng = np.random.default_rng([seed % 2**64, step])
        is_mirrored = (rng.random(self.batch_size) < self._mirror_share)[row]
        seeds = rng.integers(2**63, size=self.batch_size)[row]
        which, draws = deal_draws(step * self.batch_size + row, self._weights)
        batches, order = [], []
        for number, source in enumerate(self.sources):
            here = np.flatnonzero(which == number)
            if len(here):
                batch = source.read(source.picks(seed, draws[here]), is_mirrored[here], seeds[here])
                batches.append(_of_source(batch, number))
                order.append(here)
        return in_order(batches, order)

    def validation_batches(self, size: int) -> Iterator[Batch]:
        """The held-out pictures, source by source, `size` at a time; always the same, every fourth mirrored."""
        for number, source in enumerate(self.sources):
            for batch in source.validation(size):
                yield _of_source(batch, number)

    def notes(self) -> list[str]:
        """Lines to print before training: numbers of pictures, what supervises, how well FreiHAND and the hand model agree."""
        lines = [line for source in self.sources for line in source.notes()]
        if len(self.sources) > 1:
            fractions = [weight / sum(self._weights) for weight in self._weights]
            lines.append("each batch: " + ", ".join(f"{part:.0%} {name}" for part, name in zip(fractions, self.names, strict=True)))
        return lines


def _of_source(batch: Batch, number: int) -> Batch:
    return replace(batch, source=torch.full_like(batch.index, number))


def prefetch(data: TrainingData, seed: int, first_step: int, rows: slice, ahead: int, readers: int) -> Generator[Batch, None, None]:
    """Endless `data.batch` from `first_step` on, in order, read by threads that stay `ahead` of the caller.

    Args:
        rows: of each step's global batch.
        ahead: how many batches wait ready or are being read.
        readers: threads.

    Raises:
        UserError: whatever reading a batch raises, when its turn comes.
    """
    # Each thread of its own would otherwise keep a team of torch threads busy beside those of the network.
    pool = ThreadPoolExecutor(max_workers=readers, thread_name_prefix="prefetch", initializer=torch.set_num_threads, initargs=(1,))
    try:
        # Numpy's matrix products would wake a thread for each core, which then compete with those of torch.
        with one_thread("blas"):
            waiting: deque[Future[Batch]] = deque()
            for step in count(first_step):
                waiting.append(pool.submit(data.batch, seed, step, rows))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def open_data(config: DataConfig, hand_model: HandModel, size_px: int) -> TrainingData:
    """The pictures that a configuration names.

    Args:
        hand_model: that is trained.
        size_px: side of the crops.

    Raises:
        UserError: folders that are missing, broken or too small, or labelled with a hand model that cannot be had.
    """
    sources = [_open_source(source, config, hand_model, size_px) for source in config.sources]
    return TrainingData(sources, [source.weight for source in config.sources], config.batch_size, config.mirror_share)


def _open_source(source: SourceConfig, config: DataConfig, hand_model: HandModel, size_px: int) -> Source:
    if source.kind == "freihand":
        from handmesh.training.freihand import FreiHandSource

        return FreiHandSource(source.folders[0], config, hand_model, size_px)
    if source.kind == "photographs":
        from handmesh.photographs import PhotographReader
        from handmesh.training.photographs import PhotographSource

        reader = PhotographReader(source.folders[0])
        return PhotographSource(reader, hand_model, size_px, config.validation_pictures, config.photograph_augment)
    folders = [_open_shards(folder, hand_model) for folder in source.folders]
    return ShardSource(folders, hand_model, size_px, config.validation_pictures, config.upright_share)


def _open_shards(folder: Path, hand_model: HandModel) -> ShardFolder:
    from handmesh.synthetic.shards import ShardReader

    reader = ShardReader(folder, allow_partial=True)
    labelled_with = _model_of(folder, reader.manifest["hand_model"], hand_model)
    expect_arrays_of(labelled_with, reader.manifest, folder)
    return ShardFolder(folder, reader, labelled_with)


def expect_arrays_of(hand_model: HandModel, manifest: dict[str, Any], folder: Path) -> None:
    """See that a set of handmesh-synth was drawn with this very hand, not only with one of its name.

    Raises:
        UserError: it was not.
    """
    from handmesh.synthetic.sets import model_sha256

    if manifest.get("hand_model_sha256") not in (None, model_sha256(hand_model)):
        raise UserError(
            f"expected pictures of this '{hand_model.id}' in '{folder}', got those of another hand of that name; draw them again, or set "
            "hand_model to that model's npz"
        )


def _model_of(folder: Path, model_id: str, hand_model: HandModel) -> HandModel:
    """The hand model that shards are labelled with: the trained one, the open hand, or MANO where it was imported."""
    if model_id == hand_model.id:
        return hand_model
    name = "mano" if model_id.startswith("mano") else "open"
    labelled_with = load_hand_model(name)
    if labelled_with.id != model_id:
        known = " or ".join(dict.fromkeys(f"'{model.id}'" for model in (hand_model, labelled_with)))
        raise UserError(f"expected pictures of {known} in '{folder}', got '{model_id}'; set hand_model to that model's npz")
    return labelled_with
