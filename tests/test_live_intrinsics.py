"""Calibration files of every dialect give the same camera, scaled to the picture."""

import json

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.live.intrinsics import CameraChoice, fit_camera, load_intrinsics

K = np.array([[610.5, 0, 321.25], [0, 605.0, 238.75], [0, 0, 1]])
DISTORTION = np.array([-0.12, 1e-3, 2e-4, -3e-5, 0.01])


def _opencv(path):
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.write("camera_matrix", K)
    storage.write("distortion_coefficients", DISTORTION.reshape(1, -1))
    storage.release()


def _ros(path):
    rows = ["image_width: 640", "image_height: 480", "distortion_model: plumb_bob"]
    rows += [f"camera_matrix: {{rows: 3, cols: 3, data: {K.ravel().tolist()}}}"]
    # ROS writes small numbers like 1e-3, which yaml 1.1 reads as text.
    rows += ["distortion_coefficients:", "  rows: 1", "  cols: 5", "  data: [-0.12, 1e-3, 2e-4, -3e-5, 0.01]"]
    path.write_text("\n".join(rows))


def _plain_json(path):
    path.write_text(json.dumps({"K": K.tolist(), "distortion": DISTORTION.tolist(), "image_size": [640, 480]}))


@pytest.mark.parametrize(
    ("name", "write"), [("a.yaml", _opencv), ("a.yml", _opencv), ("a.json", _opencv), ("b.yaml", _ros), ("c.json", _plain_json)]
)
def test_dialects_agree(tmp_path, name, write):
    write(tmp_path / name)
    camera = load_intrinsics(tmp_path / name)
    assert np.allclose(camera.K, K) and np.allclose(camera.distortion, DISTORTION)
    assert (camera.width, camera.height, camera.is_known) == (640, 480, True)


def test_a_bare_matrix_is_for_the_pictures_as_they_are(tmp_path):
    (tmp_path / "k.json").write_text(json.dumps(K.tolist()))
    camera = CameraChoice(intrinsics=tmp_path / "k.json").camera(1000, 500)
    assert np.allclose(camera.K, K) and (camera.width, camera.height) == (1000, 500) and camera.distortion == ()


def test_a_calibration_scales_with_the_picture(tmp_path):
    _plain_json(tmp_path / "c.json")
    camera = CameraChoice(intrinsics=tmp_path / "c.json").camera(1280, 960)
    # The corner of the picture, half a pixel outside of the first centre, stays the corner.
    assert (camera.fx, camera.fy) == pytest.approx((2 * K[0, 0], 2 * K[1, 1]))
    assert (camera.cx + 0.5, camera.cy + 0.5) == pytest.approx((2 * (K[0, 2] + 0.5), 2 * (K[1, 2] + 0.5)))
    with pytest.raises(UserError, match="640x480"):
        fit_camera(load_intrinsics(tmp_path / "c.json"), 480, 640)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[[1, 2], [3, 4]]",
        "{a: [unclosed",
        '{"camera_matrix": [[600, 0, 320], [0, -600, 240], [0, 0, 1]]}',
        '{"camera_matrix": [[600, 5, 320], [0, 600, 240], [0, 0, 1]]}',
        '{"camera_matrix": [[600, 0, 320], [0, 600, 240], [0, 0, 2]]}',
        '{"camera_matrix": [[600, 0, "x"], [0, 600, 240], [0, 0, 1]]}',
        '{"camera_matrix": [[600, 0, 320], [0, 600, 240], [0, 0, 1]], "distortion": [0.1, 0.2]}',
        '{"camera_matrix": [[600, 0, 320], [0, 600, 240], [0, 0, 1]], "distortion_model": "equidistant"}',
        '{"camera_matrix": [[600, 0, 320], [0, 600, 240], [0, 0, 1]], "image_size": [640]}',
        "!!python/object/apply:os.getcwd []",
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=r"bad\.json is not a calibration") as error:
        CameraChoice(intrinsics=tmp_path / "bad.json")
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    for name in ("missing.yaml", "binary.yaml", "."):
        with pytest.raises(UserError, match="cannot be read"):
            load_intrinsics(tmp_path / name)


def test_fov_and_focal():
    assert CameraChoice(fov_deg=90).camera(1000, 600).fx == pytest.approx(500)
    assert CameraChoice(focal_px=700).camera(1000, 600).fy == 700
    assert CameraChoice(focal_px=700).is_known and not CameraChoice().is_known
    assert not CameraChoice().camera(640, 480).is_known
    for wrong in (lambda: CameraChoice(60, 500), lambda: CameraChoice(200), lambda: CameraChoice(focal_px=-1)):
        with pytest.raises(UserError):
            wrong()
