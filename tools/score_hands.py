"""What the whole pipeline scores, as its users get it: on a video, on photographs, and on rendered sets.

    python tools/score_hands.py [--video VIDEO [--reference FILE.npz]] [--photographs DIR] [--frames SET [--listed FILE]] [--boxes SET]
        [--landmarks full|lite|off] [--answer network|head] [--precision f32|bf16] [--json FILE] [--sheet FILE.png]

D is the mean distance of a hand's 21 landmarks to the reference's over the larger side of the reference's box; a hand that is missed, or
farther away than that, counts as 1.

- A video goes through `HandMeshEstimator.track` twice: as a file, and as a camera's frames at the video's own rate. The reference is
  MediaPipe's own landmarker in image mode in every frame (--reference keeps its landmarks); of our hands the nearest one counts.
- Photographs are the validation split of a folder with hands.jsonl, negatives.jsonl. The detection is the box of the given landmarks, its
  side left to the pipeline (it is told "right" of every hand, and of every mirror image); in images without a hand it is the box that
  such an image would be the crop of. A hand counts as present where its presence is above one half.
- Frames are whole images of a rendered set in FreiHAND's layout. A hand is found where one of ours is nearer than 0.35 of its box. --listed
  names a file with the numbers of the images whose hands are scored, one a line; share found is of all hands.
- Boxes are the labelled hands of a rendered set, side and box given.

Place errors are of joints in the camera. "True length given" is what `hand_length_mm` would give. "Size alone" is the error of the true
hand brought to the hand model's mean length: what remains where everything but a hand's size is known.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np
from detector_frames import frames_rgb
from pack_photographs import landmarks_of, read_lines
from rich.console import Console
from rich.progress import track
from score_network import mean_of, open_set, true_hand
from score_tables import TextTable, to_rich

from handmesh.bench.tasks import TasksDetector
from handmesh.cli import guard
from handmesh.errors import UserError, one_line
from handmesh.estimator import HandMeshEstimator
from handmesh.freihand import read_picture
from handmesh.geometry.alignment import procrustes
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_focal, camera_from_fov
from handmesh.geometry.crop import CROP_PADDING, mirror_picture
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.photographs import FOCAL_OVER_SIZE, PADDING
from handmesh.records import Camera, Detection, Hand
from handmesh.render.overlay import draw_overlay
from handmesh.runtime import Precision
from handmesh.skeleton import BONES, ROOT
from handmesh.synthetic import shares
from handmesh.synthetic.sheet import Pictures, tiled, write_png, write_words
from handmesh.wholefile import replacing

Landmarks = Literal["full", "lite", "off"]
Answer = Literal["head", "network"]
Scores = dict[str, float | int | str]

# A hand of ours is another one where it lies farther off, in sides of the label's box.
_OTHER_HAND = 0.35
_MISSED = 1.0
_COLUMNS, _ROWS, _TILE_PX, _TILE_PADDING = 5, 2, 300, 1.7
_REFERENCE_RGB, _OURS_RGB = (60, 230, 60), (240, 40, 40)


class Estimator(Protocol):
    """What of a `HandMeshEstimator` is measured."""

    def __call__(
        self,
        image_rgb: np.ndarray,
        camera: Camera | None = None,
        detections: Sequence[Detection] | None = None,
        *,
        keeps_sides: bool = False,
    ) -> list[Hand]: ...

    def track(self, image_rgb: np.ndarray, time_s: float, camera: Camera | None = None) -> list[Hand]: ...


@dataclass(frozen=True)
class Pipeline:
    """An estimator and the hand model that it poses."""

    estimator: Estimator
    model: HandModel

    def tile(self, image: np.ndarray, hands: Sequence[Hand], camera: Camera, reference_px: np.ndarray | None, words: str) -> np.ndarray:
        """The square around a hand: meshes, our landmarks red, the reference's green. Without a reference the first of `hands`."""
        drawn = draw_overlay(image, hands, self.model, camera)
        ours_px = [hand.landmarks_px for hand in hands]
        around_px = ours_px[0] if reference_px is None else reference_px
        middle_px = (around_px.min(axis=0) + around_px.max(axis=0)) / 2
        side_px = max(_TILE_PADDING * float(np.ptp(around_px, axis=0).max()), 1.0)
        scale = _TILE_PX / side_px
        shift = (_TILE_PX - 1) / 2 - middle_px * scale
        tile = cv2.warpAffine(drawn, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), (_TILE_PX, _TILE_PX), flags=cv2.INTER_LINEAR)
        for points_px, rgb in [(points, _OURS_RGB) for points in ours_px] + (
            [] if reference_px is None else [(reference_px, _REFERENCE_RGB)]
        ):
            points = np.clip(np.rint((points_px * scale + shift) * 16), -100_000, 100_000).astype(int)
            for child, parent in BONES:
                cv2.line(tile, points[child].tolist(), points[parent].tolist(), rgb, 1, cv2.LINE_AA, 4)
        write_words(tile, words)
        return tile


class Worst:
    """The tiles of the worst hands, one of each group; only they are drawn."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._kept: dict[int, tuple[float, np.ndarray]] = {}

    def add(self, group: int, error: float, draw: Callable[[], np.ndarray]) -> None:
        """Keep the tile of a hand that is the worst of its group, if fewer than `_COLUMNS` * `_ROWS` groups have a worse one."""
        others = [kept for key, (kept, _) in self._kept.items() if key != group]
        is_among = len(others) < _COLUMNS * _ROWS or error > min(others)
        if is_among and (group not in self._kept or error > self._kept[group][0]):
            self._kept[group] = (error, draw())
            if len(self._kept) > _COLUMNS * _ROWS:
                del self._kept[min(self._kept, key=lambda key: self._kept[key][0])]

    def sheet(self) -> np.ndarray:
        """The worst first, below a title."""
        bar = np.zeros((28, _COLUMNS * _TILE_PX, 3), np.uint8)
        write_words(bar, self._title)
        images = [image for _, image in sorted(self._kept.values(), key=lambda kept: -kept[0])]
        return np.concatenate([bar, tiled(images, _COLUMNS, -(-len(images) // _COLUMNS))]) if images else bar


def distance_over_box(points_px: np.ndarray, landmarks_px: np.ndarray) -> float:
    """Mean distance of (21, 2) points to landmarks over the larger side of the landmarks' box."""
    return float(np.linalg.norm(points_px - landmarks_px, axis=1).mean() / np.ptp(landmarks_px, axis=0).max())


def nearest_distance(hands: Sequence[Hand], landmarks_px: np.ndarray) -> float:
    """D of the hand nearest to (21, 2) reference landmarks."""
    return min([distance_over_box(hand.landmarks_px, landmarks_px) for hand in hands] + [_MISSED])


def detection_of(landmarks_px: np.ndarray, is_right: bool) -> Detection:
    """The box of landmarks, as a detection that says nothing else."""
    return Detection(np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)]), is_right, 1.0)


def read_reference(path: Path, cache: Path | None) -> list[np.ndarray]:
    """MediaPipe's hands in every frame of a video, each (hands, 21, 2), in image mode at its own thresholds.

    Args:
        cache: .npz that is read where it is there, and written where it is not.

    Raises:
        UserError: not a video, no hand in it, or a cache of another video.
    """
    video = np.array(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
    if cache is not None and cache.is_file():
        try:
            with np.load(cache) as file:
                kept = {name: file[name] for name in ("video", "frame", "landmarks_px", "frames")}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"expected landmarks of a video in '{cache}', but: {one_line(error)}; delete it") from error
        if kept["video"] != video:
            raise UserError(f"expected landmarks of '{path}' in '{cache}', got those of another video; give another --reference")
        return [kept["landmarks_px"][kept["frame"] == frame] for frame in range(int(kept["frames"]))]
    detector = TasksDetector(max_hands=2)
    found = [
        [detection.landmarks_px for detection in detector(image) if detection.landmarks_px is not None]
        for _, image in track(frames_rgb(path), "reference")
    ]
    detector.close()
    hands = [(frame, landmarks_px) for frame, of_frame in enumerate(found) for landmarks_px in of_frame]
    if not hands:
        raise UserError(f"expected a hand in '{path}', but MediaPipe finds none in {len(found)} frames; take another video")
    if cache is not None:
        frame, landmarks_px = zip(*hands, strict=True)
        with replacing(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, video=video, frame=np.array(frame), landmarks_px=np.array(landmarks_px), frames=len(found))
    return [np.array(of_frame).reshape(-1, 21, 2) for of_frame in found]


def score_video(path: Path, reference: Sequence[np.ndarray], is_paced: bool, pipeline: Pipeline, worst: Worst) -> Scores:
    """D over all hands of the reference.

    Args:
        reference: of each frame, (hands, 21, 2).
        is_paced: no frame is handed over before its time has come.
    """
    distances, unasked, answers = [], 0, hashlib.sha256()
    start = time.perf_counter()
    for index, (time_s, image) in enumerate(track(frames_rgb(path), path.name)):
        if is_paced:
            time.sleep(max(0.0, start + time_s - time.perf_counter()))
        camera = camera_from_fov(image.shape[1], image.shape[0], ASSUMED_FOV_DEG, is_known=False)
        hands = pipeline.estimator.track(image, time_s, camera)
        unasked += bool(hands) and not len(reference[index])
        for hand in hands:
            answers.update(np.float64(hand.track_id).tobytes() + hand.joints_m.tobytes() + hand.vertices_m.tobytes())
        for landmarks_px in reference[index]:
            distance = nearest_distance(hands, landmarks_px)
            distances.append(distance)
            worst.add(int(time_s), distance, partial(pipeline.tile, image, hands, camera, landmarks_px, f"frame {index}: {distance:.3f}"))
    return {
        "hands of the reference": len(distances),
        **_quantiles(distances),
        "missed": int(np.sum(np.array(distances) >= _MISSED)),
        "frames in which only we see a hand": unasked,
        "SHA-256 of all answers": answers.hexdigest()[:12],
    }


def score_photographs(folder: Path, every: int, pipeline: Pipeline, worst: Worst) -> Scores:
    """D, side and presence on the validation split.

    Raises:
        UserError: no such folder, or no hand to validate with.
    """
    distances, side_hit, is_present = [], [], []
    for row in track(_validation(folder / "hands.jsonl", ("file", "split", "is_right", "landmarks_px"), every), "photographs"):
        image, landmarks_px = _read_rgb(folder / row["file"]), landmarks_of(row)
        height, width = image.shape[:2]
        camera = camera_from_focal(width, height, float(FOCAL_OVER_SIZE * PADDING * np.ptp(landmarks_px, axis=0).max()))
        flipped_px = landmarks_px * (-1, 1) + (width - 1, 0)
        hands, flipped = (
            pipeline.estimator(shown, camera, [detection_of(points_px, True)])
            for shown, points_px in ((image, landmarks_px), (mirror_picture(image), flipped_px))
        )
        distance = nearest_distance(hands, landmarks_px)
        distances.append(distance)
        is_present.append(any(hand.params.presence > 0.5 for hand in hands))
        sides = [(of_one, row["is_right"] != is_flipped) for of_one, is_flipped in ((hands, False), (flipped, True))]
        side_hit.append(np.mean([bool(of_one) and of_one[0].is_right == is_right for of_one, is_right in sides]))
        worst.add(
            len(distances),
            distance,
            partial(pipeline.tile, image, hands, camera, landmarks_px, f"{row['file'].split('/')[-1]}: {distance:.3f}"),
        )
    if not distances:
        raise UserError(f"expected hands to validate with in '{folder}', got none; give another folder or a smaller --every")
    absent_hit = []
    negatives = folder / "negatives.jsonl"
    for row in track(_validation(negatives, ("file", "split"), every) if negatives.is_file() else [], "images without a hand"):
        image = _read_rgb(folder / row["file"])
        height, width = image.shape[:2]
        box_px = np.outer((1 - 1 / CROP_PADDING, 1 + 1 / CROP_PADDING), (width - 1, height - 1)).ravel() / 2
        camera = camera_from_focal(width, height, FOCAL_OVER_SIZE * max(width, height))
        hands = pipeline.estimator(image, camera, [Detection(box_px, True, 1.0)])
        absent_hit.append(not any(hand.params.presence > 0.5 for hand in hands))
    return {
        "hands": len(distances),
        **_quantiles(distances),
        "missed": int(np.sum(np.array(distances) >= _MISSED)),
        "side, both orientations %": 100 * float(np.mean(side_hit)),
        "present %": 100 * float(np.mean(is_present)),
        "images without a hand": len(absent_hit),
        **({"no hand seen in them %": 100 * float(np.mean(absent_hit))} if absent_hit else {}),
    }


def score_frames(
    pictures: Pictures, listed: frozenset[int] | None, every: int, worst_strays: Worst, pipeline: Pipeline, worst: Worst
) -> Scores:
    """Whole frames with our own detection.

    Args:
        listed: numbers of the images whose hands are scored; None for all that are found.

    Raises:
        UserError: none of these hands is found.
    """
    labels = np.asarray(pictures.labels())
    rows, present, found, asked, hand_free, strays = [], 0, 0, 0, 0, 0
    for index in track(range(0, len(labels), every), "whole frames"):
        label = labels[index]
        is_hand = label["presence"] == 1
        if not is_hand and shares.has_hand(label):
            continue
        image = pictures.image(index)
        height, width = image.shape[:2]
        if not is_hand:
            camera = camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)
            hands = pipeline.estimator(image, camera)
            hand_free += 1
            strays += bool(hands)
            if hands:
                worst_strays.add(
                    index, hands[0].score, partial(pipeline.tile, image, hands, camera, None, f"{index}: {hands[0].score:.2f}")
                )
            continue
        camera = camera_from_focal(width, height, float(label["focal_px"]))
        keypoints_px = label["keypoints_px"].astype(np.float64)
        hands = pipeline.estimator(image, camera)
        nearest = min(hands, key=lambda hand: distance_over_box(hand.keypoints_px, keypoints_px), default=None)
        is_found = nearest is not None and distance_over_box(nearest.keypoints_px, keypoints_px) < _OTHER_HAND
        is_asked = listed is None or index in listed
        present, found, asked = present + 1, found + is_found, asked + is_asked
        if nearest is not None and is_found and is_asked:
            errors = space_errors(pipeline.model, nearest, label, pictures.is_left(index))
            rows.append(errors)
            worst.add(
                index,
                errors["PA-MPJPE mm"],
                partial(pipeline.tile, image, [nearest], camera, keypoints_px, f"{index}: {errors['PA-MPJPE mm']:.1f} mm"),
            )
    if not rows:
        raise UserError(f"expected hands to score, got {asked} asked for of which none is found; give another set, list or --every")
    return {
        "hands": present,
        "found %": 100 * found / present,
        "hands asked for": asked,
        "of them missed": asked - len(rows),
        **_means(rows),
        "images without a hand": hand_free,
        **({"a hand in them %": 100 * strays / hand_free} if hand_free else {}),
    }


def score_boxes(pictures: Pictures, every: int, pipeline: Pipeline, worst: Worst) -> Scores:
    """Every hand that is present, from its own box and side.

    Raises:
        UserError: there is none.
    """
    labels = np.asarray(pictures.labels())
    rows, missed = [], 0
    for index in track(np.flatnonzero(labels["presence"] == 1)[::every].tolist(), "boxes"):
        label, image, is_left = labels[index], pictures.image(index), pictures.is_left(index)
        camera = camera_from_focal(image.shape[1], image.shape[0], float(label["focal_px"]))
        keypoints_px = label["keypoints_px"].astype(np.float64)
        hands = pipeline.estimator(image, camera, [detection_of(keypoints_px, not is_left)], keeps_sides=True)
        missed += not hands
        for hand in hands:
            errors = space_errors(pipeline.model, hand, label, is_left)
            rows.append(errors)
            error_mm = errors["PA-MPJPE mm"]
            worst.add(index, error_mm, partial(pipeline.tile, image, [hand], camera, keypoints_px, f"{index}: {error_mm:.1f} mm"))
    if not rows:
        raise UserError(f"expected labelled hands, got {missed} and none of them seen; give another set or a smaller --every")
    return {"hands": len(rows) + missed, "missed": missed, **_means(rows)}


def space_errors(model: HandModel, hand: Hand, label: np.ndarray, is_left: bool) -> dict[str, float]:
    """A found hand's errors against () LABEL_DTYPE, joints alone."""
    true_m, ours_m = true_hand(model, label, is_left)[1].astype(np.float64), hand.joints_m.astype(np.float64)
    true_length_m = model.length_m(label["betas"].astype(np.float64))
    to_true_length = true_length_m / (hand.scale * model.length_m(hand.params.betas.astype(np.float64)))

    def mean_mm(points_m: np.ndarray) -> float:
        return 1e3 * float(np.linalg.norm(points_m - true_m, axis=1).mean())

    return {
        "PA-MPJPE mm": mean_mm(procrustes(ours_m[None], true_m[None])[0]),
        "MPJPE from the root mm": mean_mm(ours_m - ours_m[ROOT] + true_m[ROOT]),
        "place error mm": mean_mm(ours_m),
        "... true length given mm": mean_mm(to_true_length * ours_m),
        "... size alone mm": mean_mm(true_m * model.length_m(np.zeros(10)) / true_length_m),
        "keypoints to the truth, % of the box": 100 * distance_over_box(hand.keypoints_px, label["keypoints_px"].astype(np.float64)),
        "side %": 100.0 * (hand.is_right != is_left),
    }


def _means(rows: Sequence[dict[str, float]]) -> Scores:
    scores: Scores = {}
    for name in rows[0]:
        mean = mean_of(np.array([row[name] for row in rows]))
        scores[name] = mean.value
        if name == "PA-MPJPE mm":
            scores["... ±"] = mean.half_width
    return scores


def _quantiles(distances: Sequence[float]) -> Scores:
    median, percentile_95 = np.percentile(distances, (50, 95)).tolist()
    return {"D median": median, "D 95 %": percentile_95}


def _validation(path: Path, needed: Sequence[str], every: int) -> list[dict[str, Any]]:
    return [row for row in read_lines(path, needed) if row["split"] == "validation"][::every]


def _read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(read_picture(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_listed(path: Path) -> frozenset[int]:
    """Numbers of images, one a line.

    Raises:
        UserError: no such file, or something else in it.
    """
    try:
        return frozenset(map(int, path.read_text(encoding="utf-8").split()))
    except (OSError, ValueError) as error:
        raise UserError(f"expected numbers of images in '{path}', one a line, but: {one_line(error)}; give another --listed") from error


def table_of(sections: dict[str, Scores]) -> TextTable:
    """A row for each number."""
    rows: list[tuple[str, ...] | None] = []
    for section, scores in sections.items():
        rows += [None] if rows else []
        rows += [(section, name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in scores.items()]
    return TextTable("The whole pipeline", ("", "measure", "value"), tuple(rows))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="score_hands", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--video", type=Path, help="video of hands")
    parser.add_argument("--reference", type=Path, help="npz of MediaPipe's landmarks in that video; made where it is not there")
    parser.add_argument("--photographs", type=Path, help="folder of hands.jsonl, as pack_photographs.py reads")
    parser.add_argument("--frames", type=Path, help="rendered set whose whole frames are looked at")
    parser.add_argument("--listed", type=Path, help="file with the numbers of the images of --frames whose hands are scored")
    parser.add_argument("--boxes", type=Path, help="rendered set whose labelled boxes are looked at")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph and rendered image")
    parser.add_argument("--model", help="an exported network; the embedded one if left out")
    parser.add_argument("--landmarks", choices=get_args(Landmarks), help="as of HandMeshEstimator; its defaults if left out")
    parser.add_argument("--answer", choices=get_args(Answer), help="as of HandMeshEstimator")
    parser.add_argument("--precision", choices=get_args(Precision), help="as of HandMeshEstimator")
    parser.add_argument("--max-hands", type=int, default=2, help="most hands to look for")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0 lets the runtime choose")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--sheet", type=Path, help="PNG of the ten worst of each; of a video, of each second the worst")
    arguments = parser.parse_args(argv)
    if not (arguments.video or arguments.photographs or arguments.frames or arguments.boxes):
        raise UserError("expected something to look at, got none; give --video, --photographs, --frames or --boxes")
    if arguments.every < 1 or arguments.max_hands < 1:
        raise UserError(f"expected --every and --max-hands from 1 on, got {arguments.every} and {arguments.max_hands}; leave them out")
    for flag, needs in (("reference", "video"), ("listed", "frames")):
        if getattr(arguments, flag) and not getattr(arguments, needs):
            raise UserError(f"expected --{needs} with --{flag}, got none; add it or leave --{flag} out")
    if arguments.photographs and not (arguments.photographs / "hands.jsonl").is_file():
        raise UserError(f"expected hands.jsonl in '{arguments.photographs}', which has none; give another --photographs")
    for path in (arguments.json, arguments.sheet, arguments.reference):
        if path and not path.resolve().parent.is_dir():
            raise UserError(f"expected a file in a folder that is there, got '{path}'; make its folder first")

    model = load_hand_model("open")
    frames, boxes = (open_set(folder, model) if folder else None for folder in (arguments.frames, arguments.boxes))
    listed = read_listed(arguments.listed) if arguments.listed else None
    given = {name: getattr(arguments, name) for name in ("landmarks", "answer", "precision") if getattr(arguments, name)}
    settings = {"max_hands": arguments.max_hands, "threads": arguments.threads, **given}
    sections: dict[str, Scores] = {}
    sheets: list[Worst] = []

    def measure(title: str, score: Callable[[Pipeline, Worst], Scores], is_live: bool = False) -> None:
        worst = Worst(f"{title}: worst")
        with HandMeshEstimator(arguments.model, model, is_live=is_live, **settings) as estimator:
            estimator.prepare()
            sections[title] = score(Pipeline(estimator, model), worst)
        sheets.append(worst)

    if arguments.video:
        reference = read_reference(arguments.video, arguments.reference)
        for title, is_live in (("video, as a file", False), ("video, as a camera", True)):
            measure(title, partial(score_video, arguments.video, reference, is_live), is_live)
    if arguments.photographs:
        measure("photographs", partial(score_photographs, arguments.photographs, arguments.every))
    if frames:
        strays = Worst("whole frames: a hand where there is none")
        measure("whole frames", partial(score_frames, frames, listed, arguments.every, strays))
        sheets.append(strays)
    if boxes:
        measure("own boxes", partial(score_boxes, boxes, arguments.every))

    console = Console(width=120)
    console.print(f"{arguments.model or 'embedded network'}; {', '.join(f'{name} {value}' for name, value in settings.items())}")
    console.print(to_rich(table_of(sections)))
    if arguments.json:
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps({"settings": settings, **sections}, indent=1) + "\n", encoding="utf-8")
    if arguments.sheet:
        write_png(np.concatenate([worst.sheet() for worst in sheets]), arguments.sheet, "--sheet")


if __name__ == "__main__":
    sys.exit(guard("score_hands", main))
