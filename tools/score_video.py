"""A network alone on a video: how far from MediaPipe's landmarks, and how still on one frame. No tracking, no second look."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from detector_frames import frames_rgb
from rich.progress import track

from handmesh.bench.loop import distance_over_box
from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.geometry.crop import crop_box
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.placement import place_hand
from handmesh.records import Camera, Crop, Detection
from handmesh.runtime import Predictor
from handmesh.skeleton import ROOT
from handmesh.tracking import Track

NOISE_SD = 4.0
JITTER_DRAWS = 100


@dataclass(frozen=True)
class VideoScores:
    """Every frame from the detector's box.

    Attributes:
        frames: of the video.
        found: those in which the detector found a hand; the rest holds for these.
        median, percentile_95: mean distance of the 21 keypoints to the detector's landmarks over the larger side of its box.
        presence_share: frames whose presence is above one half.
        side_share: frames in which the network, too, says the side that the detector says.
    """

    frames: int
    found: int
    median: float
    percentile_95: float
    presence_share: float
    side_share: float


@dataclass(frozen=True)
class JitterScores:
    """How the root-relative joints move, root mean square, when the same crop comes with other noise."""

    rms_mm: float
    draws: int
    noise_sd: float


def crop_detection(image: np.ndarray, detection: Detection, size_px: int) -> Crop:
    """The crop of run time around the detector's box, mirrored where it says left."""
    return crop_box(detection.box_px, image, _camera_of(image), size_px, not detection.is_right)


def measure_video(path: Path, model: HandModel, predictor: Predictor) -> VideoScores:
    """Hold the keypoints of every frame against MediaPipe's landmarks.

    Raises:
        UserError: not a video, or no hand in it.
    """
    detector = HandDetector(max_hands=1, is_video=True)
    frames, distances, is_present, is_side = 0, [], [], []
    for time_s, image in track(frames_rgb(path), path.name):
        frames += 1
        for detection in detector(image, time_s):
            crop = crop_detection(image, detection, predictor.info.input_size_px)
            params = predictor(crop.image[None])[0]
            hand = place_hand(model, params, crop, _camera_of(image), Track(0, detection, time_s, 0.0))
            distances.append(distance_over_box(hand.keypoints_px, detection))
            is_present.append(params.presence > 0.5)
            is_side.append(params.right_logit > 0)
    detector.close()
    if not distances:
        raise UserError(f"expected a hand in '{path}', but MediaPipe finds none in {frames} frames; take another video")
    median, percentile_95 = np.percentile(distances, (50, 95)).tolist()
    return VideoScores(frames, len(distances), median, percentile_95, float(np.mean(is_present)), float(np.mean(is_side)))


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
    detector.close()
    if not detections:
        raise UserError(f"expected a hand in frame {frame} of '{path}', but MediaPipe finds none; give another --frame")
    crop = crop_detection(image, detections[0], predictor.info.input_size_px)
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


def _camera_of(image: np.ndarray) -> Camera:
    height, width = image.shape[:2]
    return camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)
