"""The head: from what MediaPipe's landmark network sees, and what our own network answers, to the parameters of a hand.

A region (`detection.regions`) is a crop turned upright; the head's rotations and weak camera are in it, as a network's are in its crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handmesh.detection.landmarks import LandmarkAnswer, LandmarkKind
from handmesh.errors import UserError
from handmesh.geometry.camera import translation_to_weak_perspective, weak_perspective_to_translation
from handmesh.geometry.crop import camera_to_crop, crop_to_camera
from handmesh.geometry.rotation import mirror_rotmat, rotmat_to_rot6d
from handmesh.hand_model.assets import ASSETS
from handmesh.records import Crop, HandParams
from handmesh.runtime import OUTPUTS, Runtime, onnxruntime_session, outputs_to_params, read_metadata

# Which landmark network looks at every hand, and whose parameters the hands have.
LandmarkChoice = Literal["full", "lite", "off"]
Answer = Literal["head", "network"]
HEADS: dict[LandmarkKind, Path] = {"full": ASSETS / "head_full.onnx", "lite": ASSETS / "head_lite.onnx"}
FORMAT = 1
INPUTS = ("pooled", "map", "answer", "has_answer")
HEAD_OUTPUTS = (*OUTPUTS, "spread_m")
# Half-crops per metre of an average hand in its region: 2 / (2 x 0.12 m).
TYPICAL_S = 8.0
_FARTHEST_LOGIT = 8.0
# 16 rotations in 6D, 10 betas, log scale and aim of the weak camera, presence and side.
ANSWER_SIZE = 111


def answer_in_region(params: HandParams, crop: Crop, region: Crop) -> np.ndarray:
    """What a network says about a crop, as the head reads it: (111,) float32 in the frame of a region of the same picture.

    Args:
        params: what the network says.
        crop: what it says that about.
        region: mirrored as `crop` is.
    """
    R_camera_wrist = crop.R_camera_crop @ (mirror_rotmat(params.rotmats[0]) if crop.is_mirrored else params.rotmats[0])
    R_region_wrist = region.R_camera_crop.T @ R_camera_wrist
    rotmats = params.rotmats.copy()
    rotmats[0] = mirror_rotmat(R_region_wrist) if region.is_mirrored else R_region_wrist
    root_m = crop_to_camera(weak_perspective_to_translation(params.camera, crop.camera.fx, crop.camera.width), crop)
    s, x_m, y_m = translation_to_weak_perspective(camera_to_crop(root_m, region), region.camera.fx, region.camera.width)
    presence = np.clip(params.presence, 1e-6, 1 - 1e-6)
    # A crop that looked away from the region's hand may put it behind the region's camera.
    s = max(float(s), 1e-3)
    camera = np.clip([np.log(s / TYPICAL_S), s * x_m, s * y_m], -4, 4)
    logits = np.clip([np.log(presence / (1 - presence)), params.right_logit], -_FARTHEST_LOGIT, _FARTHEST_LOGIT)
    return np.concatenate([rotmat_to_rot6d(rotmats).ravel(), params.betas, camera, logits]).astype(np.float32)


@dataclass(frozen=True)
class HeadInfo:
    """What a head's file says about itself.

    Attributes:
        landmarks: the landmark network that it reads.
        hand_model: id of the hand model that its parameters pose.
        network_sha256: of the file of the hand network that it reads.
        metadata: everything in the file's "handmesh" entry.
    """

    landmarks: LandmarkKind
    hand_model: str
    network_sha256: str
    metadata: dict[str, Any]


class Head:
    """One exported head.

    Args:
        path: a .onnx file by `handmesh-train configs/head.yaml`.
        runtime: "openvino" or "onnxruntime".

    Raises:
        UserError: a file that is missing, broken, or something else.
    """

    def __init__(self, path: Path, runtime: Runtime = "openvino") -> None:
        self.path = Path(path)
        self.info = read_head_info(self.path)
        self._run = _openvino_runner(self.path) if runtime == "openvino" else _onnxruntime_runner(self.path)

    def __call__(
        self,
        seen: LandmarkAnswer,
        regions: Sequence[Crop],
        answers: Sequence[tuple[HandParams, Crop] | None] | None = None,
    ) -> list[HandParams]:
        """Parameters of the hands in N regions.

        Args:
            seen: what the landmark network saw in them.
            regions: (N) the regions.
            answers: (N) what the hand network said, and about which crop; None without it.

        Returns:
            N parameters with `spread_m`, each in its region.
        """
        told = list(answers) if answers is not None else [None] * len(regions)
        answer = np.zeros((len(regions), ANSWER_SIZE), np.float32)
        for row, (region, each) in enumerate(zip(regions, told, strict=True)):
            if each is not None:
                answer[row] = answer_in_region(*each, region)
        has_answer = np.array([[each is not None] for each in told], np.float32)
        outputs = self._run({"pooled": seen.pooled, "map": seen.map, "answer": answer, "has_answer": has_answer})
        return [
            replace(params, spread_m=spread_m.astype(np.float64))
            for params, spread_m in zip(outputs_to_params(outputs), outputs["spread_m"], strict=True)
        ]


def read_head_info(path: Path) -> HeadInfo:
    """Read and check a head's metadata, without a runtime.

    Raises:
        UserError: no file, not a head, or one of another format.
    """
    metadata = read_metadata(path, "a head's .onnx file", {"landmarks": str, "hand_model": str, "network_sha256": str})
    if metadata.get("head_format") != FORMAT:
        raise UserError(f"expected a head of format {FORMAT}, got {metadata.get('head_format')} in '{path}'; train it with this version")
    if metadata["landmarks"] not in HEADS:
        raise UserError(f"expected a head for {' or '.join(HEADS)}, got one for {metadata['landmarks']} in '{path}'; export it again")
    return HeadInfo(metadata["landmarks"], metadata["hand_model"], metadata["network_sha256"], metadata)


def _openvino_runner(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    import openvino

    try:
        core = openvino.Core()
        # It is small: a second thread would cost more than it brings. Its batch stays dynamic: compiled for one size it is 0.04 ms faster,
        # but OpenVINO 2026.4 then crashes on narrow heads.
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
        request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    except RuntimeError as error:
        raise UserError(f"expected a head that OpenVINO can run, got '{path}', which it refuses; export it again") from error

    # The request reads these arrays in place: handing it new ones takes as long as a fifth of the head.
    held: dict[str, np.ndarray] = {}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in INPUTS:
            if name not in held or held[name].shape != inputs[name].shape:
                held[name] = np.empty(inputs[name].shape, np.float32)
                request.set_tensor(name, openvino.Tensor(held[name], shared_memory=True))
            held[name][...] = inputs[name]
        request.infer()
        return {name: request.get_tensor(name).data.copy() for name in HEAD_OUTPUTS}

    return run


def _onnxruntime_runner(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime_session(path, options, "a head")

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in zip(HEAD_OUTPUTS, session.run(list(HEAD_OUTPUTS), inputs), strict=True)}

    return run
