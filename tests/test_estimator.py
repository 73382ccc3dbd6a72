"""A picture in, hands out, on a frame of the embedded clip: laws that hold whatever the network has learnt."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh import Camera, HandMeshEstimator
from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.estimator import _to_look_at
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.geometry.crop import mirror_picture, resize_camera
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.assets import ASSETS
from handmesh.records import Detection
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


def test_a_box_alone_will_do(estimator, image_rgb, camera, hands):
    (hand,) = estimator(image_rgb, camera, [Detection(hands[0].box_px, hands[0].is_right, 1.0)])
    assert hand.is_right == hands[0].is_right
    assert (
        np.linalg.norm(hand.keypoints_px - hands[0].keypoints_px, axis=1).mean() < 0.2 * np.ptp(hands[0].box_px.reshape(2, 2), axis=0).max()
    )


def test_no_hand_no_mesh(estimator, camera, image_rgb):
    assert estimator(np.full_like(image_rgb, 128), camera) == []


def _track_all(estimator, frames, camera, start_s=0.0):
    return [estimator.track(frame, start_s + index / 30, camera) for index, frame in enumerate(frames)]


def test_a_video_keeps_identities_and_asks_the_detector_now_and_then(frames, camera):
    with HandMeshEstimator(camera=camera) as estimator:
        all_hands = _track_all(estimator, frames, camera)
        assert {tuple(hand.track_id for hand in hands) for hands in all_hands} == {(all_hands[0][0].track_id, all_hands[0][1].track_id)}
        calls = {name: count for name, count, *_ in estimator.times.table()}
        assert set(calls) == {"detect", "crop", "network", "mesh", "smooth"}
        # The first frame is looked at twice; after that a hand is where its mesh was.
        assert 1 <= calls["detect"] <= 3 and calls["network"] == calls["crop"] == len(frames) + 1
        estimator.reset()
        assert len(estimator.track(frames[0], 0.0)) == 2


def test_following_meshes_is_as_good_as_finding_hands_in_every_frame(frames, camera):
    with HandMeshEstimator(camera=camera, smooth=0) as estimator:
        followed = _track_all(estimator, frames, camera)
        for hands, frame in zip(followed, frames, strict=True):
            for one, other in zip(hands, estimator(frame, camera), strict=True):
                side = (one.box_px[2:] - one.box_px[:2]).max()
                assert one.is_right == other.is_right
                assert np.linalg.norm(one.keypoints_px - other.keypoints_px, axis=1).mean() < 0.06 * side


def test_the_same_video_gives_the_same_hands(frames, camera):
    runs = []
    for _ in range(2):
        with HandMeshEstimator(camera=camera) as estimator:
            runs.append(_track_all(estimator, frames[:20], camera))
    for one, other in zip(*runs, strict=True):
        assert [hand.track_id for hand in one] == [hand.track_id for hand in other]
        # To the micrometre: runtimes promise no bits.
        assert all(np.abs(a.vertices_m - b.vertices_m).max() < 1e-6 for a, b in zip(one, other, strict=True))


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


def test_two_hands_are_one_batch(frames, camera, monkeypatch):
    with HandMeshEstimator(camera=camera) as estimator:
        sizes = []
        predictor = estimator._predictor
        monkeypatch.setattr(estimator, "_predictor", _Spy(predictor, lambda crops: sizes.append(len(crops))))
        _track_all(estimator, frames[:4], camera)
        assert sizes == [2] * 5


class _Spy:
    def __init__(self, predictor, look):
        self.info, self._predictor, self._look = predictor.info, predictor, look

    def __call__(self, crops):
        self._look(crops)
        return self._predictor(crops)


def test_hands_that_leave_are_lost_and_found_again(frames, camera):
    empty = np.full_like(frames[0], 128)
    with HandMeshEstimator(camera=camera) as estimator:
        assert len(_track_all(estimator, frames[:3], camera)[-1]) == 2
        assert _track_all(estimator, [empty] * 6, camera, 0.1)[-1] == []
        assert len(_track_all(estimator, frames[3:5], camera, 0.3)[-1]) == 2


def test_a_camera_never_waits_for_the_detector(frames, camera, detector, monkeypatch):
    """A detector that does not answer until it may: frames go by, without hands; then the hands are followed from where it saw them."""
    may_answer = threading.Event()

    class Slow:
        def __init__(self, **_):
            pass

        def __call__(self, image_rgb):
            assert may_answer.wait(60)
            return detector(image_rgb)

    monkeypatch.setattr("handmesh.estimator.HandDetector", Slow)
    with HandMeshEstimator(camera=camera, is_live=True) as estimator:
        assert _track_all(estimator, frames[:3], camera) == [[], [], []]
        may_answer.set()
        assert estimator._answer is not None
        estimator._answer.result()
        assert len(estimator.track(frames[3], 0.1, camera)) == 2


def test_a_detector_that_fails_once_is_asked_again(frames, camera, detector, monkeypatch):
    class Moody:
        calls = 0

        def __init__(self, **_):
            pass

        def __call__(self, image_rgb):
            Moody.calls += 1
            if Moody.calls == 1:
                raise RuntimeError("not now")
            return detector(image_rgb)

    monkeypatch.setattr("handmesh.estimator.HandDetector", Moody)
    for is_live in (False, True):
        Moody.calls = 0
        with HandMeshEstimator(camera=camera, is_live=is_live) as estimator:
            failures, hands = 0, []
            for index, frame in enumerate(frames[:8]):
                try:
                    hands = estimator.track(frame, index / 30, camera)
                except RuntimeError:
                    failures += 1
                if estimator._answer is not None:
                    wait([estimator._answer])
            assert failures == 1 and len(hands) == 2
            estimator.reset()


def test_an_earlier_time_starts_another_video(frames, camera):
    with HandMeshEstimator(camera=camera) as estimator:
        first = estimator.track(frames[0], 1000.0, camera)
        again = estimator.track(frames[0], 0.0, camera)
        assert [hand.track_id for hand in first] == [hand.track_id for hand in again] == [0, 1]
        assert estimator.times.calls("detect") == 2


def test_the_caller_may_draw_on_its_picture_while_the_detector_looks(frames, camera, detector, monkeypatch):
    seen, may_look = [], threading.Event()

    class Slow:
        def __init__(self, **_):
            pass

        def __call__(self, image_rgb):
            assert may_look.wait(60)
            seen.append(image_rgb.copy())
            return []

    monkeypatch.setattr("handmesh.estimator.HandDetector", Slow)
    with HandMeshEstimator(camera=camera, is_live=True) as estimator:
        mine = frames[0].copy()
        estimator.track(mine, 0.0, camera)
        mine[:] = 0
        may_look.set()
    assert (seen[0] == frames[0]).all()


def test_an_assumed_focal_is_said_once(image_rgb, caplog):
    with HandMeshEstimator() as estimator:
        estimator(image_rgb)
        estimator(image_rgb[:200])
        assert len([record for record in caplog.records if "assuming" in record.message]) == 1


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_what_is_no_rgb_picture_is_refused(estimator, image):
    with pytest.raises(UserError, match="expected an RGB picture"):
        estimator(image)


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
        return keypoints_px, _to_look_at(track, 1.0)

    open_hand, points = looked_at(0.0)
    assert points.min(axis=0) == pytest.approx(open_hand.min(axis=0)) and points.max(axis=0) == pytest.approx(open_hand.max(axis=0))
    fist, points = looked_at(1.0)
    room_px = fist[:, 1].min() - points[:, 1].min()
    assert 5 < room_px < 0.5 * (fist[:, 1].min() - open_hand[:, 1].min())
    assert _to_look_at(Track(1, detection, 1.0, 0.0, 0.0), 1.0) is detection.landmarks_px
