"""The camera that took the pictures, as the user knows it: --fov, --focal, --intrinsics, or an assumption."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_focal, camera_from_fov
from handmesh.geometry.crop import resize_camera
from handmesh.records import Camera

_MATRIX_KEYS = ("camera_matrix", "K", "cameraMatrix")
_DISTORTION_KEYS = ("distortion_coefficients", "dist_coeffs", "distCoeffs", "distortion", "D")
_SIZE_KEYS = ("image_size", "size")
# The numbers of coefficients that OpenCV's pinhole model takes.
_DISTORTION_COUNTS = (0, 4, 5, 8, 12, 14)
_EXAMPLE = '{"camera_matrix": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], "distortion": [...], "image_size": [width, height]}'


@dataclass(frozen=True)
class CameraChoice:
    """What is known about the camera: at most one of the three.

    Attributes:
        fov_deg: field of view along the larger side.
        focal_px: focal length in pixels of the pictures as they are.
        intrinsics: a calibration file, see `load_intrinsics`.
    """

    fov_deg: float | None = None
    focal_px: float | None = None
    intrinsics: Path | None = None
    _calibrated: Camera | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.fov_deg, self.focal_px, self.intrinsics)]
        if sum(given) > 1:
            raise UserError("expected one of --fov, --focal and --intrinsics, got several; keep the one you measured")
        # A wrong value is an error before the first picture, not at it.
        if self.intrinsics is None:
            self.camera(1, 1)
        else:
            object.__setattr__(self, "_calibrated", load_intrinsics(self.intrinsics))

    @property
    def is_known(self) -> bool:
        """False when the focal length has to be assumed."""
        return (self.fov_deg, self.focal_px, self.intrinsics) != (None, None, None)

    def camera(self, width: int, height: int) -> Camera:
        """The camera of a picture of this size in pixels."""
        if self.fov_deg is not None:
            return camera_from_fov(width, height, self.fov_deg)
        if self.focal_px is not None:
            return camera_from_focal(width, height, self.focal_px)
        if self._calibrated is None:
            return camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)
        return fit_camera(self._calibrated, width, height)


def load_intrinsics(path: str | Path) -> Camera:
    """Read a calibration: OpenCV's yaml or json, ROS's camera_info yaml, or a bare 3 x 3 matrix in json.

    Returns:
        The camera of the calibration's pictures; its width and height are 0 where the file does not say.

    Raises:
        UserError: the file cannot be read, or is not a pinhole calibration.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a calibration file, but {path} cannot be read ({error}); check --intrinsics") from error
    # OpenCV opens its yaml with a directive that yaml itself does not know.
    lines = [line for line in text.splitlines() if not line.startswith("%YAML")]
    try:
        content = yaml.load("\n".join(lines), _CalibrationLoader)
        return _to_camera(content)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a calibration ({reason}); expected OpenCV's yaml or json, or {_EXAMPLE}") from error


def fit_camera(camera: Camera, width: int, height: int) -> Camera:
    """A calibration for pictures of another size of the same shape."""
    if camera.width == 0:
        return Camera(camera.fx, camera.fy, camera.cx, camera.cy, width, height, camera.distortion)
    if abs(camera.width * height - camera.height * width) > 0.01 * camera.width * height:
        calibrated = f"{camera.width}x{camera.height}"
        raise UserError(
            f"the intrinsics are for {calibrated} pictures, this one is {width}x{height}; calibrate at its shape, or give --fov"
        )
    return resize_camera(camera, width, height)


class _CalibrationLoader(yaml.SafeLoader):
    """Safe yaml that takes OpenCV's matrices for the mappings that they are."""


def _construct_matrix(loader: yaml.SafeLoader, node: yaml.Node) -> dict:
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_CalibrationLoader.add_constructor("tag:yaml.org,2002:opencv-matrix", _construct_matrix)


def _to_camera(content: Any) -> Camera:
    mapping = content if isinstance(content, dict) else {"camera_matrix": content}
    model = str(mapping.get("distortion_model", "plumb_bob"))
    if model not in ("plumb_bob", "rational_polynomial"):
        raise ValueError(f"distortion model {model}, which is not a pinhole's")
    K = _numbers(_first(mapping, _MATRIX_KEYS))
    if K is None or K.size != 9:
        raise ValueError("no 3 x 3 camera_matrix")
    K = K.reshape(3, 3)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if not np.isfinite(K).all() or min(fx, fy) <= 0 or abs(K[0, 1]) > 1e-3 * fx or K[1, 0] != 0 or not np.allclose(K[2], (0, 0, 1)):
        raise ValueError("camera_matrix is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    distortion = _numbers(_first(mapping, _DISTORTION_KEYS))
    distortion = np.zeros(0) if distortion is None or not distortion.any() else distortion.ravel()
    if len(distortion) not in _DISTORTION_COUNTS or not np.isfinite(distortion).all():
        raise ValueError(f"{len(distortion)} distortion coefficients, expected one of {_DISTORTION_COUNTS}")
    size = _numbers(_first(mapping, _SIZE_KEYS))
    if size is None:
        size = _numbers([mapping.get("image_width", mapping.get("width", 0)), mapping.get("image_height", mapping.get("height", 0))])
    if size is None or size.size != 2:
        raise ValueError("image size is not [width, height]")
    width, height = (int(side) for side in size)
    return Camera(float(fx), float(fy), float(cx), float(cy), width, height, tuple(float(value) for value in distortion))


def _first(mapping: dict, keys: tuple[str, ...]) -> Any:
    return next((mapping[key] for key in keys if key in mapping), None)


def _numbers(value: Any) -> np.ndarray | None:
    """Nested lists, or OpenCV's {rows, cols, data}. Yaml leaves 1e-3 as text, float() does not."""
    if isinstance(value, dict):
        value = value.get("data")
    if value is None:
        return None
    return np.vectorize(float, otypes=[float])(np.array(value, dtype=object)) if value != [] else np.zeros(0)
