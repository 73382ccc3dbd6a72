"""Rotations as rotvec (..., 3), rotmat (..., 3, 3) and rot6d (..., 6). Radians; matrices act on columns."""

import math

import numpy as np

# Twice the cosine of 154 degrees: beyond that the sine loses digits.
_NEAR_HALF_TURN = -1.8
_NEXT, _AFTER_NEXT = [1, 2, 0], [2, 0, 1]


def rotvec_to_rotmat(rotvec: np.ndarray) -> np.ndarray:
    """Rodrigues' formula, exact to rounding at zero angle.

    Args:
        rotvec: (..., 3) axis times angle in radians.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    rotvec = np.asarray(rotvec)
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(rotvec, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    # np.sinc(t / pi) = sin(t) / t, and (1 - cos t) / t^2 = sinc(t / 2)^2 / 2: both finite at 0.
    return np.eye(3, dtype=rotvec.dtype) + np.sinc(angle / np.pi) * skew + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (skew @ skew)


def rotmat_to_rotvec(rotmat: np.ndarray) -> np.ndarray:
    """Inverse of `rotvec_to_rotmat`, stable at 0 and pi.

    Args:
        rotmat: (..., 3, 3).

    Returns:
        (..., 3) with angle in 0..pi.
    """
    rotmat = np.asarray(rotmat)
    m = rotmat.reshape(*rotmat.shape[:-2], 9)
    twice_cosine = m[..., 0] + m[..., 4] + m[..., 8] - 1
    if twice_cosine.size and twice_cosine.min() < _NEAR_HALF_TURN:
        return _rotmat_to_rotvec_anywhere(m)
    # The difference to the transpose is twice the sine times the axis.
    axis = m[..., [7, 2, 3]] - m[..., [5, 6, 1]]
    twice_sine = np.sqrt((axis * axis).sum(axis=-1))
    angle = np.arctan2(twice_sine, twice_cosine)
    return axis * np.where(twice_sine > 1e-12, angle / np.maximum(twice_sine, 1e-12), 0.5)[..., None]


def _rotmat_to_rotvec_anywhere(rows: np.ndarray) -> np.ndarray:
    """(..., 9) to (..., 3) through the quaternion with the largest component: near half a turn, too, where the sine says little."""
    m = np.moveaxis(rows, -1, 0)
    # Four times the outer product q q^T (w, x, y, z); each row is proportional to q. Shepperd 1978.
    outer = np.stack(
        [
            *(1 + m[0] + m[4] + m[8], m[7] - m[5], m[2] - m[6], m[3] - m[1]),
            *(m[7] - m[5], 1 + m[0] - m[4] - m[8], m[1] + m[3], m[2] + m[6]),
            *(m[2] - m[6], m[1] + m[3], 1 - m[0] + m[4] - m[8], m[5] + m[7]),
            *(m[3] - m[1], m[2] + m[6], m[5] + m[7], 1 - m[0] - m[4] + m[8]),
        ],
        axis=-1,
    ).reshape(*rows.shape[:-1], 4, 4)
    best = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    quat = np.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quat = quat / np.linalg.norm(quat, axis=-1, keepdims=True)
    quat = np.where(quat[..., :1] < 0, -quat, quat)
    sine = np.linalg.norm(quat[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quat[..., :1])
    # At small angles axis * angle = 2 * (x, y, z) / sinc.
    return quat[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def rot6d_to_rotmat(rot6d: np.ndarray) -> np.ndarray:
    """Gram-Schmidt on two columns (Zhou et al., CVPR 2019, equation 11).

    Args:
        rot6d: (..., 6) the first column, then the second; any length, not parallel.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    a, b = rot6d[..., :3], rot6d[..., 3:]
    x = a / np.sqrt((a * a).sum(axis=-1, keepdims=True))
    y = b - (x * b).sum(axis=-1, keepdims=True) * x
    y = y / np.sqrt((y * y).sum(axis=-1, keepdims=True))
    # np.cross of so few vectors takes longer than all the rest.
    z = x[..., _NEXT] * y[..., _AFTER_NEXT] - x[..., _AFTER_NEXT] * y[..., _NEXT]
    return np.stack([x, y, z], axis=-1)


def rotmat_to_rot6d(rotmat: np.ndarray) -> np.ndarray:
    """The first two columns of (..., 3, 3), one after the other: (..., 6)."""
    return np.concatenate([rotmat[..., :, 0], rotmat[..., :, 1]], axis=-1)


def shortest_arc(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotation that turns one direction into another.

    Args:
        source, target: (3,) directions of any length, not opposite.

    Returns:
        (3, 3) with `R @ source` along `target`.
    """
    # By scalars: for three numbers, numpy's cross and norm cost ten times as much, and crops ask for this several times a frame.
    ax, ay, az = _unit(source)
    bx, by, bz = _unit(target)
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    cosine = ax * bx + ay * by + az * bz
    # 1 / (1 + cosine), also where that has no digits left.
    factor = (1 - cosine) / (x * x + y * y + z * z) if cosine < 0 else 1 / (1 + cosine)
    return np.eye(3) + skew + factor * (skew @ skew)


def _unit(direction: np.ndarray) -> tuple[float, float, float]:
    x, y, z = direction.tolist()
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


MIRROR_X = np.diag([-1.0, 1.0, 1.0])


def rotmat_2d(angle_rad: float) -> np.ndarray:
    """(2, 2) turn of column vectors from the x axis towards the y axis."""
    return np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])


def nearest_rotmat(matrix: np.ndarray) -> np.ndarray:
    """The rotation nearest to a matrix in the Frobenius norm (Kabsch 1976).

    Args:
        matrix: (..., 3, 3) of rank 2 at least.
    """
    u, _, vt = np.linalg.svd(matrix)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return u @ vt


def mirror_rotmat(rotmat: np.ndarray) -> np.ndarray:
    """The rotation seen in the mirror x -> -x: M R M. (..., 3, 3)."""
    return rotmat * np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], dtype=rotmat.dtype)


def mirror_rotvec(rotvec: np.ndarray) -> np.ndarray:
    """The same for (..., 3) rotation vectors: (a, b, c) becomes (a, -b, -c)."""
    return rotvec * np.array([1, -1, -1], dtype=rotvec.dtype)
