"""A picture in, hands out, on frames of the embedded clip: laws that hold whatever the networks have learnt."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import wait
from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh import Camera, HandMeshEstimator
from handmesh.detection import HandDetector
from handmesh.detection.landmarks import LandmarkNetwork
from handmesh.detection.palm import PalmDetector, letterbox
from handmesh.errors import UserError
from handmesh.estimator import _to_look_at
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.geometry.crop import mirror_picture, resize_camera
from handmesh.geometry.rotation import nearest_rotmat
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.assets import ASSETS
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.head import HEADS, Head, HeadInfo
from handmesh.records import Detection, HandParams
from handmesh.runtime import DEFAULT_MODEL
from handmesh.skeleton import WRIST
from handmesh.tracking import Track

FRAME = 150  # both hands are up


@pytest.fixture(scope="module")
def image_rgb() -> np.ndarray:
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    for _ in range(FRAME):
        video.grab()
    _, image_bgr = video.read()
    return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def camera(image_rgb) -> Camera:
    return camera_from_fov(image_rgb.shape[1], image_rgb.shape[0], 60)


@pytest.fixture(scope="module")
def estimator():
    with HandMeshEstimator() as estimator:
        yield estimator


@pytest.fixture(scope="module")
def detector():
    return HandDetector()


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """A second of the clip, both hands in view."""
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    for _ in range(FRAME):
        video.grab()
    return [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB) for _ in range(30)]


@pytest.fixture(scope="module")
def hands(estimator, image_rgb, camera):
    return estimator(image_rgb, camera)


def _mirrored(detection: Detection, width: int) -> Detection:
    assert detection.landmarks_px is not None
    landmarks_px = detection.landmarks_px * (-1, 1) + (width - 1, 0)
    return replace(
        detection,
        box_px=np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)]),
        is_right=not detection.is_right,
        landmarks_px=landmarks_px,
    )


def test_both_hands_are_found(hands):
    # The clip shows its right hand on the left of the picture: it is no mirror.
    assert [hand.is_right for hand in hands] == [True, False]
    assert [hand.track_id for hand in hands] == [0, 1]
    for hand in hands:
        middle = (hand.box_px[:2] + hand.box_px[2:]) / 2
        side = (hand.box_px[2:] - hand.box_px[:2]).max()
        assert np.abs(hand.keypoints_px.mean(axis=0) - middle).max() < 0.5 * side
        assert 0.2 < hand.joints_m[WRIST, 2] < 3


def test_a_hand_is_consistent(hands, camera, estimator):
    for hand in hands:
        assert hand.vertices_m.shape == estimator.hand_model.template_m.shape
        # Joints come from the mesh, keypoints from the joints, and the wrist's pose sits on the wrist.
        assert hand.joints_m == pytest.approx(estimator.hand_model.joints(hand.vertices_m), abs=1e-5)
        assert hand.keypoints_px == pytest.approx(project(hand.joints_m, camera), abs=1e-6)
        moved_m = landmarks_m(hand.joints_m, hand.T_camera_wrist[:3, :3], hand.params.rotmats, hand.is_right, hand.scale)
        assert hand.landmarks_px == pytest.approx(project(moved_m, camera), abs=0.01)
        assert hand.params.spread_m is not None and hand.params.spread_m.shape == (21,)
        assert hand.T_camera_wrist[:3, 3] == pytest.approx(hand.joints_m[WRIST])
        R = hand.T_camera_wrist[:3, :3]
        assert pytest.approx(np.eye(3), abs=1e-5) == R @ R.T and np.linalg.det(R) == pytest.approx(1, abs=1e-5)


def test_faces_look_outwards(hands, estimator):
    """The volume under the triangles is positive when they face outwards, for right and left hands alike."""
    for hand in hands:
        a, b, c = (hand.vertices_m[estimator.hand_model.faces_for(hand.is_right)[:, k]] - hand.vertices_m.mean(axis=0) for k in range(3))
        assert np.einsum("fi,fi->f", a, np.cross(b, c)).sum() > 0


def test_the_mirrored_picture_gives_mirrored_hands(estimator, detector, image_rgb, camera):
    detections = detector(image_rgb)
    plain = estimator(image_rgb, camera, detections)
    width = image_rgb.shape[1]
    mirrored = estimator(mirror_picture(image_rgb), camera, [_mirrored(detection, width) for detection in detections])[::-1]
    for one, other in zip(plain, mirrored, strict=True):
        assert one.is_right != other.is_right
        # The camera's principal point is in the middle of the picture, so the hands mirror too.
        assert other.joints_m * (-1, 1, 1) == pytest.approx(one.joints_m, abs=2e-4)
        assert other.keypoints_px * (-1, 1) + (width - 1, 0) == pytest.approx(one.keypoints_px, abs=0.3)
        assert other.T_camera_wrist[:3, :3] * [[1, -1, -1], [-1, 1, 1], [-1, 1, 1]] == pytest.approx(one.T_camera_wrist[:3, :3], abs=3e-3)


def test_stretched_pictures_with_their_camera_give_the_same_hands(estimator, detector, image_rgb, camera):
    """fx != fy: a picture squeezed in height, whose camera says so, shows the same hands at the same places."""
    height, width = image_rgb.shape[:2]
    squeezed = cv2.resize(image_rgb, (width, height * 3 // 4), interpolation=cv2.INTER_AREA)
    detections = detector(image_rgb)
    scale = np.array([1, 0.75])
    moved = [
        replace(d, landmarks_px=(p := (d.landmarks_px + 0.5) * scale - 0.5), box_px=np.concatenate([p.min(0), p.max(0)]))
        for d in detections
    ]
    for one, other in zip(
        estimator(image_rgb, camera, detections),
        estimator(squeezed, resize_camera(camera, width, height * 3 // 4), moved),
        strict=True,
    ):
        assert np.linalg.norm(one.joints_m - other.joints_m, axis=1).mean() < 0.01 * one.joints_m[WRIST, 2]


@pytest.mark.parametrize("believes_right", [True, False])
def test_a_box_alone_will_do_whatever_side_is_given(estimator, image_rgb, camera, hands, believes_right):
    boxes = [Detection(hand.box_px, believes_right, 1.0) for hand in hands]
    for found, hand in zip(estimator(image_rgb, camera, boxes), hands, strict=True):
        assert found.is_right == hand.is_right
        assert np.linalg.norm(found.keypoints_px - hand.keypoints_px, axis=1).mean() < 0.1 * np.ptp(hand.box_px.reshape(2, 2), axis=0).max()


def test_a_side_that_is_known_is_kept(estimator, image_rgb, camera, hands):
    for is_right in (True, False):
        boxes = [Detection(hand.box_px, is_right, 1.0) for hand in hands]
        assert [hand.is_right for hand in estimator(image_rgb, camera, boxes, keeps_sides=True)] == [is_right] * 2


def test_the_palm_in_a_box_shows_the_hand_where_the_hand_network_does_not(image_rgb, camera, hands, monkeypatch):
    with HandMeshEstimator(answer="network") as estimator:
        # It sees all hands far from where they are.
        monkeypatch.setattr(estimator, "_predictor", _Changed(estimator._predictor, camera=np.array([60.0, 0.05, 0.05])))
        look, boxes = estimator._perception(), [Detection(hand.box_px, True, 1.0) for hand in hands]
        targets = estimator._search_boxes(look, image_rgb, camera, [Track(0, box, 0.0, 1.0) for box in boxes], keeps_sides=False)
        assert estimator.times.calls("detect") == len(hands)
    for target, hand in zip(targets, hands, strict=True):
        assert target.track.is_right == hand.is_right
        assert np.linalg.norm(target.region_px - hand.landmarks_px, axis=1).mean() < 0.15 * np.ptp(hand.box_px.reshape(2, 2), axis=0).max()


class _Changed:
    """A network that says something else than it saw."""

    def __init__(self, predictor, **says):
        self.info, self.precision, self._predictor, self._says = predictor.info, predictor.precision, predictor, says

    def __call__(self, crops):
        return [replace(params, **self._says) for params in self._predictor(crops)]


def test_no_hand_no_mesh(estimator, camera, image_rgb):
    assert estimator(np.full_like(image_rgb, 128), camera) == []


def _track_all(estimator, frames, camera, start_s=0.0):
    return [estimator.track(frame, start_s + index / 30, camera) for index, frame in enumerate(frames)]


def test_a_video_keeps_identities_and_looks_for_others_only_while_one_may_be_missing(frames, camera):
    for most, detect in ((2, 1), (3, 10)):
        with HandMeshEstimator(camera=camera, max_hands=most) as estimator:
            all_hands = _track_all(estimator, frames, camera)
            assert {tuple(hand.track_id for hand in hands) for hands in all_hands} == {(all_hands[0][0].track_id, all_hands[0][1].track_id)}
            calls = {name: count for name, count, *_ in estimator.times.table()}
            # The head reads the landmark network alone: nobody asks the hand network.
            assert set(calls) == {"detect", "find", "landmarks", "head", "mesh", "smooth"}
            # At the start, and ten times a second where there may be a third.
            assert calls["detect"] == detect and calls["find"] == 1 and calls["landmarks"] == calls["head"] == len(frames)
            estimator.reset()
            assert len(estimator.track(frames[0], 0.0)) == 2


def test_following_meshes_is_as_good_as_finding_hands_in_every_frame(frames, camera):
    with HandMeshEstimator(landmarks="lite", camera=camera, smooth=0) as estimator:
        followed = _track_all(estimator, frames, camera)
        for hands, frame in zip(followed, frames, strict=True):
            for one, other in zip(hands, estimator(frame, camera), strict=True):
                side = (one.box_px[2:] - one.box_px[:2]).max()
                assert one.is_right == other.is_right
                assert np.linalg.norm(one.keypoints_px - other.keypoints_px, axis=1).mean() < 0.06 * side


def test_the_same_file_gives_the_same_hands_whatever_the_palm_detector_takes(frames, camera, monkeypatch):
    runs = []
    for delay_s in (0.0, 0.0, 0.08):

        class Slow(PalmDetector):
            def run(self, small, delay_s=delay_s):
                time.sleep(delay_s)
                return super().run(small)

        monkeypatch.setattr("handmesh.estimator.PalmDetector", Slow)
        with HandMeshEstimator(camera=camera, threads=1) as estimator:
            shown = [_half_covered(frame) for frame in frames[:8]] + frames[8:20]
            runs.append(_track_all(estimator, shown, camera))
    assert [len(hands) for hands in runs[0]][::19] == [1, 2]
    assert len({_bytes_of(run) for run in runs}) == 1


def _half_covered(frame):
    covered = frame.copy()
    covered[:, frame.shape[1] // 2 :] = 128
    return covered


def _bytes_of(run) -> bytes:
    return b"".join(
        bytes([hand.track_id, hand.is_right]) + hand.vertices_m.tobytes() + hand.landmarks_px.tobytes() for hands in run for hand in hands
    )


@pytest.mark.parametrize("landmarks", ["lite", "off"])
def test_a_second_hand_is_followed_within_200_ms(frames, camera, landmarks):
    waits = []
    for covered in (4, 5, 6):
        with HandMeshEstimator(landmarks=landmarks, camera=camera) as estimator:
            shown = [_half_covered(frame) for frame in frames[:covered]] + frames[covered:]
            counts = [len(hands) for hands in _track_all(estimator, shown, camera)]
        assert counts[:covered] == [1] * covered
        waits.append(counts.index(2) - covered + 1)
        assert counts[counts.index(2) :] == [2] * (len(frames) - counts.index(2))
    assert max(waits) <= 6 and sorted(waits)[1] <= 4


def test_hands_can_be_had_as_they_were_seen(frames, camera):
    answers = {}
    for smooth in (None, 0.0):
        with HandMeshEstimator(camera=camera, smooth=smooth) as estimator:
            assert estimator.smooth == smooth
            answers[smooth] = _track_all(estimator, frames[:8], camera)
    for seen, held in zip(answers[None], answers[0.0], strict=True):
        for one, other in zip(seen, held, strict=True):
            np.testing.assert_allclose(one.params.rotmats[1:], other.params.rotmats[1:], atol=1e-6)
    # A shape of its own in every frame, rather than the mean so far.
    betas = {smooth: np.array([hands[0].params.betas for hands in followed]) for smooth, followed in answers.items()}
    np.testing.assert_allclose(betas[None].mean(axis=0), betas[0.0][-1], atol=0.2)
    assert np.abs(np.diff(betas[None], axis=0))[3:].max() > 2 * np.abs(np.diff(betas[0.0], axis=0))[3:].max()


@pytest.mark.parametrize(("answer", "asked"), [("head", []), ("network", [2] * 5)])
def test_two_hands_are_one_batch(frames, camera, monkeypatch, answer, asked):
    sizes, looked = [], []
    look = LandmarkNetwork.__call__
    monkeypatch.setattr(LandmarkNetwork, "__call__", lambda self, regions: looked.append(len(regions)) or look(self, regions))
    with HandMeshEstimator(camera=camera, answer=answer) as estimator:
        monkeypatch.setattr(estimator, "_predictor", _Spy(estimator._predictor, lambda crops: sizes.append(len(crops))))
        _track_all(estimator, frames[:4], camera)
        # Once more for hands that are new: where their palms were found, and by the hand network where it answers.
        assert sizes == asked and looked == [2] * 5


class _Spy:
    def __init__(self, predictor, look):
        self.info, self.path, self.precision = predictor.info, predictor.path, predictor.precision
        self._predictor, self._look = predictor, look

    def __call__(self, crops):
        self._look(crops)
        return self._predictor(crops)


def test_hands_that_leave_are_lost_and_found_again(frames, camera):
    empty = np.full_like(frames[0], 128)
    with HandMeshEstimator(camera=camera) as estimator:
        assert len(_track_all(estimator, frames[:3], camera)[-1]) == 2
        assert _track_all(estimator, [empty] * 6, camera, 0.1)[-1] == []
        assert len(_track_all(estimator, frames[3:5], camera, 0.3)[-1]) == 2


def test_a_camera_never_waits_for_the_palm_detector(frames, camera, monkeypatch):
    """One that does not answer until it may: frames go by, without hands; then the hands are followed from where it saw them."""
    may_answer = threading.Event()

    class Slow(PalmDetector):
        def run(self, small):
            assert may_answer.wait(60)
            return super().run(small)

    monkeypatch.setattr("handmesh.estimator.PalmDetector", Slow)
    with HandMeshEstimator(camera=camera, is_live=True) as estimator:
        assert _track_all(estimator, frames[:3], camera) == [[], [], []]
        may_answer.set()
        assert estimator._search._answer is not None
        estimator._search._answer.result()
        assert len(estimator.track(frames[3], 0.1, camera)) == 2


def test_a_palm_detector_that_fails_once_is_asked_again(frames, camera, monkeypatch):
    class Moody(PalmDetector):
        calls = 0

        def run(self, small):
            Moody.calls += 1
            if Moody.calls == 1:
                raise RuntimeError("not now")
            return super().run(small)

    monkeypatch.setattr("handmesh.estimator.PalmDetector", Moody)
    for is_live in (False, True):
        Moody.calls = 0
        with HandMeshEstimator(camera=camera, is_live=is_live) as estimator:
            failures, hands = 0, []
            for index, frame in enumerate(frames[:8]):
                try:
                    hands = estimator.track(frame, index / 30, camera)
                except RuntimeError:
                    failures += 1
                if estimator._search._answer is not None:
                    wait([estimator._search._answer])
            assert failures == 1 and len(hands) == 2
            estimator.reset()


def test_an_earlier_time_starts_another_video(frames, camera):
    with HandMeshEstimator(camera=camera) as estimator:
        first = estimator.track(frames[0], 1000.0, camera)
        again = estimator.track(frames[0], 0.0, camera)
        assert [hand.track_id for hand in first] == [hand.track_id for hand in again] and {hand.track_id for hand in again} == {0, 1}
        assert estimator.times.calls("detect") == 2


def test_the_caller_may_draw_on_its_picture_while_the_palm_detector_looks(frames, camera, monkeypatch):
    seen, may_look = [], threading.Event()

    class Slow(PalmDetector):
        def run(self, small):
            assert may_look.wait(60)
            seen.append(small.square.copy())
            return []

    monkeypatch.setattr("handmesh.estimator.PalmDetector", Slow)
    with HandMeshEstimator(camera=camera, is_live=True) as estimator:
        mine = frames[0].copy()
        estimator.track(mine, 0.0, camera)
        mine[:] = 0
        may_look.set()
    assert (seen[0] == letterbox(frames[0]).square).all()


def test_an_assumed_focal_is_said_once(image_rgb, caplog):
    with HandMeshEstimator() as estimator:
        estimator(image_rgb)
        estimator(image_rgb[:200])
        assert len([record for record in caplog.records if "assuming" in record.message]) == 1


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_what_is_no_rgb_picture_is_refused(estimator, image):
    with pytest.raises(UserError, match="expected an RGB picture"):
        estimator(image)


@pytest.mark.parametrize(
    ("box_px", "landmarks_px", "says"),
    [
        ((0, 0, np.nan, 9), None, "boxes"),
        ((0, 0, np.inf, 9), None, "boxes"),
        ((5, 5, 5, 9), None, "boxes"),
        ((9, 9, 5, 5), None, "boxes"),
        ((0, 0, 9), None, "boxes"),
        ((0, 0, 9, 9), np.zeros((20, 2)), "landmarks"),
        ((0, 0, 9, 9), np.full((21, 2), np.nan), "landmarks"),
    ],
)
def test_a_detection_without_a_place_is_refused(estimator, image_rgb, camera, box_px, landmarks_px, says):
    with pytest.raises(UserError, match=f"expected .*{says}"):
        estimator(image_rgb, camera, [Detection(np.array(box_px), True, 1.0, landmarks_px)])


@pytest.mark.parametrize("time_s", [np.nan, np.inf])
def test_a_frame_without_a_time_is_refused(estimator, image_rgb, camera, time_s):
    with pytest.raises(UserError, match="expected the time"):
        estimator.track(image_rgb, time_s, camera)


def test_a_known_camera_of_another_size_is_refused(estimator, image_rgb, camera):
    with pytest.raises(UserError, match="resize_camera"):
        estimator(image_rgb[:-2], camera)


def test_a_network_for_another_hand_is_refused():
    other = replace(load_hand_model("open"), id="somebody-elses")
    with pytest.raises(UserError, match="somebody-elses"):
        HandMeshEstimator(hand_model=other)


def test_a_followed_crop_has_room_for_fingers_that_may_come_out():
    wrist, knuckles = np.array([100.0, 200.0]), np.array([[90.0, 140.0], [100.0, 138.0], [110.0, 140.0], [120.0, 145.0]])
    detection = Detection(np.array([80.0, 80.0, 130.0, 205.0]), True, 0.9, np.zeros((21, 2)))

    def looked_at(bent: float) -> tuple[np.ndarray, np.ndarray]:
        keypoints_px = np.tile(wrist, (21, 1))
        for finger, knuckle in zip((5, 9, 13, 17), knuckles, strict=True):
            straight = knuckle + 0.9 * (knuckle - wrist)
            keypoints_px[finger : finger + 4] = knuckle
            keypoints_px[finger + 3] = straight + bent * (knuckle - straight)
        track = Track(1, detection, 1.0, 0.0, 0.0, keypoints_px=keypoints_px)
        return keypoints_px, _to_look_at(track, np.zeros(2))

    open_hand, points = looked_at(0.0)
    assert points.min(axis=0) == pytest.approx(open_hand.min(axis=0)) and points.max(axis=0) == pytest.approx(open_hand.max(axis=0))
    fist, points = looked_at(1.0)
    room_px = fist[:, 1].min() - points[:, 1].min()
    assert 5 < room_px < 0.5 * (fist[:, 1].min() - open_hand[:, 1].min())
    assert _to_look_at(Track(1, detection, 1.0, 0.0, 0.0), np.zeros(2)) is detection.landmarks_px


class _StandIn:
    """A head that answers a shape of its own."""

    betas = np.full(10, 0.25)
    network_sha256 = hashlib.sha256(DEFAULT_MODEL.read_bytes()).hexdigest()
    hand_model = "open-hand-1"

    def __init__(self, path, runtime="openvino"):
        kind = "lite" if "lite" in path.stem else "full"
        self.info = HeadInfo(kind, self.hand_model, self.network_sha256, {})
        self._head = Head(HEADS[kind], runtime)

    def __call__(self, seen, regions, answers=None):
        assert len(seen) == len(regions)
        return [replace(params, betas=self.betas, spread_m=np.full(21, 0.004)) for params in self._head(seen, regions, answers)]


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr("handmesh.estimator.Head", _StandIn)
    monkeypatch.setattr("handmesh.estimator.read_head_info", lambda path: _StandIn(path).info)
    monkeypatch.setattr(_StandIn, "hand_model", load_hand_model("open").id)
    return _StandIn


def _shapes(hands):
    return np.array([hand.params.betas for hand in hands])


def test_the_head_answers_and_the_network_where_that_is_asked_for(frames, camera, stand_in):
    for options, is_heads in (({}, True), ({"answer": "network"}, False), ({"landmarks": "off"}, False)):
        with HandMeshEstimator(camera=camera, **options) as estimator:
            for hands in (estimator(frames[0], camera), estimator.track(frames[0], 0.0, camera)):
                assert len(hands) == 2 and np.allclose(_shapes(hands), stand_in.betas) == is_heads
                assert [hand.params.spread_m is not None for hand in hands] == [is_heads] * 2


def test_a_picture_gives_the_mean_of_four_looks_by_how_sure_the_head_was(image_rgb, camera, stand_in, monkeypatch):
    heard: list[HandParams] = []

    def answer(head, seen, regions, answers=None):
        told = head._head(seen, regions, answers)
        told = [
            replace(params, betas=np.full(10, len(heard) + row), spread_m=np.full(21, 1e-3 * (1 + len(heard) + row)))
            for row, params in enumerate(told)
        ]
        heard.extend(told)
        return told

    monkeypatch.setattr(stand_in, "__call__", answer)
    with HandMeshEstimator(camera=camera, max_hands=1) as estimator:
        (hand,) = estimator(image_rgb, camera)
    assert len(heard) == 4
    sureness = np.array([np.median(params.spread_m) ** -2 for params in heard])
    assert np.allclose(hand.params.betas, np.average([params.betas for params in heard], axis=0, weights=sureness))
    assert np.allclose(hand.params.spread_m, np.sqrt(np.average([params.spread_m**2 for params in heard], axis=0, weights=sureness)))
    fingers = nearest_rotmat(np.average([params.rotmats[1:] for params in heard], axis=0, weights=sureness))
    assert np.allclose(hand.params.rotmats[1:], fingers)
    # They were not one look four times.
    assert len({params.rotmats.tobytes() for params in heard}) == 4


def test_a_head_for_another_network_is_not_used_and_said_once(frames, camera, stand_in, monkeypatch, caplog):
    monkeypatch.setattr(stand_in, "network_sha256", "0" * 64)
    with HandMeshEstimator(camera=camera) as estimator:
        hands = [*estimator(frames[0], camera), *estimator.track(frames[0], 0.0, camera)]
    assert len(hands) == 4 and not np.isclose(_shapes(hands), stand_in.betas).any()
    said = [record.message for record in caplog.records if "head" in record.message]
    assert len(said) == 1 and "hand network" in said[0]


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("network_sha256", "0" * 64, {}),
        ("hand_model", "somebody-elses", {}),
        ("hand_model", None, {"landmarks": "full"}),
        ("hand_model", None, {"landmarks": "off"}),
        ("hand_model", None, {"answer": "network"}),
    ],
)
def test_a_given_head_that_does_not_fit_is_refused(stand_in, monkeypatch, tmp_path, name, value, options):
    if value is not None:
        monkeypatch.setattr(stand_in, name, value)
    with pytest.raises(UserError, match="expected a head"):
        HandMeshEstimator(head=tmp_path / "my_lite.onnx", **options)


def test_a_given_head_decides_which_landmark_network_looks(frames, camera, stand_in, tmp_path):
    with HandMeshEstimator(head=tmp_path / "my_lite.onnx", camera=camera) as estimator:
        assert len(estimator(frames[0], camera)) == 2
        assert estimator._landmark_network.kind == "lite"


def test_only_what_is_needed_is_loaded_and_once(frames, camera, hands, stand_in, monkeypatch):
    loaded = []
    for name, kind in (("PalmDetector", PalmDetector), ("LandmarkNetwork", LandmarkNetwork)):
        monkeypatch.setattr(
            f"handmesh.estimator.{name}", lambda *args, name=name, kind=kind: loaded.append((name, *args[:1])) or kind(*args)
        )
    boxes = [Detection(hand.box_px, hand.is_right, 1.0) for hand in hands]
    with HandMeshEstimator(landmarks="off", camera=camera) as estimator:
        estimator(frames[0], camera, boxes)
        assert loaded == []
    with HandMeshEstimator(camera=camera) as estimator:
        estimator(frames[0], camera, boxes)
        assert loaded == [("LandmarkNetwork", "full")]
    loaded.clear()
    with HandMeshEstimator(camera=camera) as estimator:
        estimator.prepare(is_video=True)
        _track_all(estimator, frames[:3], camera)
        assert sorted(loaded) == [("LandmarkNetwork", "full"), ("PalmDetector", "openvino")]


def test_without_landmarks_the_landmark_network_looks_once_a_second(frames, camera, monkeypatch):
    looked = []
    look = LandmarkNetwork.__call__
    monkeypatch.setattr(LandmarkNetwork, "__call__", lambda self, regions: looked.append(len(regions)) or look(self, regions))
    with HandMeshEstimator(landmarks="off", camera=camera) as estimator:
        for index in range(62):
            estimator.track(frames[index % 20], index / 30, camera)
    # Where the palms were, and after one second and two.
    assert looked == [2, 2, 2]


def test_the_side_is_the_landmark_networks(frames, camera):
    with HandMeshEstimator(camera=camera, max_hands=1) as estimator:
        (hand,) = estimator.track(frames[0], 0.0, camera)
        (track,) = estimator._tracker.in_view
        estimator._tracker._tracks[track.id] = replace(track, right_evidence=-track.right_evidence)
        sides = [estimator.track(frame, index / 30, camera)[0].is_right for index, frame in enumerate(frames[1:16], 1)]
    assert sides[0] != hand.is_right and sides[-1] == hand.is_right
    # It turns once.
    assert np.count_nonzero(np.diff(sides)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"landmarks": "half"},
        {"answer": "mediapipe"},
        {"runtime": "torch"},
        {"precision": "f16"},
        {"min_confidence": -0.1},
        {"min_confidence": 1.5},
        {"min_confidence": np.nan},
        {"max_hands": 0},
        {"threads": -1},
    ],
)
def test_what_there_is_not_is_refused(options):
    with pytest.raises(UserError, match="expected"):
        HandMeshEstimator(**options)


def test_less_confidence_finds_more(image_rgb, camera):
    grey = np.repeat(cv2.cvtColor(cv2.GaussianBlur(image_rgb, (0, 0), 6), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    counts = []
    for confidence in (0.999, 0.05):
        with HandMeshEstimator(camera=camera, min_confidence=confidence) as estimator:
            counts.append(len(estimator(grey, camera)))
    assert counts[0] < counts[1]
