"""Hand poses as people hold their hands, and how they turn them to a camera.

A kind of `PoseMixture` has styles (a fist with the thumb over, beside or inside); a style gives each finger a form (straight,
folded, ...) and the thumb a place. Angles stay within `hand_model.articulation.LIMITS_DEG`; a DIP follows its PIP by about
two thirds, neighbouring fingers pull each other, bent fingers spread less. Thumbs that are to touch look for a touch that leaves
the flesh free (`penetration`); hands that reach into themselves are drawn again.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from typing import Literal

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.articulation import (
    ABDUCTION,
    FIRST_JOINTS,
    FLEXION,
    LONG_FINGERS,
    PALM,
    POSES,
    THUMB_COLUMNS,
    TWIST,
    Anatomy,
    angles_to_rotmats,
    join_angles,
    limits_deg,
    unit,
)
from handmesh.skeleton import FINGERS
from handmesh.synthetic.config import PoseMixture, Range, SynthConfig
from handmesh.synthetic.penetration import TOUCH_M, Flesh, best_touch, close_finger, sunk_m

KINDS = tuple(field.name for field in fields(PoseMixture))
TRIES = 8
# Positive turns towards the thumb: fingers spread by these when the hand opens.
_SPREAD = np.array([1.0, 0.15, -0.7, -1.3])
_LOW_DEG, _HIGH_DEG = limits_deg()
_THUMB_LOW_DEG, _THUMB_HIGH_DEG = _LOW_DEG[THUMB_COLUMNS], _HIGH_DEG[THUMB_COLUMNS]
_FIRST_ROWS = np.array([FIRST_JOINTS[finger] - 1 for finger in LONG_FINGERS])
_RELAXED_DEG = POSES["relaxed"].angles_deg()
_THUMB = FIRST_JOINTS["thumb"]

# A finger's form: (lowest, highest) MCP, PIP, and DIP over PIP.
_FORMS: dict[str, tuple[Range, Range, Range]] = {
    "straight": ((-16.0, 12.0), (-5.0, 12.0), (0.3, 0.8)),
    "easy": ((0.0, 20.0), (6.0, 26.0), (0.45, 0.7)),
    "relaxed": ((8.0, 38.0), (14.0, 46.0), (0.45, 0.7)),
    "half": ((30.0, 62.0), (45.0, 80.0), (0.5, 0.75)),
    "loose": ((52.0, 76.0), (78.0, 98.0), (0.55, 0.75)),
    "folded": ((74.0, 90.0), (94.0, 109.0), (0.62, 0.8)),
    "hook": ((-12.0, 18.0), (72.0, 104.0), (0.55, 0.75)),
    "claw": ((-24.0, 6.0), (38.0, 70.0), (0.5, 0.75)),
    "table": ((55.0, 88.0), (-5.0, 16.0), (0.3, 0.7)),
    "cup": ((20.0, 48.0), (22.0, 52.0), (0.5, 0.7)),
    "typing": ((5.0, 42.0), (24.0, 62.0), (0.5, 0.7)),
    "wrapped": ((46.0, 68.0), (70.0, 92.0), (0.5, 0.7)),
    "pinching": ((28.0, 66.0), (18.0, 60.0), (0.1, 0.7)),
}
# More bent towards the little finger.
_CASCADE = np.array([-1.0, -0.1, 0.5, 1.0])
_CASCADING = {"easy", "relaxed", "half", "loose"}

_Thumb = Literal["out", "rest", "up", "over", "beside", "inside", "opposed", "thing"]
_THUMBS: dict[str, np.ndarray] = {
    "out": np.array([-16.0, -8.0, 0.0, 0.0, -4.0]),
    "rest": np.array([6.0, 4.0, -4.0, 10.0, 14.0]),
    "up": np.array([-26.0, -30.0, 5.0, -4.0, -12.0]),
    "over": np.array([28.0, 40.0, -20.0, 34.0, 30.0]),
    "beside": np.array([10.0, 0.0, -5.0, 6.0, 8.0]),
    "inside": np.array([44.0, 30.0, -22.0, 34.0, 36.0]),
    "opposed": np.array([40.0, 30.0, -16.0, 0.0, -2.0]),
    "thing": np.array([30.0, 30.0, -14.0, 8.0, 10.0]),
}
_THUMB_SD = np.array([8.0, 7.0, 3.0, 7.0, 11.0])
_SEARCH_SD = np.array([14.0, 14.0, 8.0, 14.0, 18.0])
_SEARCHES = ((72, 1.0), (48, 0.3))


@dataclass(frozen=True)
class Grip:
    """A thing that fits into a hand, in the frame of `skin` with an identity root and mean betas.

    Attributes:
        centre_m: (3,) where the hand holds it.
        axis: (3,) unit, along a can, a handle or a pen.
        radius_m: of the can or ball.
        is_ball: round on all sides; a can of the same radius and a length of twice that fits as well.
        reach_m: (2,) how far from the centre against and along the axis a can may go until it would cut into the hand; at most
            `GRIP_REACH_M`.
    """

    centre_m: np.ndarray
    axis: np.ndarray
    radius_m: float
    is_ball: bool
    reach_m: np.ndarray

    def fitted(self, mean_joints_m: np.ndarray, joints_m: np.ndarray) -> Grip:
        """The same grip in a hand of another size: rest joints (16, 3) of the mean hand and of this one."""
        bones = [np.linalg.norm(rest[1:] - rest[0], axis=1).sum() for rest in (mean_joints_m, joints_m)]
        scale = float(bones[1] / bones[0])
        centre = joints_m[0] + (self.centre_m - mean_joints_m[0]) * scale
        return Grip(centre, self.axis, self.radius_m * scale, self.is_ball, self.reach_m * scale)


GRIP_REACH_M = 0.2
LEAST_GRIP_M = 0.001


@dataclass(frozen=True)
class Pose:
    """A posed hand.

    Attributes:
        rotmats: (16, 3, 3) f32 parent-relative; the first is the identity (see `sample_orientation`).
        kind: a field's name of `PoseMixture`.
        grip: what it could hold, for many of the pinches, oks, fists and grasps.
    """

    rotmats: np.ndarray
    kind: str
    grip: Grip | None


@dataclass(frozen=True)
class HandAngles:
    """Joint angles in degrees; finger arrays in the order of `LONG_FINGERS`.

    Attributes:
        mcp, pip, dip: (..., 4) flexion.
        spread: (..., 4) towards the thumb.
        thumb: (..., 5) flexion, abduction and twist of the CMC, flexion of MCP and IP.
    """

    mcp: np.ndarray
    pip: np.ndarray
    dip: np.ndarray
    spread: np.ndarray
    thumb: np.ndarray

    def joint_angles(self) -> np.ndarray:
        """(..., 15, 3) as `articulation.angles_to_rotmats` takes them; leading axes are broadcast."""
        return join_angles(self.mcp, self.pip, self.dip, self.spread, self.thumb)


@dataclass(frozen=True)
class _Style:
    """One way to make a kind of pose.

    Attributes:
        share: among the styles of its kind.
        forms: of index to little, names in `_FORMS`.
        thumb: where it goes; "over", "beside", "inside", "opposed" and "thing" touch.
        spread: degrees, over `_SPREAD`.
        apart: (4,) degrees of spread added finger by finger.
        pinches: long fingers (0 index) whose pads meet the thumb's: the first is searched for.
        gap: metres between the pads.
        thing: what the hand closes on, with the range of its radius in metres; a handle fills what a fist leaves.
    """

    share: float
    forms: tuple[str, str, str, str]
    thumb: _Thumb
    spread: Range = (-5.0, 2.0)
    apart: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    pinches: tuple[int, ...] = ()
    gap: Range = (0.0, 0.0)
    thing: Literal["", "can", "ball", "handle"] = ""
    radius_m: Range = (0.0, 0.0)


_LETTERS = dict(zip("serhlfkctuywp", _FORMS, strict=True))


def _forms(letters: str) -> tuple[str, str, str, str]:
    """Four forms, index to little, from `_LETTERS`."""
    a, b, c, d = (_LETTERS[letter] for letter in letters)
    return a, b, c, d


_TOGETHER, _NARROW, _WIDE = (-7.0, -3.0), (-4.0, 4.0), (10.0, 18.0)
_STYLES: dict[str, tuple[_Style, ...]] = {
    "relaxed": (
        _Style(0.42, _forms("rrrr"), "rest", _NARROW),
        _Style(0.14, _forms("eeee"), "rest", _NARROW),
        _Style(0.14, _forms("hhhh"), "rest", _NARROW),
        _Style(0.08, _forms("rrrr"), "out", _NARROW),
        _Style(0.10, _forms("yyyy"), "rest", (0.0, 8.0)),
        _Style(0.06, _forms("ehhh"), "rest", _NARROW),
        _Style(0.06, _forms("erhl"), "rest", _NARROW),
    ),
    "open": (
        _Style(0.34, _forms("ssss"), "out", (0.0, 11.0)),
        _Style(0.20, _forms("ssss"), "beside", _TOGETHER),
        _Style(0.12, _forms("ssss"), "up", _NARROW),
        _Style(0.12, _forms("eeee"), "rest", (-5.0, 8.0)),
        _Style(0.06, _forms("eeee"), "beside", _TOGETHER),
        _Style(0.08, _forms("tttt"), "out", _TOGETHER),
        _Style(0.08, _forms("tttt"), "rest", _NARROW),
    ),
    "spread": (
        _Style(0.72, _forms("ssss"), "out", _WIDE),
        _Style(0.16, _forms("cccc"), "out", _WIDE),
        _Style(0.12, _forms("ssss"), "out", (0.0, 2.0), apart=(5.0, 11.0, -10.0, -4.0)),
    ),
    "fist": (
        _Style(0.36, _forms("ffff"), "over"),
        _Style(0.18, _forms("ffff"), "beside"),
        _Style(0.08, _forms("llll"), "inside"),
        _Style(0.13, _forms("llll"), "over"),
        _Style(0.25, _forms("wwww"), "over", thing="handle"),
    ),
    "point": (
        _Style(0.34, _forms("sfff"), "over"),
        _Style(0.18, _forms("sfff"), "beside"),
        _Style(0.18, _forms("sfff"), "out"),
        _Style(0.08, _forms("sfff"), "up"),
        _Style(0.14, _forms("slll"), "over"),
        _Style(0.08, _forms("elll"), "rest"),
    ),
    "pinch": (
        _Style(0.22, _forms("prrr"), "opposed", (-3.0, 6.0), pinches=(0,), gap=(0.0, 0.006)),
        _Style(0.14, _forms("phhh"), "opposed", _NARROW, pinches=(0,), gap=(0.0, 0.012)),
        _Style(0.12, _forms("peee"), "opposed", (0.0, 8.0), pinches=(0,), gap=(0.0, 0.02)),
        _Style(0.12, _forms("plll"), "opposed", _NARROW, pinches=(0,), gap=(0.0, 0.008)),
        _Style(0.10, _forms("rprr"), "opposed", (-3.0, 6.0), pinches=(1,), gap=(0.0, 0.006)),
        _Style(0.20, _forms("pphl"), "opposed", _TOGETHER, pinches=(0, 1), gap=(0.004, 0.012)),
        _Style(0.10, _forms("ppph"), "opposed", _NARROW, pinches=(1, 0, 2), gap=(0.012, 0.04)),
    ),
    "ok": (
        _Style(0.6, _forms("psss"), "opposed", (0.0, 12.0), pinches=(0,), gap=(0.0, 0.002)),
        _Style(0.3, _forms("peee"), "opposed", (0.0, 8.0), pinches=(0,), gap=(0.0, 0.002)),
        _Style(0.1, _forms("perh"), "opposed", (0.0, 6.0), pinches=(0,), gap=(0.0, 0.002)),
    ),
    "count": (
        _Style(0.06, _forms("sfff"), "over"),
        _Style(0.16, _forms("ssff"), "over", apart=(9.0, -7.0, 0.0, 0.0)),
        _Style(0.07, _forms("ssff"), "over", _TOGETHER),
        _Style(0.12, _forms("sssf"), "inside", (2.0, 10.0)),
        _Style(0.11, _forms("ssss"), "inside", (0.0, 9.0)),
        _Style(0.08, _forms("ssss"), "out", (5.0, 14.0)),
        _Style(0.08, _forms("sfff"), "out"),
        _Style(0.08, _forms("ssff"), "out", apart=(6.0, -5.0, 0.0, 0.0)),
        _Style(0.04, _forms("sssf"), "out", (2.0, 8.0)),
        _Style(0.07, _forms("sffs"), "over"),
        _Style(0.05, _forms("sffs"), "out"),
        _Style(0.06, _forms("llls"), "up"),
        _Style(0.02, _forms("llls"), "over"),
    ),
    "thumbs_up": (
        _Style(0.8, _forms("ffff"), "up"),
        _Style(0.2, _forms("llll"), "up"),
    ),
    "grasp": (
        _Style(0.44, _forms("yyyy"), "thing", (-3.0, 6.0), thing="can", radius_m=(0.012, 0.042)),
        _Style(0.26, _forms("yyyy"), "thing", (2.0, 12.0), thing="ball", radius_m=(0.015, 0.045)),
        _Style(0.10, _forms("kkkk"), "rest"),
        _Style(0.06, _forms("cccc"), "opposed", (0.0, 10.0)),
        _Style(0.14, _forms("uuuu"), "opposed", _TOGETHER),
    ),
}


@dataclass(frozen=True)
class _Skin:
    """A place on the skin: the joint that moves it, where it is from the origin at rest, and where it faces."""

    joint: int
    offset_m: np.ndarray
    direction: np.ndarray

    def row(self) -> tuple[int, np.ndarray, np.ndarray]:
        return self.joint, np.ascontiguousarray(self.offset_m, np.float64), np.ascontiguousarray(self.direction, np.float64)


_NO_PLACE = (-1, np.zeros(3), np.zeros(3))
_NO_THING = (np.zeros(3), np.zeros(3), 0.0)


@dataclass(frozen=True)
class PoseSampler:
    """Draws poses for one hand model.

    Attributes:
        anatomy: of the model.
        flesh: what must not overlap.
        vertices_m: (V, 3) the model's template.
    """

    anatomy: Anatomy
    flesh: Flesh
    vertices_m: np.ndarray

    @staticmethod
    def of(model: HandModel, anatomy: Anatomy) -> PoseSampler:
        """Measure a model: a fraction of a second."""
        return PoseSampler(anatomy, Flesh.of(model, anatomy), model.template_m.astype(np.float64))

    def sample(self, rng: np.random.Generator, mixture: PoseMixture) -> Pose:
        """A pose of a kind drawn from a mixture."""
        weights = np.array(astuple(mixture))
        kind = KINDS[int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), side="right"))]
        return self.of_kind(rng, kind)

    def of_kind(self, rng: np.random.Generator, kind: str) -> Pose:
        """A pose of a kind named in `PoseMixture`."""
        style = _random_style(rng) if kind == "random" else _choose(rng, _STYLES[kind])
        angles, thing, depth = self._draw(rng, style, kind)
        for _ in range(TRIES - 1):
            if depth <= TOUCH_M:
                break
            again = self._draw(rng, style, kind)
            if again[2] < depth:
                angles, thing, depth = again
        if depth > TOUCH_M:
            angles, thing = self._freed(angles), None
        rotmats = angles_to_rotmats(self.anatomy, angles)
        return Pose(rotmats.astype(np.float32), kind, self._grip(angles, thing))

    def depth_m(self, angles_deg: np.ndarray) -> float:
        """How deep the flesh of joint angles (15, 3) reaches into itself."""
        return max(self.flesh.overlap_m(angles_deg))

    def _draw(self, rng: np.random.Generator, style: _Style, kind: str) -> tuple[np.ndarray, Grip | None, float]:
        """Joint angles (15, 3), what is held, and the depth of the flesh in itself or in what is held."""
        fingers = _fingers(rng, style, kind)
        thumb = _THUMBS[style.thumb] + rng.normal(0, 1, 5) * _THUMB_SD
        if kind == "random":
            # All of the range, its ends seldom: no thumb is at the end of all five angles.
            thumb = _THUMB_LOW_DEG + (_THUMB_HIGH_DEG - _THUMB_LOW_DEG) * rng.beta(1.8, 1.8, 5)
        angles = replace(fingers, thumb=np.clip(thumb, _THUMB_LOW_DEG, _THUMB_HIGH_DEG)).joint_angles()
        angles[_FIRST_ROWS, TWIST] = rng.normal(0, 2, 4)
        angles[_THUMB, ABDUCTION], angles[_THUMB, TWIST] = rng.normal(0, 4), rng.normal(0, 1.5)
        angles = np.clip(angles, _LOW_DEG, _HIGH_DEG)
        grip = None
        if style.thing in ("can", "ball"):
            grip, angles = self._close_on_thing(rng, style, angles)
            angles = self._touch(rng, angles, _NO_PLACE, 0.0, grip)
        elif style.thing:
            grip = self._handle(rng, angles)
            angles = self._touch(rng, angles, self._goal(rng, style).row(), 0.001, grip)
        elif style.pinches:
            gap_m = float(rng.uniform(*style.gap))
            angles, grip = self._pinch(rng, style, angles, gap_m)
        elif style.thumb in ("over", "beside", "inside"):
            # A thumb laid beside a flat hand keeps away from it more or less.
            gap_m = rng.uniform(0.001, 0.014) if style.thumb == "beside" and "folded" not in style.forms else 0.001
            angles = self._touch(rng, angles, self._goal(rng, style).row(), gap_m, None)
        depth = self.depth_m(angles)
        if grip is not None and style.thing:
            depth = max(depth, self._sunk_m(angles, grip))
        return angles, grip, depth

    def _hand(self) -> tuple:
        f = self.flesh
        return f.frames, f.joints_m, f.centres_m, f.radii_m, f.bones, f.shares, f.pairs, f.allowed_m

    def _balls(self, finger: int) -> np.ndarray:
        """Balls of a finger (0 the thumb), without those of the palm."""
        first = FIRST_JOINTS[FINGERS[finger]]
        bone = self.flesh.bones[:, 0]
        return np.flatnonzero((bone >= first) & (bone < first + 3))

    @staticmethod
    def _thing(grip: Grip) -> tuple[np.ndarray, np.ndarray, float]:
        """As `penetration` takes it."""
        return grip.centre_m, np.zeros(3) if grip.is_ball else grip.axis, grip.radius_m

    def _palm_balls(self) -> np.ndarray:
        """Balls of the palm and of the fingers' roots."""
        bones = self.flesh.bones[:, 0]
        away = np.linalg.norm(self.flesh.centres_m - self.anatomy.joints_m[bones], axis=1)
        return np.flatnonzero((bones == 0) | (np.isin(bones, _FIRST_ROWS + 1) & (away < 0.018)))

    def _handle(self, rng: np.random.Generator, angles: np.ndarray) -> Grip | None:
        """The thickest handle across the palm that bent fingers leave room for; None where that is a wire."""
        centres, radii = self.flesh.posed(angles), self.flesh.radii_m
        posed = [rotmat @ joint + shift for rotmat, shift, joint in zip(*self.flesh.bones_of(angles), self.anatomy.joints_m, strict=True)]
        ends = [[posed[FIRST_JOINTS[finger] + step] for finger in LONG_FINGERS] for step in range(3)]
        start = np.mean([np.mean(end, axis=0) for end in (ends[0], ends[2])], axis=0)
        axis = unit(rotvec_to_rotmat(PALM * np.radians(rng.normal(-4, 8))) @ unit(ends[0][0] - ends[0][3]))
        first = unit(np.cross(axis, PALM))
        second = np.cross(axis, first)
        steps = np.linspace(-0.018, 0.018, 13)
        near = (np.abs((centres - start) @ axis) < 0.05) & (self.flesh.bones[:, 0] < _THUMB)
        flat = np.stack([(centres[near] - start) @ first, (centres[near] - start) @ second], axis=1)
        grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 1, 2)
        room = (np.linalg.norm(grid - flat, axis=-1) - radii[near]).min(axis=1)
        # Inside the fist: flesh above it, seen from the palm.
        outwards = np.array([first @ PALM, second @ PALM])
        above = (flat - grid) @ outwards > 0.7 * np.linalg.norm(flat - grid, axis=-1)
        room[above.sum(axis=1) < 4] = 0
        best = int(np.argmax(room))
        if room[best] < 0.003:
            return None
        centre = start + grid[best, 0, 0] * first + grid[best, 0, 1] * second
        return Grip(centre, axis, float(min(room[best] + 0.0005, 0.016)), False, np.zeros(2))

    def _sunk_m(self, angles_deg: np.ndarray, grip: Grip) -> float:
        centres = self.flesh.posed(angles_deg)
        everything = np.arange(len(centres))
        if not grip.is_ball:
            along = np.abs((centres - grip.centre_m) @ grip.axis)
            everything = everything[along < 0.06]
        return sunk_m(centres, self.flesh.radii_m, everything, *self._thing(grip))

    def _surface(self, joint: int, from_m: np.ndarray, direction: np.ndarray) -> _Skin:
        """Where a ray from inside a bone's flesh leaves the skin at rest."""
        direction = unit(direction)
        away = self.vertices_m - from_m
        height = away @ direction
        side = np.linalg.norm(away - height[:, None] * direction, axis=1)
        near = (side < 0.006) & (height > 0) & (height < 0.03)
        top = float(height[near].max()) if near.any() else 0.008
        return _Skin(joint, from_m + top * direction, direction)

    def _along(self, finger: int, bone: int, share: float) -> tuple[int, np.ndarray]:
        """A finger's joint (0 MCP or CMC) and a point at a share of the bone that follows it."""
        joint = FIRST_JOINTS[FINGERS[finger]] + bone
        end = self.anatomy.tips_m[finger] if bone == 2 else self.anatomy.joints_m[joint + 1]
        start = self.anatomy.joints_m[joint]
        return joint, start + share * (end - start)

    def _pad(self, finger: int, share: float) -> _Skin:
        joint, point = self._along(finger, 2, share)
        return self._surface(joint, point, self.anatomy.pads[joint])

    def _goal(self, rng: np.random.Generator, style: _Style) -> _Skin:
        """Where a thumb that touches the hand itself puts its pad."""
        bent = [k for k in range(4) if style.forms[k] in ("folded", "loose", "wrapped")]
        if style.thumb == "inside":
            finger = FIRST_JOINTS["ring" if rng.random() < 0.6 else "middle"]
            return self._surface(0, rng.uniform(0.7, 0.95) * self.anatomy.joints_m[finger], PALM)
        if style.thumb == "over":
            finger = bent[min(int(rng.integers(2)), len(bent) - 1)]
            joint, point = self._along(finger + 1, 1, rng.uniform(0.25, 0.9))
            return self._surface(joint, point, -self.anatomy.pads[joint])
        bone = 1 if bent else 0
        joint, point = self._along((bent[0] if bent else 0) + 1, bone, rng.uniform(0.05, 0.7))
        return self._surface(joint, point, self.anatomy.flexion_axes[joint])

    def _touch(
        self, rng: np.random.Generator, angles: np.ndarray, goal: tuple, gap_m: float, grip: Grip | None, finger: int = -1
    ) -> np.ndarray:
        """The thumb (and a long finger, 0 the index) turned so that its pad meets a goal."""
        pad = self._pad(0, rng.uniform(0.55, 0.8)).row()
        thing = _NO_THING if grip is None else self._thing(grip)
        balls, hand = self._balls(0), self._hand()
        pairs = (0, self.flesh.thumb_pairs) if finger < 0 else (0, len(self.flesh.pairs))
        for count, width in _SEARCHES:
            noise = rng.normal(0, 1, (count, 7))
            noise[0] = 0
            candidates = np.repeat(angles[None], count, axis=0)
            candidates[:, *THUMB_COLUMNS] += width * _SEARCH_SD * noise[:, :5]
            if finger >= 0:
                row = _FIRST_ROWS[finger]
                candidates[:, row, FLEXION] += width * 12 * noise[:, 5]
                bend = width * 14 * noise[:, 6]
                candidates[:, row + 1, FLEXION] += bend
                candidates[:, row + 2, FLEXION] += 0.6 * bend
            candidates = np.clip(candidates, _LOW_DEG, _HIGH_DEG)
            costs = (0.0008 * width) ** 2 * (noise**2).sum(axis=1)
            best, _ = best_touch(candidates, costs, hand, pairs, balls, pad, goal, gap_m, thing, 0.85 * TOUCH_M)
            angles = candidates[best]
        return angles

    def _pinch(self, rng: np.random.Generator, style: _Style, angles: np.ndarray, gap_m: float) -> tuple[np.ndarray, Grip]:
        finger = style.pinches[0]
        pad = self._pad(finger + 1, rng.uniform(0.55, 0.85))
        angles = self._touch(rng, angles, pad.row(), gap_m, None, finger)
        rotmats, shifts = self.flesh.bones_of(angles)
        thumb, tip = (rotmats[place.joint] @ place.offset_m + shifts[place.joint] for place in (self._pad(0, 0.7), pad))
        across = tip - thumb
        gap = float(np.linalg.norm(across))
        web = self.anatomy.joints_m[FIRST_JOINTS["index"]] + (0.0, 0.004, 0.012)
        # A pen leans on the web beside the index knuckle; other things lie anyhow between the pads.
        lean = web - (thumb + tip) / 2 if len(style.pinches) == 2 and gap < 0.02 else rng.normal(0, 1, 3)
        axis = unit(np.cross(across, np.cross(lean, across)))
        grip = Grip((thumb + tip) / 2, axis, max(gap / 2, 0.0015), len(style.pinches) == 3, np.zeros(2))
        first, thing = _FIRST_ROWS[finger], self._thing(grip)
        for other in style.pinches[1:]:
            # The other fingers of a tripod go along with the first, and close on what it holds.
            row = int(_FIRST_ROWS[other])
            most = angles[first : first + 2, FLEXION] + (12, 15)
            angles[row : row + 3, FLEXION] = np.maximum(angles[first : first + 3, FLEXION] - (18, 8, 4), 0)
            close_finger(angles, row, most, 0.5, self._hand(), self._balls(other + 1), thing, 0.001)
        return np.clip(angles, _LOW_DEG, _HIGH_DEG), grip

    def _close_on_thing(self, rng: np.random.Generator, style: _Style, angles: np.ndarray) -> tuple[Grip, np.ndarray]:
        """Put a can or a ball before the palm and close the long fingers on it."""
        joints = self.anatomy.joints_m
        knuckles = [joints[FIRST_JOINTS[finger]] for finger in LONG_FINGERS]
        low, high = style.radius_m
        radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        across = unit(knuckles[0] - knuckles[3])
        tilt = rotvec_to_rotmat(PALM * np.radians(rng.normal(-8, 14)))
        axis = unit(tilt @ across)
        middle = 0.5 * (knuckles[1] + knuckles[2])
        is_ball = style.thing == "ball"
        forwards = rng.uniform(-0.012, 0.0) + 0.7 * radius
        start = middle + np.array([-forwards, 0.0, 0.006 * is_ball])
        # Out of the palm until it only touches, and for the fingertips' grip some way further.
        palm = self._palm_balls()
        line = np.zeros(3) if is_ball else axis
        height = 0.0
        while height < 0.08 and sunk_m(self.flesh.centres_m, self.flesh.radii_m, palm, start + height * PALM, line, radius) > 0.001:
            height += 0.001
        if is_ball:
            height += float(rng.uniform(0.0, 0.035))
        centre = start + height * PALM
        thing, hand = (centre, line, radius), self._hand()
        angles = angles.copy()
        bend, reach = rng.uniform(-12, 5), rng.uniform(0, 25)
        for k, row in enumerate(_FIRST_ROWS):
            angles[row : row + 3, FLEXION] = bend, reach, 0.6 * reach
            balls = np.setdiff1d(self._balls(k + 1), palm)
            # A finger that finds nothing to touch stays half open.
            most = np.array([62.0, 70.0]) if is_ball else np.array([72.0, 95.0])
            close_finger(angles, int(row), most, rng.uniform(0.55, 0.75), hand, balls, thing, 0.001)
        angles = np.clip(angles, _LOW_DEG, _HIGH_DEG)
        return Grip(centre, axis, radius, is_ball, np.zeros(2)), angles

    def _freed(self, angles: np.ndarray) -> np.ndarray:
        """The nearest pose on the way to the relaxed hand, the thumb first, that is free of itself."""
        for share in np.linspace(0.2, 1.0, 5):
            eased = angles.copy()
            rows = slice(_THUMB - 1, _THUMB + 2)
            eased[rows] += share * (_RELAXED_DEG[rows] - eased[rows])
            if self.depth_m(eased) <= TOUCH_M:
                return eased
        for share in np.linspace(0.1, 1.0, 10):
            eased = angles + share * (_RELAXED_DEG - angles)
            if self.depth_m(eased) <= TOUCH_M:
                return eased
        return _RELAXED_DEG.copy()

    def _grip(self, angles: np.ndarray, grip: Grip | None) -> Grip | None:
        """A grip with its reach along the axis, thinner where it would cut into the hand; None when nothing fits."""
        if grip is None:
            return None
        centres, radii = self.flesh.posed(angles), self.flesh.radii_m
        away = centres - grip.centre_m
        along = away @ grip.axis
        side = np.linalg.norm(away, axis=1) if grip.is_ball else np.linalg.norm(away - along[:, None] * grip.axis, axis=1)
        # A held thing is at least as long as it is where the hand holds it.
        least = min(grip.radius_m + 0.004, 0.02)
        held = np.abs(along) < least
        grip = replace(grip, radius_m=grip.radius_m - max(0.0, float((radii + grip.radius_m - side)[held].max(initial=0)) - TOUCH_M))
        if grip.radius_m < LEAST_GRIP_M:
            return None
        blocks = (radii + grip.radius_m - side > TOUCH_M) & ~held
        ends = [np.abs(along[blocks & (sign * along > 0)]) - radii[blocks & (sign * along > 0)] for sign in (-1, 1)]
        reach = np.array([max(float(end.min(initial=GRIP_REACH_M)), least) for end in ends])
        return replace(grip, reach_m=reach)


def _choose(rng: np.random.Generator, styles: tuple[_Style, ...]) -> _Style:
    shares = np.cumsum([style.share for style in styles])
    return styles[int(np.searchsorted(shares / shares[-1], rng.random(), side="right"))]


def _random_style(rng: np.random.Generator) -> _Style:
    """Any forms beside each other, or one form for all: `_fingers` draws their angles evenly."""
    names = tuple(_FORMS)
    picked = [names[k] for k in rng.integers(0, len(names), 4)]
    return _Style(1.0, (picked[0], picked[1], picked[2], picked[3]), "rest", (-6.0, 15.0))


def _fingers(rng: np.random.Generator, style: _Style, kind: str) -> HandAngles:
    """Long fingers of a style; the thumb's angles are zeros."""
    if kind == "random" and rng.random() < 0.6:
        # Evenly, the fingers partly alike.
        alike = rng.uniform(0, 1)
        mcp = _mixed(rng, alike, -30.0, 88.0)
        pip = _mixed(rng, alike, -6.0, 108.0)
        ratio = rng.uniform(0.4, 0.8) + rng.normal(0, 0.05, 4)
    else:
        low, high = (np.array([[_FORMS[form][row][end] for form in style.forms] for row in range(3)]) for end in (0, 1))
        common = rng.random((3, 1))
        # Fingers of one form move together, each a little by itself; typing ones do not.
        alone = 0.8 if "typing" in style.forms else 0.3
        mcp, pip, ratio = low + (high - low) * ((1 - alone) * common + alone * rng.random((3, 4)))
        cascade = rng.uniform(0, 7) * _CASCADE * [form in _CASCADING for form in style.forms]
        mcp, pip = mcp + cascade, pip + cascade
    mcp, pip = _coupled(mcp), _coupled(pip)
    dip = np.where(pip > 0, pip * ratio, 0.5 * pip)
    spread = _SPREAD * rng.uniform(*style.spread) + style.apart + rng.normal(0, 1.5, 4)
    spread *= 1 - 0.8 * np.clip(mcp / 80, 0, 1)
    return HandAngles(mcp, pip, dip, spread, np.zeros(5))


def _mixed(rng: np.random.Generator, alike: float, low: float, high: float) -> np.ndarray:
    return low + (high - low) * (alike * rng.random() + (1 - alike) * rng.random(4))


# How far a finger can stay behind the mean of its neighbours: middle and ring share tendons with both of theirs.
_LAG_DEG = {1: 100.0, 2: 70.0}


def _coupled(flexion: np.ndarray) -> np.ndarray:
    """(4,) degrees of index to little with the middle and the ring finger pulled along by their neighbours."""
    flexion = flexion.copy()
    for finger, lag in _LAG_DEG.items():
        flexion[finger] = max(flexion[finger], 0.5 * (flexion[finger - 1] + flexion[finger + 1]) - lag)
    return flexion


# Turns the rest pose (fingers -x, palm -y, thumb +z) into fingers up, palm to the camera: x down, y away, z right.
UPRIGHT_PALM = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class _View:
    """Degrees about the forearm (0 palm, 180 back), then of tipping the fingers to (+) or from the camera, then in the picture.

    Each is (mean, standard deviation).
    """

    share: float
    about_forearm: Range
    tipped: Range
    in_picture: Range


_PALM, _BACK = (_View(1.0, (turned, 32.0), (0.0, 28.0), (0.0, 35.0)) for turned in (0.0, 180.0))
# How cameras see hands that are not held up to them.
_OTHER_VIEWS = (
    # From the side, forearm upright.
    _View(1.0, (90.0, 22.0), (0.0, 25.0), (0.0, 30.0)),
    _View(1.0, (-90.0, 22.0), (0.0, 25.0), (0.0, 30.0)),
    # Forearm across the picture.
    _View(1.2, (0.0, 80.0), (0.0, 20.0), (90.0, 20.0)),
    _View(1.2, (180.0, 80.0), (0.0, 20.0), (-90.0, 20.0)),
    # Pointing or reaching at the camera.
    _View(1.6, (0.0, 100.0), (65.0, 20.0), (0.0, 40.0)),
    # From above, as a camera on a head sees its own hands: backs, fingers away.
    _View(1.6, (180.0, 45.0), (-50.0, 20.0), (20.0, 30.0)),
    _View(0.6, (0.0, 45.0), (-45.0, 20.0), (20.0, 30.0)),
)
_OTHER_SHARE = 0.45


# Of thumbs-ups, those whose thumb points up or down in the picture, and of those the downward ones.
_THUMB_UPRIGHT_SHARE, _THUMB_DOWN_SHARE = 0.6, 0.25


def sample_orientation(rng: np.random.Generator, config: SynthConfig, kind: str = "") -> np.ndarray:
    """(3, 3) rotation of the hand in the camera.

    Args:
        config: `frontal_share`, `palm_share`, `view_spread`. Of the hands that are not held upright with palm or back to the camera
            about half are seen as cameras on desks, screens and heads see them (from the side, across, pointing at the camera, from
            above), the rest from anywhere evenly.
        kind: of the pose; most of the thumbs-ups mean up, or down.
    """
    if kind == "thumbs_up" and rng.random() < _THUMB_UPRIGHT_SHARE:
        return _thumb_upright(rng)
    if rng.random() < config.frontal_share:
        view, spread = _PALM if rng.random() < config.palm_share else _BACK, config.view_spread
    elif rng.random() < _OTHER_SHARE:
        shares = np.cumsum([view.share for view in _OTHER_VIEWS])
        view, spread = _OTHER_VIEWS[int(np.searchsorted(shares / shares[-1], rng.random(), side="right"))], 1.0
    else:
        return random_rotation(rng)
    about_forearm, tipped, in_picture = (
        np.radians(mean + spread * sd * rng.normal()) for mean, sd in (view.about_forearm, view.tipped, view.in_picture)
    )
    turns = [rotvec_to_rotmat(np.array(turn)) for turn in ((0.0, 0.0, in_picture), (tipped, 0.0, 0.0), (about_forearm, 0.0, 0.0))]
    return turns[0] @ turns[1] @ UPRIGHT_PALM @ turns[2]


def _thumb_upright(rng: np.random.Generator) -> np.ndarray:
    """The thumb's side (+z at rest) up or down in the picture, the forearm from anywhere on the horizon."""
    azimuth = rng.uniform(0, 2 * np.pi)
    thumb = np.array([0.0, 1.0 if rng.random() < _THUMB_DOWN_SHARE else -1.0, 0.0])
    wristwards = np.array([np.cos(azimuth), 0.0, np.sin(azimuth)])
    upright = np.stack([wristwards, np.cross(thumb, wristwards), thumb], axis=1)
    return rotvec_to_rotmat(rng.normal(0, np.radians(14), 3)) @ upright


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) evenly over all rotations, from an even quaternion."""
    w, x, y, z = unit(rng.normal(0, 1, 4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
