"""What betas do: eight that have names and sizes from anthropometry, two principal components of what is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.hand_model.articulation import FIRST_JOINTS, LONG_FINGERS, unit
from handmesh.hand_model.population import BREADTH_PER_SIZE_MM, BREADTH_SPREAD_MM, LENGTH_SPREAD_MM, MEAN_BREADTH_MM
from handmesh.skeleton import FINGERS, MANO_JOINTS, MANO_PARENTS
from open_hand.proportions import HAND_LENGTH_M, Person

BETA_NAMES = (
    *("size", "palm_breadth", "finger_length", "thumb_length", "index_against_ring"),
    *("little_length", "girth", "palm_thickness", "middle_phalanges", "slim_wrist"),
)
# One standard deviation at fixed length and breadth of the hand, as a share of what it changes. Index against ring: the
# ratio of their lengths varies by about 3.4 % between adults (Manning 2002, Digit Ratio), half of it on each. The others
# were chosen, not fitted: no table of what hand length leaves of them was at hand.
FINGER_LENGTH, THUMB_LENGTH, INDEX_AGAINST_RING, LITTLE_LENGTH, GIRTH, THICKNESS = 0.03, 0.04, 0.017, 0.04, 0.05, 0.06
# The source's sliders reach far beyond real adults: what the named betas leave over is narrowed by this.
NARROWING = 0.5


@dataclass(frozen=True)
class Shape:
    """Template and betas of the dense mesh: vertices (V, 3), joints (16, 3), and how a beta moves them (..., 3, 10)."""

    template: Person
    vertex_dirs: np.ndarray
    joint_dirs: np.ndarray


@dataclass(frozen=True)
class _Motion:
    """How vertices (V, 3) and joints (16, 3) move per unit."""

    vertices: np.ndarray
    joints: np.ndarray

    def __add__(self, other: _Motion) -> _Motion:
        return _Motion(self.vertices + other.vertices, self.joints + other.joints)

    def __mul__(self, factor: float) -> _Motion:
        return _Motion(self.vertices * factor, self.joints * factor)


@dataclass(frozen=True)
class Ruler:
    """How a hand is measured: vertices of the middle fingertip and of both ends of its breadth."""

    tip: int
    radial: int
    ulnar: int

    def length_m(self, person: Person) -> float:
        """Wrist joint to middle fingertip."""
        return float(np.linalg.norm(person.vertices[self.tip] - person.joints[0]))

    def breadth_m(self, person: Person) -> float:
        """Across the knuckles, without the thumb."""
        return float(np.linalg.norm(person.vertices[self.radial] - person.vertices[self.ulnar]))

    def change(self, person: Person, motion: _Motion) -> np.ndarray:
        """(2,) change of length and breadth per unit of a motion."""
        along = unit(person.vertices[self.tip] - person.joints[0])
        across = unit(person.vertices[self.radial] - person.vertices[self.ulnar])
        return np.array(
            [
                along @ (motion.vertices[self.tip] - motion.joints[0]),
                across @ (motion.vertices[self.radial] - motion.vertices[self.ulnar]),
            ]
        )


def find_ruler(person: Person, weights: np.ndarray) -> Ruler:
    """The vertices that calipers would touch."""
    first = FIRST_JOINTS["thumb"]
    joints = {name: person.joints[FIRST_JOINTS[name]] for name in ("index", "little")}
    no_thumb = weights[:, first : first + 3].sum(axis=1) < 0.05
    ends = []
    for name, side in (("index", 1.0), ("little", -1.0)):
        near = no_thumb & (np.abs(person.vertices[:, 0] - joints[name][0]) < 0.006)
        ends.append(int(np.where(near, side * person.vertices[:, 2], -np.inf).argmax()))
    tip = int(np.linalg.norm(person.vertices - person.tips[FINGERS.index("middle")], axis=1).argmin())
    return Ruler(tip, *ends)


def fit_template(person: Person, weights: np.ndarray, ruler: Ruler) -> Person:
    """The average adult: length and breadth of the published means."""
    for _ in range(4):
        person = _scaled(person, HAND_LENGTH_M / ruler.length_m(person))
        breadth = _palm_breadth(person, weights)
        wanted = 1e-3 * MEAN_BREADTH_MM - ruler.breadth_m(person)
        person = _moved(person, breadth, wanted / ruler.change(person, breadth)[1])
    return _scaled(person, HAND_LENGTH_M / ruler.length_m(person))


def shape_space(template: Person, people: list[Person], weights: np.ndarray, ruler: Ruler) -> Shape:
    """Ten betas of the template; all but the first two leave hand length and breadth alone."""

    def tuned(motion: _Motion, length_m: float, breadth_m: float) -> _Motion:
        """With as much size and palm breadth as makes length and breadth change as wanted."""
        matrix = np.stack([ruler.change(template, size), ruler.change(template, breadth)], axis=1)
        shares = np.linalg.solve(matrix, np.array([length_m, breadth_m]) - ruler.change(template, motion))
        return motion + size * float(shares[0]) + breadth * float(shares[1])

    size, breadth = _Motion(template.vertices, template.joints), _palm_breadth(template, weights)
    still = size * 0.0
    lengths = {finger: _finger_length(template, weights, finger) for finger in FINGERS}
    named = [
        tuned(still, 1e-3 * LENGTH_SPREAD_MM, 1e-3 * BREADTH_PER_SIZE_MM),
        tuned(still, 0.0, 1e-3 * BREADTH_SPREAD_MM),
        tuned((lengths["index"] + lengths["middle"] + lengths["ring"] + lengths["little"]) * FINGER_LENGTH, 0, 0),
        tuned(lengths["thumb"] * THUMB_LENGTH, 0, 0),
        tuned((lengths["index"] + lengths["ring"] * -1.0) * INDEX_AGAINST_RING, 0, 0),
        tuned(lengths["little"] * LITTLE_LENGTH, 0, 0),
        tuned(_girth(template, weights) * GIRTH, 0, 0),
        tuned(_palm_thickness(template, weights) * THICKNESS, 0, 0),
    ]
    left = [tuned(motion * NARROWING, 0, 0) for motion in _left_over(template, people, named, ruler)]
    motions = [*named, *left]
    assert len(motions) == len(BETA_NAMES)
    return Shape(template, np.stack([m.vertices for m in motions], axis=-1), np.stack([m.joints for m in motions], axis=-1))


def _scaled(person: Person, factor: float) -> Person:
    return Person(person.vertices * factor, person.joints * factor, person.tips * factor)


def _moved(person: Person, motion: _Motion, amount: float) -> Person:
    nearest = np.linalg.norm(person.vertices[:, None] - person.tips, axis=-1).argmin(axis=0)
    vertices = person.vertices + amount * motion.vertices
    return Person(vertices, person.joints + amount * motion.joints, vertices[nearest])


def _stretch(person: Person, weights: np.ndarray, stretches: dict[int, np.ndarray]) -> _Motion:
    """Every bone stretched about its joint by a (3, 3) matrix; what hangs on it is carried along."""
    joints = person.joints
    moves = np.zeros_like(joints)
    matrices = np.zeros((len(MANO_JOINTS), 3, 3))
    for joint, parent in enumerate(MANO_PARENTS):
        matrices[joint] = stretches.get(joint, np.zeros((3, 3)))
        if parent >= 0:
            moves[joint] = moves[parent] + matrices[parent] @ (joints[joint] - joints[parent])
    offsets = person.vertices[:, None] - joints
    return _Motion(np.einsum("vj,vja->va", weights, np.einsum("jab,vjb->vja", matrices, offsets) + moves), moves)


def _bone_directions(person: Person) -> dict[int, np.ndarray]:
    directions = {}
    for number, finger in enumerate(FINGERS):
        first = FIRST_JOINTS[finger]
        chain = np.stack([*person.joints[first : first + 3], person.tips[number]])
        directions.update({first + k: unit(bone) for k, bone in enumerate(np.diff(chain, axis=0))})
    return directions


def _finger_length(person: Person, weights: np.ndarray, finger: str) -> _Motion:
    directions, first = _bone_directions(person), FIRST_JOINTS[finger]
    return _stretch(person, weights, {joint: np.outer(directions[joint], directions[joint]) for joint in range(first, first + 3)})


def _girth(person: Person, weights: np.ndarray) -> _Motion:
    """Fingers thicker all round, the thumb's metacarpal half as much."""
    round_bones = {joint: np.eye(3) - np.outer(d, d) for joint, d in _bone_directions(person).items()}
    round_bones[FIRST_JOINTS["thumb"]] *= 0.5
    return _stretch(person, weights, round_bones)


def _palm_breadth(person: Person, weights: np.ndarray) -> _Motion:
    """The palm wider about the middle finger's ray, long fingers wider by a third of that."""
    wide = np.diag([0.0, 0.0, 1.0])
    fingers = {FIRST_JOINTS[finger] + k: wide / 3 for finger in LONG_FINGERS for k in range(3)}
    return _stretch(person, weights, {0: wide, **fingers})


def _palm_thickness(person: Person, weights: np.ndarray) -> _Motion:
    """The palm thicker from back to front, fingers by a third of that."""
    thick = np.diag([0.0, 1.0, 0.0])
    fingers = {FIRST_JOINTS[finger] + k: thick / 3 for finger in LONG_FINGERS for k in range(3)}
    return _stretch(person, weights, {0: thick, **fingers})


def _left_over(template: Person, people: list[Person], named: list[_Motion], ruler: Ruler) -> list[_Motion]:
    """Two principal components, per standard deviation, of people once the named betas are fitted and taken out."""
    known = np.stack([motion.vertices.ravel() for motion in named], axis=1)
    known_joints = np.stack([motion.joints.ravel() for motion in named], axis=1)
    same_size = [_scaled(person, HAND_LENGTH_M / ruler.length_m(person)) for person in people]
    rest = np.stack([(person.vertices - template.vertices).ravel() for person in same_size], axis=1)
    rest_joints = np.stack([(person.joints - template.joints).ravel() for person in same_size], axis=1)
    rest, rest_joints = (values - values.mean(axis=1, keepdims=True) for values in (rest, rest_joints))
    betas = np.linalg.lstsq(known, rest, rcond=None)[0]
    rest, rest_joints = rest - known @ betas, rest_joints - known_joints @ betas
    _, _, scores = np.linalg.svd(rest, full_matrices=False)
    found = []
    for score in scores[: len(BETA_NAMES) - len(named)]:
        # Of unit variance over the people; its sign, the solver's whim, makes hands fuller.
        motion = _Motion(*((values @ score).reshape(-1, 3) / np.sqrt(len(people)) for values in (rest, rest_joints)))
        outward = template.vertices - template.vertices.mean(axis=0)
        found.append(motion * float(np.sign((motion.vertices * outward).sum())))
    return found
