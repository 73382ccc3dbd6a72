"""How still a network alone is on one frame of a video: no tracking, no second look."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from detector_frames import frames_rgb

from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.geometry.crop import crop_box
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.runtime import Predictor
from handmesh.skeleton import ROOT

NOISE_SD = 4.0
JITTER_DRAWS = 100


@dataclass(frozen=True)
class JitterScores:
    """How the root-relative joints move, root mean square, when the same crop comes with other noise."""

    rms_mm: float
    draws: int
    noise_sd: float


def measure_jitter(path: Path, frame: int, model: HandModel, predictor: Predictor) -> JitterScores:
    """Noise on one frame's crop, anew each time.

    Raises:
        UserError: not a video, no such frame, or no hand in it.
    """
    image = next((image for _, image in islice(frames_rgb(path), frame, None)), None)
    if image is None:
        raise UserError(f"expected a frame number of '{path}', got {frame}, which is behind its end; give a smaller --frame")
    detector = HandDetector(max_hands=1)
    detections = detector(image)
    if not detections:
        raise UserError(f"expected a hand in frame {frame} of '{path}', but MediaPipe finds none; give another --frame")
    camera = camera_from_fov(image.shape[1], image.shape[0], ASSUMED_FOV_DEG, is_known=False)
    crop = crop_box(detections[0].box_px, image, camera, predictor.info.input_size_px, not detections[0].is_right)
    return JitterScores(jitter_rms_mm(crop.image, model, predictor), JITTER_DRAWS, NOISE_SD)


def jitter_rms_mm(crop: np.ndarray, model: HandModel, predictor: Predictor) -> float:
    """Root mean square distance of root-relative joints from their mean over `JITTER_DRAWS` noisy copies of an (S, S, 3) crop."""
    noise = np.random.default_rng(0).normal(0, NOISE_SD, (JITTER_DRAWS, *crop.shape))
    noisy = np.clip(np.rint(crop + noise), 0, 255).astype(np.uint8)
    answers = predictor(noisy)
    rotmats, betas = (np.stack([getattr(params, name) for params in answers]) for name in ("rotmats", "betas"))
    joints_m = model.joints(skin(model, rotmats.astype(np.float64), betas.astype(np.float64)))
    joints_m = joints_m - joints_m[:, ROOT : ROOT + 1]
    return 1e3 * float(np.sqrt(np.square(joints_m - joints_m.mean(axis=0)).sum(axis=-1).mean()))
