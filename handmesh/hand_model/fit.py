"""Finds the pose and shape of a hand model whose 21 joints lie nearest to given ones: another model's, or a detector's.

Levenberg-Marquardt on rotation matrices (each step is a small rotation vector, so no angle is singular), many hands at once, with
derivatives in closed form. Joints say nothing about some turns, such as a straight finger's about itself: weak priors settle those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import nearest_rotmat, rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.hand_model.skinning import HandModel, chain_joints, mirror_points, skin
from handmesh.records import HandParams
from handmesh.skeleton import BONES, FINGERS, FROM_MANO_AND_TIPS, JOINTS, MANO_JOINTS, MANO_PARENTS, WRIST

# Standard deviations of the priors. A joint's rotation about the mean pose's, and the part of it that turns about the bone.
POSE_SD_RAD = 1.0
TWIST_SD_RAD = 0.3
BETA_SD = 1.0

_CHUNK = 64  # hands at once: their derivatives stay in the processor's cache
_MAX_ITERATIONS = 40
_LEAST_GAIN = 1e-4  # of the cost, in one step; less means there
_FIRST_DAMPING, _LAST_DAMPING = 1e-3, 1e8
_PARAMETERS = 3 * len(MANO_JOINTS) + 10 + 3
# Of a palm's breadth to its length. Hands have 0.4 and more, joints with a centimetre of noise 0.2.
_LEAST_BREADTH = 0.05
# Of the model's palm. Less is no unit of length, but rounding.
_NO_SIZE = 1e-6
# The joints that a palm holds nearly rigidly.
_PALM = [WRIST, *(JOINTS.index("thumb_cmc" if finger == "thumb" else f"{finger}_mcp") for finger in FINGERS)]
# For each of MANO_JOINTS but the wrist, as indices into JOINTS: itself, and the joint or tip at the other end of its bone.
_ENDS = [(JOINTS.index(name), JOINTS.index(name) + 1) for name in MANO_JOINTS[1:]]


class LeftHandError(UserError):
    """Joints that fit much better mirrored.

    Attributes:
        hand: which of the hands given, in the order of their flattened batch.
    """

    def __init__(self, hand: int, count: int) -> None:
        super().__init__(
            f"expected joints of right hands, got a left one's (hand {hand} of {count}): they fit much better mirrored; "
            "mirror them with skinning.mirror_points first"
        )
        self.hand = hand


def _below() -> np.ndarray:
    """(16, 16) 1 where the second joint is, or hangs on, the first."""
    below = np.eye(len(MANO_JOINTS))
    for joint, parent in enumerate(MANO_PARENTS):
        if parent >= 0:
            below[:, joint] += below[:, parent]
    return below


_BELOW = _below()


@dataclass(frozen=True)
class FitResult:
    """Parameters found, and how far their joints are from the given ones.

    Attributes:
        rotmats: (..., 16, 3, 3) absolute, parent-relative, in `skeleton.MANO_JOINTS` order; as `HandParams.rotmats`.
        betas: (..., 10) in standard deviations.
        transl: (..., 3) metres; `skin(model, rotmats, betas) + transl` is the fitted hand where the joints are.
        residual_mm: (..., 21) distance of each joint to the given one, millimetres, in `skeleton.JOINTS` order.
        iterations: (...) steps tried.
    """

    rotmats: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    residual_mm: np.ndarray
    iterations: np.ndarray

    @property
    def mean_mm(self) -> np.ndarray:
        """(...) mean of `residual_mm` over the joints."""
        return self.residual_mm.mean(axis=-1)

    @property
    def max_mm(self) -> np.ndarray:
        """(...) largest of `residual_mm`."""
        return self.residual_mm.max(axis=-1)


def fit_pose(
    model: HandModel, joints_m: np.ndarray, *, fit_shape: bool = True, betas: np.ndarray | None = None, joint_sd_mm: float = 0.5
) -> FitResult:
    """The right hand of a model whose joints lie nearest to the given ones.

    The turn of a straight finger about itself cannot be seen in its joints: it stays near the mean pose's.

    Args:
        model: the right-hand model to pose.
        joints_m: (..., 21, 3) metres, in `skeleton.JOINTS` order, anywhere in space; of right hands.
        fit_shape: whether the betas are found too; False keeps `betas`.
        betas: (10,) or (..., 10) where to start, or stay; None for the bones' lengths (`fit_shape`) or zeros.
        joint_sd_mm: how far off `joints_m` may be, per coordinate. More gives the priors (`POSE_SD_RAD`, `TWIST_SD_RAD`, `BETA_SD`)
            more weight.

    Raises:
        UserError: another shape, values that are not finite, not metres, or no hand's.
        LeftHandError: a left hand's joints.
    """
    if np.iscomplexobj(joints_m):
        raise UserError("expected real joints in metres, got complex numbers; pass their real part")
    joints_m = np.asarray(joints_m, dtype=np.float64)
    if joints_m.shape[-2:] != (len(JOINTS), 3):
        raise UserError(f"expected joints (..., {len(JOINTS)}, 3) in metres, got {joints_m.shape}; their order is skeleton.JOINTS")
    if not np.isfinite(joints_m).all():
        raise UserError(f"expected finite joints, got {np.count_nonzero(~np.isfinite(joints_m))} values that are not; leave such hands out")
    if not 0 < joint_sd_mm < np.inf:
        raise UserError(f"expected a positive, finite joint_sd_mm, got {joint_sd_mm}; 0.5 suits the joints of another model")
    batch = joints_m.shape[:-2]
    start = None if betas is None else _checked_betas(betas, batch).reshape(-1, 10)
    targets_m = joints_m.reshape(-1, len(JOINTS), 3)
    solver = _Solver.of(model, fit_shape, joint_sd_mm)
    _check_palms(solver.joints, targets_m)
    parts = [
        solver.solve(targets_m[first : first + _CHUNK], None if start is None else start[first : first + _CHUNK])
        for first in range(0, max(len(targets_m), 1), _CHUNK)
    ]
    found = _State(*(np.concatenate(arrays) for arrays in zip(*(state.arrays() for state, _, _ in parts), strict=True)))
    costs, iterations = np.concatenate([cost for _, cost, _ in parts]), np.concatenate([tried for _, _, tried in parts])
    _refuse_left_hands(solver, targets_m, start, costs)
    fitted_m = solver.joints.pose(found).joints_m
    residual_mm = 1e3 * np.linalg.norm(fitted_m - targets_m, axis=-1)
    return FitResult(
        found.rotmats.reshape(*batch, 16, 3, 3),
        found.betas.reshape(*batch, 10),
        found.transl.reshape(*batch, 3),
        residual_mm.reshape(*batch, len(JOINTS)),
        iterations.reshape(batch),
    )


def convert_params(source: HandModel, params: HandParams, target: HandModel, *, fit_shape: bool = True) -> FitResult:
    """A hand of one model as the nearest parameters of another: open hand to MANO, and back.

    Args:
        source: the model that `params` pose.
        params: `rotmats` and `betas` count.
        target: the model to find parameters of.
        fit_shape: False keeps the target's mean shape, whose bones then have other lengths.

    Returns:
        Parameters of `target`; `transl` is from its frame to that of `source`. `residual_mm` says how well the joints agree: two models
        do not have them in the same places of a hand.
    """
    return fit_pose(target, source.joints(skin(source, params.rotmats, params.betas)), fit_shape=fit_shape)


@dataclass(frozen=True)
class _State:
    """rotmats (N, 16, 3, 3), betas (N, 10), transl (N, 3)."""

    rotmats: np.ndarray
    betas: np.ndarray
    transl: np.ndarray

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.rotmats, self.betas, self.transl

    def take(self, chosen: np.ndarray) -> _State:
        return _State(*(array[chosen] for array in self.arrays()))

    def put(self, chosen: np.ndarray, other: _State) -> None:
        for mine, others in zip(self.arrays(), other.arrays(), strict=True):
            mine[chosen] = others

    def moved(self, step: np.ndarray, wrist_dirs: np.ndarray) -> _State:
        """Another state, (N, 61) away: rotation vectors on the right of each rotation, then betas, then metres of the wrist.

        Betas move the wrist in the model's frame by `wrist_dirs` (3, 10), however the hand is turned. Taken out here, a step is the same
        for the same hand anywhere.
        """
        turns, betas = rotvec_to_rotmat(step[:, :48].reshape(-1, 16, 3)), step[:, 48:58]
        return _State(self.rotmats @ turns, self.betas + betas, self.transl + step[:, 58:] - betas @ wrist_dirs.T)


@dataclass(frozen=True)
class _Posed:
    """The 21 joints, and what their derivatives are made of."""

    joints_m: np.ndarray  # (N, 21, 3)
    parts_m: np.ndarray  # (N, 21, 16, 3) each articulated joint's share of them
    world_rotmats: np.ndarray  # (N, 16, 3, 3)
    chain_m: np.ndarray  # (N, 16, 3) joints of the kinematic chain


@dataclass(frozen=True)
class _JointMap:
    """Skinning followed by joint regression, with the sum over the vertices done once.

    Both are sums over vertices, so for each of the 21 joints and 16 transforms one row of constants is left of them.

    Attributes:
        dirs: (21, 16, 3, 146) weighted sums of the template (first), 10 shape and 135 pose directions.
        mass: (21, 16) how much of a joint follows each transform; rows sum to 1.
        chain_m: (16, 3) rest joints of the kinematic chain, and what a beta moves them in `chain_dirs` (16, 3, 10).
    """

    dirs: np.ndarray
    mass: np.ndarray
    chain_m: np.ndarray
    chain_dirs: np.ndarray

    @staticmethod
    def of(model: HandModel) -> _JointMap:
        tips = np.eye(len(model.template_m), dtype=model.joint_regressor.dtype)[model.tip_vertices]
        regressor = np.concatenate([model.joint_regressor, tips])[list(FROM_MANO_AND_TIPS)]
        dirs, mass = np.zeros((len(JOINTS), 16, 3, 146)), np.zeros((len(JOINTS), 16))
        for joint, row in enumerate(regressor):
            used = np.flatnonzero(row)
            shares = (row[used, None] * model.skin_weights[used]).astype(np.float64).T
            kinds = (model.template_m[used, :, None], model.shape_dirs[used], model.pose_dirs[used])
            dirs[joint] = np.tensordot(shares, np.concatenate(kinds, axis=2).astype(np.float64), 1)
            mass[joint] = shares.sum(axis=1)
        return _JointMap(dirs, mass, model.rest_joints_m.astype(np.float64), model.joint_shape_dirs.astype(np.float64))

    def rest(self, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 21, 3) joints of the unposed hand, and the (21, 3, 10) that betas move them."""
        dirs = self.dirs[..., 1:11].sum(axis=1)
        return self.dirs[..., 0].sum(axis=1) + np.moveaxis(dirs @ betas.T, -1, 0), dirs

    def pose(self, state: _State) -> _Posed:
        rotmats = state.rotmats
        features = (rotmats[:, 1:] - np.eye(3)).reshape(-1, 135)
        coefficients = np.concatenate([np.ones((len(rotmats), 1)), state.betas, features], axis=1)
        local_m = (coefficients @ self.dirs.reshape(-1, 146).T).reshape(-1, *self.dirs.shape[:3])
        rest_m = self.chain_m + (state.betas @ self.chain_dirs.reshape(-1, 10).T).reshape(-1, 16, 3)
        world_rotmats, chain_m = chain_joints(rest_m, rotmats)
        shifts_m = chain_m - (world_rotmats @ rest_m[..., None])[..., 0]
        turned_m = (world_rotmats[:, None] @ local_m[..., None])[..., 0]
        parts_m = turned_m + self.mass[:, :, None] * shifts_m[:, None]
        return _Posed(parts_m.sum(axis=2) + state.transl[:, None], parts_m, world_rotmats, chain_m)

    def derivatives(self, state: _State, posed: _Posed) -> np.ndarray:
        """(N, 21, 3, 61) of the joints by a step of `_State.moved`."""
        n, world = len(state.betas), posed.world_rotmats
        by = np.zeros((n, len(JOINTS), 3, _PARAMETERS))
        # A turn of a joint swings everything below it about the joint.
        levers_m = _BELOW @ posed.parts_m - (self.mass @ _BELOW.T)[:, :, None] * posed.chain_m[:, None]
        swings = np.cross(np.swapaxes(world, -1, -2)[:, None], levers_m[:, :, :, None])
        by[..., :48] = swings.transpose(0, 1, 4, 2, 3).reshape(n, len(JOINTS), 3, 48)
        # It also changes the correctives, (N, 3, 21, 15, 9) metres by entry of its matrix.
        rows = world.transpose(0, 2, 1, 3).reshape(n * 3, 48)
        turned = (rows @ self.dirs[..., 1:].transpose(1, 2, 0, 3).reshape(48, -1)).reshape(n, 3, len(JOINTS), 145)
        entries = (state.rotmats[:, 1:, None] @ _GENERATORS).reshape(n, 15, 3, 9)
        correctives = turned[..., 10:].reshape(n, 3 * len(JOINTS), 15, 9).transpose(0, 2, 1, 3) @ np.swapaxes(entries, -1, -2)
        by[..., 3:48] += correctives.reshape(n, 15, 3, len(JOINTS), 3).transpose(0, 3, 2, 1, 4).reshape(n, len(JOINTS), 3, 45)
        # Betas move the rest shape, and the chain under it.
        chain = np.empty((n, 16, 3, 10))
        chain[:, 0] = self.chain_dirs[0]
        for joint, parent in enumerate(MANO_PARENTS):
            if parent >= 0:
                chain[:, joint] = chain[:, parent] + world[:, parent] @ (self.chain_dirs[joint] - self.chain_dirs[parent])
        shifts = (chain - world @ self.chain_dirs).reshape(n, 16, 30)
        by[..., 48:58] = -self.chain_dirs[0] + turned[..., :10].transpose(0, 2, 1, 3) + (self.mass @ shifts).reshape(n, len(JOINTS), 3, 10)
        by[..., 58:] = np.eye(3)
        return by


# (3, 3, 3): the derivative of a rotation matrix at identity by each entry of the rotation vector.
_GENERATORS = np.cross(np.eye(3)[:, None], np.eye(3)[None]).transpose(0, 2, 1)


@dataclass(frozen=True)
class _Solver:
    """What stays the same from hand to hand."""

    joints: _JointMap
    mean_rotmats: np.ndarray  # (16, 3, 3)
    pose_weights: np.ndarray  # (15, 3, 3) a joint's rotation vector about the mean pose's, in standard deviations
    fit_shape: bool
    joint_sd_m: float

    @staticmethod
    def of(model: HandModel, fit_shape: bool, joint_sd_mm: float) -> _Solver:
        joints = _JointMap.of(model)
        rest_m = joints.rest(np.zeros((1, 10)))[0][0]
        bones = np.array([_unit(rest_m[end] - rest_m[start]) for start, end in _ENDS])
        along = bones[:, :, None] * bones[:, None]
        weights = np.eye(3) / POSE_SD_RAD + (1 / TWIST_SD_RAD - 1 / POSE_SD_RAD) * along
        # From the vectors: matrices made in single precision would not be rotations in double.
        mean_rotmats = rotvec_to_rotmat(np.concatenate([np.zeros((1, 3)), model.mean_pose]))
        return _Solver(joints, mean_rotmats, weights, fit_shape, joint_sd_mm / 1e3)

    def solve(self, targets_m: np.ndarray, betas: np.ndarray | None) -> tuple[_State, np.ndarray, np.ndarray]:
        """The state of each hand, its cost and the number of steps tried."""
        n = len(targets_m)
        state = self.guess(targets_m, betas)
        posed = self.joints.pose(state)
        costs, damping, iterations = self.cost(state, posed, targets_m), np.full(n, _FIRST_DAMPING), np.zeros(n, dtype=int)
        left = np.arange(n)
        while len(left):
            now = state.take(left)
            posed = self.joints.pose(now)
            hessian, gradient = self.normal_equations(now, posed, targets_m[left])
            diagonal = np.einsum("nii->ni", hessian)
            diagonal *= 1 + damping[left, None]
            # Betas that are kept have no derivatives, and must not make the matrix singular.
            diagonal += diagonal == 0
            candidate = now.moved(-np.linalg.solve(hessian, gradient[..., None])[..., 0], self.joints.chain_dirs[0])
            cost = self.cost(candidate, self.joints.pose(candidate), targets_m[left])
            better = cost < costs[left]
            gain = (costs[left] - cost) / np.maximum(costs[left], 1e-12)
            state.put(left[better], candidate.take(better))
            costs[left[better]] = cost[better]
            damping[left] *= np.where(better, 0.2, 10.0)
            iterations[left] += 1
            there = (better & (gain < _LEAST_GAIN)) | (damping[left] > _LAST_DAMPING) | (iterations[left] >= _MAX_ITERATIONS)
            left = left[~there]
        return state, costs, iterations

    def guess(self, targets_m: np.ndarray, betas: np.ndarray | None) -> _State:
        """Lengths of bones, then the palm as a rigid body, then each finger from the palm outwards."""
        n = len(targets_m)
        if betas is None:
            betas = self.betas_of_bones(targets_m) if self.fit_shape else np.zeros((n, 10))
        rotmats = np.broadcast_to(self.mean_rotmats, (n, 16, 3, 3)).copy()
        rest_m = self.joints.rest(betas)[0]
        rotmats[:, 0] = _best_rotations(rest_m[:, _PALM], targets_m[:, _PALM])
        world = rotmats.copy()
        for joint, (start, end) in enumerate(_ENDS, start=1):
            above = world[:, MANO_PARENTS[joint]]
            bone = np.einsum("ab,nb->na", self.mean_rotmats[joint], rest_m[:, end] - rest_m[:, start])
            goal = np.einsum("nba,nb->na", above, targets_m[:, end] - targets_m[:, start])
            rotmats[:, joint] = _shortest_arcs(bone, goal) @ self.mean_rotmats[joint]
            world[:, joint] = above @ rotmats[:, joint]
        state = _State(rotmats, np.array(betas), np.zeros((n, 3)))
        return _State(rotmats, state.betas, (targets_m - self.joints.pose(state).joints_m)[:, _PALM].mean(axis=1))

    def betas_of_bones(self, targets_m: np.ndarray) -> np.ndarray:
        """(N, 10) whose unposed hand has bones of the given lengths, by Gauss-Newton with the betas' prior."""
        children, parents = np.array(BONES).T
        lengths_m = np.linalg.norm(targets_m[:, children] - targets_m[:, parents], axis=-1)
        betas = np.zeros((len(targets_m), 10))
        # Bones are longer or shorter where the pose bends them too: these are no better than a few millimetres.
        sd_m = 3e-3
        for _ in range(3):
            rest_m, dirs = self.joints.rest(betas)
            bones_m = rest_m[:, children] - rest_m[:, parents]
            rest_lengths_m = np.linalg.norm(bones_m, axis=-1)
            by_betas = np.einsum("nbi,bik->nbk", bones_m / rest_lengths_m[..., None], dirs[children] - dirs[parents]) / sd_m
            gradient = np.einsum("nbk,nb->nk", by_betas, (rest_lengths_m - lengths_m) / sd_m) + betas / BETA_SD**2
            hessian = np.swapaxes(by_betas, 1, 2) @ by_betas + np.eye(10) / BETA_SD**2
            betas = betas - np.linalg.solve(hessian, gradient[..., None])[..., 0]
        return betas

    def _pose_offsets(self, rotmats: np.ndarray) -> np.ndarray:
        """(N, 15, 3) rotation vectors from the mean pose."""
        return rotmat_to_rotvec(np.swapaxes(self.mean_rotmats[1:], -1, -2) @ rotmats[:, 1:])

    def cost(self, state: _State, posed: _Posed, targets_m: np.ndarray) -> np.ndarray:
        """(N,) half the sum of squares, in standard deviations."""
        misses = (posed.joints_m - targets_m) / self.joint_sd_m
        offsets = (self.pose_weights @ self._pose_offsets(state.rotmats)[..., None])[..., 0]
        return 0.5 * (np.sum(misses**2, axis=(1, 2)) + np.sum(offsets**2, axis=(1, 2)) + np.sum((state.betas / BETA_SD) ** 2, axis=1))

    def normal_equations(self, state: _State, posed: _Posed, targets_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 61, 61) and (N, 61): J^T J and J^T r of the cost's residuals."""
        n = len(targets_m)
        by = self.joints.derivatives(state, posed).reshape(n, -1, _PARAMETERS) / self.joint_sd_m
        if not self.fit_shape:
            by[..., 48:58] = 0
        misses = (posed.joints_m - targets_m).reshape(n, -1, 1) / self.joint_sd_m
        hessian, gradient = np.swapaxes(by, 1, 2) @ by, (np.swapaxes(by, 1, 2) @ misses)[..., 0]
        offsets = self._pose_offsets(state.rotmats)
        by_turns = self.pose_weights @ _log_derivative(offsets)
        for joint in range(15):
            at = slice(3 + 3 * joint, 6 + 3 * joint)
            by_turn = np.swapaxes(by_turns[:, joint], 1, 2)
            hessian[:, at, at] += by_turn @ by_turns[:, joint]
            gradient[:, at] += (by_turn @ (self.pose_weights[joint] @ offsets[:, joint, :, None]))[..., 0]
        if self.fit_shape:
            hessian[:, range(48, 58), range(48, 58)] += 1 / BETA_SD**2
            gradient[:, 48:58] += state.betas / BETA_SD**2
        return hessian, gradient


def _log_derivative(rotvecs: np.ndarray) -> np.ndarray:
    """(..., 3, 3) of the rotation vector by a small turn on the right: the inverse right Jacobian of SO(3) (Chirikjian 2012, 10.86)."""
    angle = np.linalg.norm(rotvecs, axis=-1)[..., None, None]
    skew = np.einsum("...k,kij->...ij", rotvecs, _GENERATORS)
    safe = np.maximum(angle, 1e-3)
    # The series' first term is enough below a thousandth of a radian.
    factor = np.where(angle < 1e-3, 1 / 12, 1 / safe**2 - 1 / (2 * safe * np.tan(safe / 2)))
    return np.eye(3) + 0.5 * skew + factor * (skew @ skew)


def _best_rotations(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, 3, 3) proper rotations that bring centred (N, P, 3) points nearest to their targets (Kabsch 1976)."""
    return nearest_rotmat(_correlation(points, targets))


def _correlation(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    centred, towards = (each - each.mean(axis=-2, keepdims=True) for each in (points, targets))
    return np.swapaxes(towards, -1, -2) @ centred


def _shortest_arcs(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, 3, 3) that turn each of (N, 3) directions along another; opposite ones are left."""
    axes = np.cross(sources, targets)
    sines = np.linalg.norm(axes, axis=-1, keepdims=True)
    angles = np.arctan2(sines, np.sum(sources * targets, axis=-1, keepdims=True))
    return rotvec_to_rotmat(axes * angles / np.maximum(sines, np.finfo(float).tiny))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _checked_betas(betas: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    betas = np.asarray(betas, dtype=np.float64)
    if not np.isfinite(betas).all():
        raise UserError(f"expected finite betas, got {np.count_nonzero(~np.isfinite(betas))} values that are not; leave betas out")
    try:
        return np.broadcast_to(betas, (*batch, 10))
    except ValueError as error:
        raise UserError(f"expected betas (10,) or {(*batch, 10)}, one row a hand, got {betas.shape}; reshape them") from error


def _check_palms(joints: _JointMap, targets_m: np.ndarray) -> None:
    """Refuse joints in other units, for a hand's palm is within three times the model's, and joints that are no hand's."""

    def spread(points_m: np.ndarray) -> np.ndarray:
        palms_m = points_m[..., _PALM, :]
        return np.linalg.norm(palms_m - palms_m.mean(axis=-2, keepdims=True), axis=(-2, -1))

    # Huge numbers overflow, and are refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = np.nan_to_num(spread(targets_m) / spread(joints.rest(np.zeros((1, 10)))[0]), nan=np.inf, posinf=np.inf)
    wrong = np.flatnonzero(~((ratios >= 1 / 3) & (ratios <= 3)))
    if len(wrong) and ratios[wrong[0]] < _NO_SIZE:
        raise UserError(f"expected joints of hands, got a palm whose joints are all in one place (hand {wrong[0]}); leave such hands out")
    if len(wrong):
        raise UserError(
            f"expected joints of hands in metres, got a palm {ratios[wrong[0]]:.3g} times the model's (hand {wrong[0]}); "
            "convert the joints to metres"
        )
    palms_m = targets_m[:, _PALM]
    lengths_m = np.linalg.svd(palms_m - palms_m.mean(axis=1, keepdims=True), compute_uv=False)
    flat = np.flatnonzero(lengths_m[:, 1] < _LEAST_BREADTH * lengths_m[:, 0])
    if len(flat):
        raise UserError(f"expected joints of hands, got a palm whose joints are on one line (hand {flat[0]}); leave such hands out")


def _refuse_left_hands(solver: _Solver, targets_m: np.ndarray, betas: np.ndarray | None, costs: np.ndarray) -> None:
    """Where a palm fits better through a mirror, the whole hand is tried so: joints of a left hand fit several times better."""
    rest_m = solver.joints.rest(np.zeros((1, 10)))[0][:, _PALM]
    suspects = np.flatnonzero(np.linalg.det(_correlation(rest_m, targets_m[:, _PALM])) < 0)
    if not len(suspects):
        return
    mirrored = solver.solve(mirror_points(targets_m[suspects]), None if betas is None else betas[suspects])[1]
    left = suspects[mirrored < 0.5 * costs[suspects]]
    if len(left):
        raise LeftHandError(int(left[0]), len(targets_m))
