"""Pulls a hand towards landmarks in the picture: damped Gauss-Newton on pose, shape and place, from the network's answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from handmesh.geometry.camera import unproject
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.articulation import ABDUCTION, FLEXION, TWIST, Anatomy, angles_to_rotmats, limits_deg, rotmats_to_angles
from handmesh.hand_model.skinning import HandModel
from handmesh.records import Camera, PlacedPose
from handmesh.skeleton import BONES, FROM_MANO_AND_TIPS, JOINTS, MANO_JOINTS, MANO_PARENTS, ROOT

# What an estimator refines.
Refine = Literal["nothing", "pictures", "all"]

_N_JOINTS, _N_BETAS = len(MANO_JOINTS), 10
# d/dw of a right-multiplied exp([w]x), one skew matrix per axis.
_GENERATORS = np.array([[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]], float)


def _owners() -> np.ndarray:
    """(21,) the MANO joint whose turning carries each of JOINTS: its own, or the one below a fingertip."""
    below = {JOINTS[child]: JOINTS[parent] for child, parent in BONES}
    return np.array([MANO_JOINTS.index(name if name in MANO_JOINTS else below[name]) for name in JOINTS])


def _descent() -> np.ndarray:
    """(16, 16) 1 where the row's joint is the column's or hangs below it."""
    descent = np.eye(_N_JOINTS)
    for joint in range(1, _N_JOINTS):
        descent[joint] += descent[MANO_PARENTS[joint]]
    return descent


def _levels() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(joints, their parents) from the palm outwards."""
    depth = _DESCENT.sum(axis=1).astype(int)
    of_depth = [np.flatnonzero(depth == level) for level in range(2, depth.max() + 1)]
    return tuple((joints, np.array(MANO_PARENTS)[joints]) for joints in of_depth)


OWNERS = _owners()
_DESCENT = _descent()
_LEVELS = _levels()
_PARENTS = np.array(MANO_PARENTS[1:])
_IDENTITY = np.eye(3)

# Of an array of joint angles, in the order of a joint's frame.
_AXES = [ABDUCTION, TWIST, FLEXION]
_FINGER_JOINTS = np.arange(_N_JOINTS - 1)
# Where the root joint is: two directions and a logarithm of depth.
_N_PLACE = 3
_NEAREST_M = 0.01
_DAMPING, _DAMPING_UP, _DAMPING_DOWN = 0.03, 10.0, 0.3
# A step that gains less of the energy is the last.
_SMALL_GAIN = 0.02
# Radians that are none.
_ROUNDING = 1e-6

# From the model's keypoints to MediaPipe's landmarks, each in the frame of the joint that carries it; measured on pictures rendered for
# it: tools/measure_refine.py --offsets SET (LOG.md).
# fmt: off
LANDMARK_OFFSETS_M = 1e-3 * np.array(
    [
        (-10.5, -2.3, -1.4),  # wrist
        (-8.3, -5.8, 11.1),  # thumb_cmc
        (-3.0, -0.4, -0.5),  # thumb_mcp
        (-1.0, 0.1, -5.1),  # thumb_ip
        (5.3, 2.4, -5.1),  # thumb_tip
        (-0.8, -0.6, -0.4),  # index_mcp
        (3.4, -1.3, -0.9),  # index_pip
        (4.7, -1.9, -1.1),  # index_dip
        (7.5, -2.3, -0.9),  # index_tip
        (-3.2, -1.5, 0.6),  # middle_mcp
        (2.6, -2.1, -0.8),  # middle_pip
        (4.4, -3.5, -0.1),  # middle_dip
        (7.6, -4.4, 0.6),  # middle_tip
        (-4.7, -1.7, 0.3),  # ring_mcp
        (0.9, -2.3, -0.4),  # ring_pip
        (3.1, -3.4, 1.3),  # ring_dip
        (7.9, -2.2, 1.9),  # ring_tip
        (-7.5, -0.7, -0.3),  # little_mcp
        (-0.1, -1.1, -0.1),  # little_pip
        (0.7, -2.6, 1.4),  # little_dip
        (6.8, -1.8, 2.6),  # little_tip
    ]
)
# fmt: on


@dataclass(frozen=True)
class Linearised:
    """Keypoints and their derivatives at one pose and shape.

    Attributes:
        points_m: (21, 3) in the model's frame.
        by_rotation: (21, 3, 16, 3) metres per radian: each rotation is multiplied by exp([w]x) from the right.
        by_betas: (21, 3, 10) metres per standard deviation.
    """

    points_m: np.ndarray
    by_rotation: np.ndarray
    by_betas: np.ndarray


@dataclass(frozen=True)
class KeypointModel:
    """A hand model from which all that is not seen in its 21 keypoints is taken away; the keypoints are the same.

    A keypoint is a weighted mean of skinned vertices, so it is a sum over the joints j that its vertices hang on:
    point = sum of R_j n_j + a_j p_j, with R_j and p_j a joint's posed rotation and place, and n_j linear in betas and pose features.
    One "pair" is one keypoint with one of its joints. Make it once (`of`) and keep it.

    Attributes:
        starts: (21,) the first pair of each keypoint.
        joints: (P,) the joint of each pair.
        weights: (P,) a_j; those of a keypoint sum to 1.
        base_m: (P, 3) n_j at zero betas and rest pose.
        dirs_m: (P, 3, 145) n_j per beta, then per entry of (rotmat - identity) of the 15 finger joints.
        rest_joints_m: (16, 3) at zero betas.
        joint_dirs_m: (16, 3, 10) per beta.
    """

    starts: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    base_m: np.ndarray
    dirs_m: np.ndarray
    rest_joints_m: np.ndarray
    joint_dirs_m: np.ndarray

    @staticmethod
    def of(model: HandModel, offsets_m: np.ndarray | None = None) -> KeypointModel:
        """Reduce a hand model.

        Args:
            offsets_m: (21, 3) moves each keypoint along with the joint that carries it, in that joint's frame at rest pose.
        """
        regressor = np.concatenate([model.joint_regressor, np.eye(len(model.template_m))[model.tip_vertices]])[list(FROM_MANO_AND_TIPS)]
        used = np.flatnonzero(np.any(regressor != 0, axis=0))
        shares = regressor[:, used, None].astype(np.float64) * model.skin_weights[used]
        points, joints = np.nonzero(np.any(shares != 0, axis=1) | (OWNERS[:, None] == np.arange(_N_JOINTS)))
        of_pair = shares[points, :, joints]
        weights = of_pair.sum(axis=1)
        rest_joints_m, joint_dirs_m = (values.astype(np.float64) for values in (model.rest_joints_m, model.joint_shape_dirs))
        base_m = of_pair @ model.template_m[used] - weights[:, None] * rest_joints_m[joints]
        dirs = np.concatenate([model.shape_dirs[used], model.pose_dirs[used]], axis=2).astype(np.float64)
        dirs_m = (of_pair @ dirs.reshape(len(used), -1)).reshape(-1, *dirs.shape[1:])
        dirs_m[:, :, :_N_BETAS] -= weights[:, None, None] * joint_dirs_m[joints]
        if offsets_m is not None:
            base_m = base_m + np.where((joints == OWNERS[points])[:, None], offsets_m[points], 0.0)
        return KeypointModel(np.searchsorted(points, np.arange(len(JOINTS))), joints, weights, base_m, dirs_m, rest_joints_m, joint_dirs_m)

    def keypoints(self, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """(21, 3) in metres, `HandModel.joints` of the skinned hand, without skinning it.

        Args:
            rotmats: (16, 3, 3) parent-relative.
            betas: (10,).
        """
        world, joints_m, locals_m = self._pose(rotmats, betas)
        return np.add.reduceat(self._parts(world, joints_m, locals_m), self.starts)

    def linearise(self, rotmats: np.ndarray, betas: np.ndarray) -> Linearised:
        """Keypoints and how they move; arguments as of `keypoints`."""
        world, joints_m, locals_m = self._pose(rotmats, betas)
        parts_m = self._parts(world, joints_m, locals_m)
        count = len(self.starts)
        # What hangs below each joint turns about it: w x (part - weight * joint), summed over the parts, w in the model's frame.
        below = _DESCENT[self.joints]
        arms_m = np.add.reduceat(below[:, :, None] * (parts_m[:, None] - self.weights[:, None, None] * joints_m), self.starts)
        by_rotation = (_cross_matrices(-arms_m) @ world).swapaxes(1, 2)
        # The pose correctives.
        moved = np.add.reduceat(world[self.joints] @ self.dirs_m, self.starts)
        correctives = moved[:, :, _N_BETAS:].reshape(count * 3, _N_JOINTS - 1, 9).swapaxes(0, 1)
        turns = (rotmats[1:, None] @ _GENERATORS).reshape(_N_JOINTS - 1, 3, 9).swapaxes(1, 2)
        by_rotation[:, :, 1:] += (correctives @ turns).swapaxes(0, 1).reshape(count, 3, _N_JOINTS - 1, 3)
        bone_dirs = self.joint_dirs_m.copy()
        bone_dirs[1:] = world[_PARENTS] @ (self.joint_dirs_m[1:] - self.joint_dirs_m[_PARENTS])
        joint_moves = (_DESCENT @ bone_dirs.reshape(_N_JOINTS, -1)).reshape(bone_dirs.shape)
        by_betas = moved[:, :, :_N_BETAS] + np.add.reduceat(self.weights[:, None, None] * joint_moves[self.joints], self.starts)
        return Linearised(np.add.reduceat(parts_m, self.starts), by_rotation, by_betas)

    def _pose(self, rotmats: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World rotations (16, 3, 3) and places (16, 3) of the joints, and the pairs' n_j (P, 3)."""
        blend = np.empty(_N_BETAS + 9 * (_N_JOINTS - 1))
        blend[:_N_BETAS] = betas
        blend[_N_BETAS:] = (rotmats[1:] - _IDENTITY).ravel()
        locals_m = self.base_m + self.dirs_m @ blend
        rest_m = self.rest_joints_m + self.joint_dirs_m @ blend[:_N_BETAS]
        world, joints_m = np.empty((_N_JOINTS, 3, 3)), rest_m.copy()
        world[0] = rotmats[0]
        bones_m = rest_m[1:] - rest_m[_PARENTS]
        for joints, parents in _LEVELS:
            above = world[parents]
            world[joints] = above @ rotmats[joints]
            joints_m[joints] = joints_m[parents] + (above @ bones_m[joints - 1, :, None])[..., 0]
        return world, joints_m, locals_m

    def _parts(self, world: np.ndarray, joints_m: np.ndarray, locals_m: np.ndarray) -> np.ndarray:
        """(P, 3) what each pair adds to its keypoint."""
        return (world[self.joints] @ locals_m[:, :, None])[..., 0] + self.weights[:, None] * joints_m[self.joints]


def _cross_matrices(vectors: np.ndarray) -> np.ndarray:
    """(..., 3, 3) that multiply like the cross product with (..., 3)."""
    matrices = np.zeros((*vectors.shape, 3))
    for row, column, axis in ((2, 1, 0), (0, 2, 1), (1, 0, 2)):
        matrices[..., row, column], matrices[..., column, row] = vectors[..., axis], -vectors[..., axis]
    return matrices


@dataclass(frozen=True)
class Beliefs:
    """How far off the network and the detector are thought to be, as standard deviations.

    Attributes:
        turn_deg: of the whole hand, about each axis.
        first_deg: (3,) flexion, abduction and twist of a finger's joint nearest the palm, and of the thumb's first two.
        hinge_deg: flexion of all other joints.
        betas: of each beta.
        aim: of where the root joint is seen, in sides of the hand's box.
        log_depth: of the logarithm of the root's depth.
        landmarks: of a landmark along either axis of the picture, in sides of the hand's box.
        wild: a landmark so many times that off pulls with a quarter of its weight.
        limit_deg: of a joint that goes beyond its limits.
    """

    turn_deg: float = 8.0
    first_deg: tuple[float, float, float] = (10.0, 5.0, 4.0)
    hinge_deg: float = 10.0
    betas: float = 0.6
    aim: float = 0.02
    log_depth: float = 0.04
    landmarks: float = 0.03
    wild: float = 4.0
    limit_deg: float = 0.5


class Refiner:
    """Brings a placed hand nearer to landmarks in the picture (Levenberg 1944, Marquardt 1963), and stays near the network's answer.

    Minimised is the sum of squares of what the landmarks are off, each made robust as by Geman and McClure (1985), of the deviations from
    the start, and of the angles beyond the joints' limits, each over its standard deviation. Hinges among the joints
    (`articulation.LIMITS_DEG`) only flex. A joint that starts beyond its limits may stay there. A deviation of a rotation is the sum of
    its increments, which is the rotation vector but for terms of second order.

    Example:
        refiner = Refiner(model)
        pose = refiner(pose, detection.landmarks_px, camera)

    Args:
        model: the hand model that is posed.
        beliefs: what is trusted how much.
        offsets_m: (21, 3) from the model's keypoints to the detector's landmarks, see `KeypointModel.of`.
        steps: most steps.
    """

    def __init__(self, model: HandModel, beliefs: Beliefs = Beliefs(), offsets_m: np.ndarray = LANDMARK_OFFSETS_M, steps: int = 2) -> None:
        self._points = KeypointModel.of(model, offsets_m)
        self._root_offset_m = offsets_m[ROOT]
        self._anatomy = Anatomy.of(model)
        self._frames = np.concatenate([_IDENTITY[None], self._anatomy.frames])
        self._beliefs = beliefs
        self._steps = steps
        self._limits = np.radians(np.stack(limits_deg()))
        spread = np.ptp(self._limits, axis=0)[:, _AXES]
        # The rotation increments that there are, of 48, in the joints' frames: all but those of a hinge away from its axis.
        self._free = np.flatnonzero(np.concatenate([np.ones((1, 3)), spread]))
        is_hinge = np.count_nonzero(spread, axis=1)[:, None] == 1
        of_joints_deg = np.where(is_hinge, beliefs.hinge_deg, np.array(beliefs.first_deg)[_AXES])
        of_turns = np.radians(np.concatenate([np.full((1, 3), beliefs.turn_deg), of_joints_deg]).ravel()[self._free])
        self._deviations = np.concatenate([of_turns, np.full(_N_BETAS, beliefs.betas)])

    def __call__(self, pose: PlacedPose, landmarks_px: np.ndarray, camera: Camera, holds_shape: bool = False) -> PlacedPose:
        """The refined pose; `pose` itself where nothing is better.

        Args:
            pose: the network's, in `camera`.
            landmarks_px: (21, 2) in `skeleton.JOINTS` order, pixels of the full picture.
            camera: of the full picture.
            holds_shape: leave the betas as they are.
        """
        problem, start = self._pose_problem(pose, landmarks_px, camera, holds_shape)
        best = first = self._linearise(problem, start)
        if not np.isfinite(first.energy):
            return pose
        damping = _DAMPING
        for _ in range(self._steps):
            matrix = best.curvature + np.diag((1 + damping) * problem.precision)
            tried = self._linearise(problem, self._moved(best.state, _solve(matrix, -best.slope), holds_shape))
            if not tried.energy < best.energy:
                damping *= _DAMPING_UP
                continue
            gain, best, damping = best.energy - tried.energy, tried, damping * _DAMPING_DOWN
            if gain < _SMALL_GAIN:
                break
        return pose if best is first else self._placed(pose, best.state, problem)

    def _pose_problem(self, pose: PlacedPose, landmarks_px: np.ndarray, camera: Camera, holds_shape: bool) -> tuple[_Problem, _State]:
        """What is to be solved, in the mirrored camera for a left hand, and where to start."""
        rotmats, betas = pose.rotmats.astype(np.float64), pose.betas.astype(np.float64)
        focal_px = np.array([camera.fx, camera.fy])
        mirror = np.array([1.0 if pose.is_right else -1.0, 1.0])
        landmarks = mirror * unproject(landmarks_px, camera)[:, :2]
        root_m = pose.root_m * (*mirror, 1.0)
        first = self._points.keypoints(rotmats, betas)
        root_m = root_m + self._root_shift_m(rotmats)
        points_m = first - first[ROOT] + root_m
        side_px = float((np.ptp(points_m[:, :2] / points_m[:, 2:], axis=0) * focal_px).max())
        beliefs = self._beliefs
        of_place = np.array([*(beliefs.aim * side_px / focal_px), beliefs.log_depth])
        turns = len(self._free)
        deviations = np.concatenate([self._deviations[: turns if holds_shape else None], of_place])
        angles = np.radians(rotmats_to_angles(self._anatomy, rotmats))
        problem = _Problem(
            landmarks=landmarks,
            scale=focal_px / (beliefs.landmarks * side_px),
            precision=deviations**-2.0,
            low=np.minimum(self._limits[0], angles),
            high=np.maximum(self._limits[1], angles),
        )
        place = np.array([root_m[0] / root_m[2], root_m[1] / root_m[2], np.log(root_m[2])])
        return problem, _State(rotmats, betas, place, np.zeros(len(deviations)))

    def _linearise(self, problem: _Problem, state: _State) -> _Linear:
        """The energy at a state, with its slope and the Gauss-Newton part of its curvature."""
        model, turns = self._points.linearise(state.rotmats, state.betas), len(self._free)
        depth_m = np.exp(state.place[2])
        root_m = depth_m * np.array([*state.place[:2], 1.0])
        points_m = model.points_m - model.points_m[ROOT] + root_m
        z_m = points_m[:, 2:]
        if z_m.min() < _NEAREST_M:
            return _Linear(state, np.inf, state.deviation, np.eye(len(state.deviation)))
        seen = points_m[:, :2] / z_m
        moves = np.empty((len(points_m), 3, len(state.deviation)))
        by_turns = model.by_rotation.reshape(-1, _N_JOINTS, 3).swapaxes(0, 1) @ self._frames
        by_rotation = by_turns.swapaxes(0, 1).reshape(len(points_m), 3, -1)
        moves[..., :turns] = by_rotation[..., self._free]
        if len(state.deviation) > turns + _N_PLACE:
            moves[..., turns:-_N_PLACE] = model.by_betas
        moves[..., :-_N_PLACE] -= moves[ROOT, :, :-_N_PLACE]
        moves[..., -_N_PLACE:] = np.array([[depth_m, 0, root_m[0]], [0, depth_m, root_m[1]], [0, 0, root_m[2]]])
        off = (seen - problem.landmarks) * problem.scale
        jacobian = (problem.scale / z_m)[..., None] * (moves[:, :2] - seen[..., None] * moves[:, 2:])

        wildness = np.square(off).sum(axis=1) / self._beliefs.wild**2
        # d/d(square) of square / (1 + square / wild^2).
        weights = np.repeat(1 / (1 + wildness) ** 2, 2)
        flat = jacobian.reshape(-1, jacobian.shape[-1])
        weighted = weights[:, None] * flat
        energy = self._beliefs.wild**2 * float((wildness / (1 + wildness)).sum())
        energy += float(problem.precision @ np.square(state.deviation))
        slope = off.ravel() @ weighted + problem.precision * state.deviation
        curvature = flat.T @ weighted

        angles, slopes = angles_and_slopes(self._anatomy, state.rotmats)
        stiffness = np.radians(self._beliefs.limit_deg) ** -2
        beyond = angles - np.clip(angles, problem.low, problem.high)
        if beyond.any():
            rows = np.zeros((_N_JOINTS - 1, 3, _N_JOINTS, 3))
            rows[_FINGER_JOINTS, :, _FINGER_JOINTS + 1] = slopes * (beyond != 0)[..., None]
            rows = rows.reshape(beyond.size, -1)[:, self._free]
            energy += stiffness * float(np.square(beyond).sum())
            slope[:turns] += stiffness * (beyond.ravel() @ rows)
            curvature[:turns, :turns] += stiffness * (rows.T @ rows)
        return _Linear(state, energy, slope, curvature)

    def _moved(self, state: _State, step: np.ndarray, holds_shape: bool) -> _State:
        turns = len(self._free)
        increments = np.zeros(3 * _N_JOINTS)
        increments[self._free] = step[:turns]
        rotvecs = (self._frames @ increments.reshape(_N_JOINTS, 3, 1))[..., 0]
        betas = state.betas if holds_shape else state.betas + step[turns:-_N_PLACE]
        return _State(state.rotmats @ rotvec_to_rotmat(rotvecs), betas, state.place + step[-_N_PLACE:], state.deviation + step)

    def _placed(self, pose: PlacedPose, state: _State, problem: _Problem) -> PlacedPose:
        """The state as it leaves: what is left beyond the limits is cut off."""
        rotmats = state.rotmats
        angles = np.radians(rotmats_to_angles(self._anatomy, rotmats))
        inside = np.clip(angles, problem.low, problem.high)
        is_beyond = np.append(False, np.any(np.abs(inside - angles) > _ROUNDING, axis=1))
        if is_beyond.any():
            rotmats = np.where(is_beyond[:, None, None], angles_to_rotmats(self._anatomy, np.degrees(inside)), rotmats)
        depth_m = np.exp(state.place[2])
        root_m = depth_m * np.array([*state.place[:2], 1.0]) - self._root_shift_m(rotmats)
        if not pose.is_right:
            root_m[0] *= -1
        kept = pose.rotmats.dtype
        return replace(pose, rotmats=rotmats.astype(kept), betas=state.betas.astype(pose.betas.dtype), root_m=root_m)

    def _root_shift_m(self, rotmats: np.ndarray) -> np.ndarray:
        """(3,) from the root joint to the detector's landmark of it; a knuckle's joint hangs on the wrist alone."""
        return rotmats[0] @ rotmats[OWNERS[ROOT]] @ self._root_offset_m


def angles_and_slopes(anatomy: Anatomy, rotmats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joint angles, and how they change when a rotation is multiplied by exp([F w]x) from the right, F its joint's frame.

    Args:
        rotmats: (16, 3, 3).

    Returns:
        (15, 3) flexion, abduction and twist in radians, and (15, 3, 3) their derivatives by w.
    """
    angles = np.radians(rotmats_to_angles(anatomy, rotmats))
    flexion, twist = angles[:, FLEXION], angles[:, TWIST]
    cos_f, sin_f, tan_t = np.cos(flexion), np.sin(flexion), np.tan(twist)
    # Of abduction about x, then twist about y, then flexion about z: body rates to angle rates.
    slopes = np.zeros((len(angles), 3, 3))
    slopes[:, ABDUCTION, 0], slopes[:, ABDUCTION, 1] = cos_f / np.cos(twist), -sin_f / np.cos(twist)
    slopes[:, TWIST, 0], slopes[:, TWIST, 1] = sin_f, cos_f
    slopes[:, FLEXION, 0], slopes[:, FLEXION, 1], slopes[:, FLEXION, 2] = -cos_f * tan_t, sin_f * tan_t, 1.0
    return angles, slopes


def _solve(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) x of matrix x = values, for a positive definite matrix; np.linalg.solve wakes threads that spin, its Cholesky does not."""
    lower = np.linalg.cholesky(matrix)
    x = values.copy()
    for row in range(len(x)):
        x[row] = (x[row] - lower[row, :row] @ x[:row]) / lower[row, row]
    for row in reversed(range(len(x))):
        x[row] /= lower[row, row]
        x[:row] -= x[row] * lower[row, :row]
    return x


@dataclass(frozen=True)
class _Problem:
    """Landmarks as (21, 2) x / z, y / z; (2,) what makes those standard deviations; (N,) 1 / variance of every variable; (15, 3) limits."""

    landmarks: np.ndarray
    scale: np.ndarray
    precision: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class _State:
    """Where the solution is, its root as (3,) x / z, y / z and log z, and (N,) how far that is from the start."""

    rotmats: np.ndarray
    betas: np.ndarray
    place: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class _Linear:
    """The energy there, half its slope (N,) and half its curvature (N, N), without that of the deviations."""

    state: _State
    energy: float
    slope: np.ndarray
    curvature: np.ndarray
