"""MediaPipe's hand landmark network: what it sees in regions, and the features that it sees it by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from threading import Lock
from typing import Any, Literal

import numpy as np

from handmesh.detection.compiled import PictureNetwork, compile_for_pictures, output_named, read_network, sum_before
from handmesh.detection.files import NetworkName
from handmesh.detection.regions import REGION_PX
from handmesh.errors import UserError
from handmesh.runtime import BATCH_SIZES, Precision, Runtime, expect_crops, split_batches
from handmesh.skeleton import JOINTS

LandmarkKind = Literal["full", "lite"]

_FILES: dict[LandmarkKind, NetworkName] = {"full": "hand_landmark_full", "lite": "hand_landmark_lite"}
# Channels of the pooled vector, and of the 7 x 7 map two layers before it.
POOLED_CHANNELS: dict[LandmarkKind, int] = {"full": 1152, "lite": 672}
MAP_CHANNELS: dict[LandmarkKind, int] = {"full": 192, "lite": 112}
_POOLED = "model_1/model/global_average_pooling2d/Mean"
_MAP = "handmesh/map"
_MAP_PX = 7
# Points, presence, side and points in space, by the file's own names and shapes.
_ANSWERS = {"Identity": [1, 63], "Identity_1": [1, 1], "Identity_2": [1, 1], "Identity_3": [1, 63]}


@dataclass(frozen=True)
class LandmarkAnswer:
    """What the landmark network says about N regions, each as it was given (mirrored or not).

    Attributes:
        points_px: (N, 21, 3) in `skeleton.JOINTS` order: x, y in pixels of the region (the first one's centre is 0), and depth in the
            same unit, relative to the wrist, away from the camera.
        presence: (N,) probability in 0..1 that a hand is in the region.
        right: (N,) probability in 0..1 that it looks like a right hand.
        world_m: (N, 21, 3) the hand in space, metres, about its own middle; in the region's axes: x right, y down, z away.
        pooled: (N, 1152) of the full network or (N, 672) of the lite, float32: all of the above is linear in it (but for sigmoids).
        map: (N, 192, 7, 7) or (N, 112, 7, 7) float32: the last residual sum, two layers before `pooled`.
    """

    points_px: np.ndarray
    presence: np.ndarray
    right: np.ndarray
    world_m: np.ndarray
    pooled: np.ndarray
    map: np.ndarray

    def __len__(self) -> int:
        return len(self.presence)

    def take(self, rows: Any) -> LandmarkAnswer:
        """The answers of some of the regions: indices, a mask or a slice."""
        return LandmarkAnswer(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class LandmarkNetwork:
    """MediaPipe's hand landmark network (Apache-2.0), run by OpenVINO. May be called from several threads; they wait for each other.

    Args:
        kind: "full", or "lite", which costs half and sees less well.
        runtime: of the project's networks. ONNX Runtime reads no .tflite files, so this network runs on OpenVINO in either.
        precision: of the computation, never implicit: "f32" or "bf16".
        threads: of the network; 0 lets the runtime choose.

    Raises:
        UserError: its file is not to be had (see `files.network_path`), or OpenVINO cannot run it.
    """

    def __init__(self, kind: LandmarkKind = "full", runtime: Runtime = "openvino", precision: Precision = "f32", threads: int = 0) -> None:
        if kind not in _FILES:
            raise UserError(f"expected a landmark network out of {', '.join(_FILES)}, got {kind!r}")
        self.kind: LandmarkKind = kind
        self._model = read_network(_FILES[kind])
        for name, shape in _ANSWERS.items():
            output_named(self._model, name, shape)
        pooled = output_named(self._model, _POOLED, [1, POOLED_CHANNELS[kind]])
        sum_before(pooled, _MAP, [1, MAP_CHANNELS[kind], _MAP_PX, _MAP_PX])
        self._precision: Precision = precision
        self._threads = threads
        self._lock = Lock()
        self._networks: dict[int, PictureNetwork] = {}

    def prepare(self, *batch_sizes: int) -> None:
        """Compile for so many regions at once now, rather than with the first such call.

        Args:
            batch_sizes: out of `runtime.BATCH_SIZES`.
        """
        with self._lock:
            for size in batch_sizes:
                self._network(size)

    def __call__(self, regions: np.ndarray) -> LandmarkAnswer:
        """Look at regions.

        Args:
            regions: (N, 224, 224, 3) uint8 RGB, upright, N >= 1; see `regions`.
        """
        expect_crops(regions, REGION_PX)
        with self._lock:
            answers = [self._network(len(batch))(batch) for batch in split_batches(regions)]
        points, presence, right, world, pooled, coarse = (np.concatenate(values) for values in zip(*answers, strict=True))
        points = points.reshape(-1, len(JOINTS), 3)
        # MediaPipe's pixels have their corners at integers.
        points[..., :2] -= 0.5
        return LandmarkAnswer(points, presence[:, 0], right[:, 0], world.reshape(-1, len(JOINTS), 3), pooled, coarse)

    def _network(self, batch: int) -> PictureNetwork:
        if batch not in BATCH_SIZES:
            raise ValueError(f"expected batch sizes out of {BATCH_SIZES}, got {batch}")
        if batch not in self._networks:
            names = [*_ANSWERS, _POOLED, _MAP]
            self._networks[batch] = compile_for_pictures(self._model, names, batch, self._precision, self._threads)
        return self._networks[batch]
