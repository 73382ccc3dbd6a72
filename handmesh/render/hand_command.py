"""`handmesh-hand show`: a hand model with its sliders' values given as flags. And the way to `handmesh-hand fit`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from handmesh.config import nearest, parse_subcommand
from handmesh.errors import UserError, one_line
from handmesh.hand_model.articulation import FIRST_JOINTS, LIMITS_DEG, POSES, Anatomy, angles_to_rotmats, rotmats_to_angles
from handmesh.hand_model.assets import load_hand_model
from handmesh.hand_model.fit_command import LARGEST_BETA, FitCommand, check_place, run_fit
from handmesh.hand_model.meshfile import MESH_FORMATS, mesh_format, save_mesh
from handmesh.hand_model.skinning import HandModel, mirror_points, shape_hand, skin
from handmesh.render.portrait import VIEWS, Frame, caption, draw_portrait, grid, left_view
from handmesh.skeleton import BONES, FINGERS, JOINTS, MANO_JOINTS
from handmesh.wholefile import replacing

PROGRAM = "handmesh-hand"
MEAN_POSE = "mean"
_TURNS = ("flexion", "abduction", "twist")
_VIEW_PX = 400
# 99.7 % of people are nearer to the mean.
_COMMON_BETA = 3.0
_LARGEST_DEG = 360.0
# From the line of the knuckles to either side.
_CALIPERS_M = 0.02
# The mean pose's angles come out of single-precision matrices; nobody sees a hundredth of a degree.
_LIMIT_TOLERANCE_DEG = 0.01


@dataclass(frozen=True)
class ShowCommand:
    """Draw a hand model in a pose and shape, as a picture (png) or a mesh (obj, ply, glb), and print its measures.

    A mesh has the model's rest frame in metres: fingers along -x, palm towards -y (y is up), thumb towards +z; a left hand
    has its fingers along +x. Angles and betas beyond what hands do are drawn as asked, with a note.
    """

    hand_model: str = "open"
    """Hand model: open, open-dense, mano, or an npz."""
    pose: str = "rest"
    """Named pose to start from; "mean" is the model's own mean pose. --list names all."""
    betas: str = ""
    """Shape in standard deviations, by number or name: 0=2,palm_breadth=-1."""
    angles: str = ""
    """Degrees of flexion/abduction/twist that replace the pose's: index_pip=60,thumb_cmc=20/10/5,ring_mcp=/5; what is left out stays."""
    left: tyro.conf.FlagCreatePairsOff[bool] = False
    """A left hand: the mirror image."""
    views: str = "palm,back,thumb,little"
    """Sides to draw, separated by commas: palm, back, thumb, little, front."""
    out: Path | None = None
    """Where to write: .png, .obj, .ply or .glb; hand.png if neither this nor --window is given."""
    window: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the picture in a window; q or Esc closes it."""
    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the names of poses, betas and joints with their limits, and draw nothing."""


@dataclass(frozen=True)
class PosedHand:
    """A hand as the flags ask for it, in the frame that `ShowCommand` describes.

    Attributes:
        model: the right-hand model.
        angles_deg: (15, 3) flexion, abduction, twist of `MANO_JOINTS[1:]`.
        betas: (10,) in standard deviations.
        is_right: False for the mirror image.
        vertices_m: (V, 3), mirrored for a left hand.
    """

    model: HandModel
    angles_deg: np.ndarray
    betas: np.ndarray
    is_right: bool
    vertices_m: np.ndarray


def run_hand(arguments: Sequence[str]) -> None:
    """`handmesh-hand show|fit [flags]`.

    Raises:
        UserError: another subcommand, or what `run_show` and `run_fit` raise.
    """
    command = parse_subcommand({"show": ShowCommand, "fit": FitCommand}, arguments, PROGRAM)
    if isinstance(command, ShowCommand):
        run_show(command)
    else:
        run_fit(command)


def run_show(command: ShowCommand) -> None:
    """Do what the flags say.

    Raises:
        UserError: an unknown name, a value that is no number, a place that cannot be written to.
    """
    model = load_hand_model(command.hand_model)
    views = _parse_views(command.views)
    if command.out is not None:
        _check_out(command.out)
    hand = pose_hand(model, command)
    if command.list:
        print(names_table(model))
        return
    for note in notes(hand):
        print(f"{PROGRAM}: note: {note}", file=sys.stderr)
    print(measures_table(hand))
    is_shown = command.window and _show(hand, views, command.pose)
    out = command.out or (None if is_shown else Path("hand.png"))
    if out is not None:
        try:
            print(f"wrote {out}: {_write(hand, views, command.pose, out)}")
        except OSError as error:
            raise UserError(f"expected to write '{out}', but {one_line(error)}; give another --out") from error


def pose_hand(model: HandModel, command: ShowCommand) -> PosedHand:
    """The hand that the flags describe.

    Raises:
        UserError: an unknown pose, beta or joint, or a value that is no number.
    """
    anatomy = Anatomy.of(model)
    if command.pose == MEAN_POSE:
        angles_deg = rotmats_to_angles(anatomy, model.mean_rotmats())
    else:
        angles_deg = POSES[_known("--pose", command.pose, (*POSES, MEAN_POSE))].angles_deg()
    angles_deg = parse_angles(command.angles, angles_deg)
    betas = parse_betas(command.betas, model.beta_names)
    vertices_m = skin(model, angles_to_rotmats(anatomy, angles_deg), betas)
    return PosedHand(model, angles_deg, betas, not command.left, mirror_points(vertices_m) if command.left else vertices_m)


def parse_angles(text: str, angles_deg: np.ndarray) -> np.ndarray:
    """Angles (15, 3) with those of a text like "index_pip=60,thumb_cmc=20/10/5,ring_mcp=/5" put in.

    Raises:
        UserError: an unknown joint, one named twice, more than three angles, or one that is no number or beyond a full turn.
    """
    angles_deg = angles_deg.copy()
    for name, value in _pairs("--angles", "index_pip=60", text):
        joint = _known("--angles", _underscored(name), MANO_JOINTS[1:])
        parts = value.split("/")
        if len(parts) > len(_TURNS):
            raise UserError(f"expected --angles as JOINT=flexion/abduction/twist, got '{name}={value}'; leave some out")
        for turn, part in enumerate(parts):
            if part.strip():
                angles_deg[MANO_JOINTS.index(joint) - 1, turn] = _number("--angles", name, part, _LARGEST_DEG)
    return angles_deg


def parse_betas(text: str, beta_names: Sequence[str]) -> np.ndarray:
    """(10,) betas of a text like "0=2,palm_breadth=-1"; spaces and hyphens in names may be underscores.

    Raises:
        UserError: an unknown beta, one named twice, or a value that is no number or beyond `LARGEST_BETA`.
    """
    by_name = {_underscored(name): index for index, name in enumerate(beta_names)}
    betas, given = np.zeros(len(beta_names)), set()
    for name, value in _pairs("--betas", "0=2,1=-1", text):
        # Python makes no number of thousands of digits.
        if name.isdecimal() and len(name) < 10 and int(name) < len(betas):
            index = int(name)
        else:
            index = by_name[_known("--betas", _underscored(name), (*by_name, *map(str, range(len(betas)))))]
        if index in given:
            raise UserError(f"expected each beta once in --betas, got number {index} ({beta_names[index]}) twice; leave one out")
        given.add(index)
        betas[index] = _number("--betas", name, value, LARGEST_BETA)
    return betas


def notes(hand: PosedHand) -> list[str]:
    """A sentence for each angle beyond its limits, and for each beta that hardly anybody has."""
    said = []
    for joint, angles_deg in zip(MANO_JOINTS[1:], hand.angles_deg, strict=True):
        for turn, angle, (low, high) in zip(_TURNS, angles_deg, LIMITS_DEG[joint], strict=True):
            if not low - _LIMIT_TOLERANCE_DEG <= angle <= high + _LIMIT_TOLERANCE_DEG:
                said.append(f"{joint} {turn} of {angle:g} degrees is beyond its limits {low:g} to {high:g}; drawn as asked")
    for name, beta in zip(hand.model.beta_names, hand.betas, strict=True):
        if abs(beta) > _COMMON_BETA:
            said.append(f"beta {name} of {beta:g} is beyond {_COMMON_BETA:g} standard deviations; drawn as asked")
    return said


def measures_table(hand: PosedHand) -> str:
    """Bone lengths, hand length and breadth in millimetres, of the unposed hand of this shape."""
    vertices_m, _ = shape_hand(hand.model, hand.betas)
    joints_m = hand.model.joints(vertices_m)

    def distance_mm(a: str, b: str) -> float:
        return 1e3 * float(np.linalg.norm(joints_m[JOINTS.index(a)] - joints_m[JOINTS.index(b)]))

    rows = [f"{'bones, mm':<10}{'from wrist':>12}{'first':>9}{'second':>9}{'to tip':>9}"]
    bones_mm = [distance_mm(JOINTS[child], JOINTS[parent]) for child, parent in BONES]
    for index, finger in enumerate(FINGERS):
        wrist_mm, *others_mm = bones_mm[4 * index : 4 * index + 4]
        rows.append(f"{finger:<10}{wrist_mm:>12.1f}" + "".join(f"{length_mm:>9.1f}" for length_mm in others_mm))
    length_mm, breadth_mm = distance_mm("wrist", "middle_tip"), breadth_of_mm(hand.model, hand.betas)
    rows.append(f"hand length {length_mm:.1f} mm (wrist to middle tip), breadth {breadth_mm:.1f} mm (across the knuckles); {hand.model.id}")
    return "\n".join(rows)


def breadth_of_mm(model: HandModel, betas: np.ndarray) -> float:
    """What calipers find across the knuckles of index to little finger, skin included and without the thumb; 0 if no skin is there."""
    thumb = FIRST_JOINTS["thumb"]
    knuckles_x_m = model.rest_joints_m[[FIRST_JOINTS["index"], FIRST_JOINTS["little"]], 0].mean()
    is_near = np.abs(model.template_m[:, 0] - knuckles_x_m) < _CALIPERS_M
    across_m = shape_hand(model, betas)[0][is_near & (model.skin_weights[:, thumb : thumb + 3].sum(axis=1) < 0.05), 2]
    return 1e3 * float(np.ptp(across_m)) if len(across_m) else 0.0


def names_table(model: HandModel) -> str:
    """What --pose, --betas and --angles know."""
    rows = [f"poses: {', '.join((*POSES, MEAN_POSE))}", f"betas of {model.id}:"]
    rows += [f"  {index}  {name}" for index, name in enumerate(model.beta_names)]
    rows.append(f"{'joints, degrees':<16}" + "".join(f"{turn:>13}" for turn in _TURNS))
    for joint in MANO_JOINTS[1:]:
        limits = [f"{low:g} to {high:g}" for low, high in LIMITS_DEG[joint]]
        rows.append(f"  {joint:<14}" + "".join(f"{limit:>13}" for limit in limits))
    return "\n".join(rows)


def draw_views(hand: PosedHand, views: Sequence[str], pose: str) -> np.ndarray:
    """The views side by side, each with its name under it. (H, W, 3) uint8 RGB."""
    frame = Frame.around([hand.vertices_m])
    faces = hand.model.faces_for(hand.is_right)
    side = "right" if hand.is_right else "left"
    cells = []
    for view in views:
        towards_up = VIEWS[view] if hand.is_right else left_view(view)
        portrait = draw_portrait(hand.vertices_m, faces, towards_up, frame, _VIEW_PX)
        cells.append(caption(portrait, f"{view}  ({side} hand, {pose})"))
    return grid([cells])


def _write(hand: PosedHand, views: Sequence[str], pose: str, out: Path) -> str:
    """What was written, in words."""
    if out.suffix.lower() == ".png":
        picture = draw_views(hand, views, pose)
        encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        with replacing(out) as temporary:
            temporary.write_bytes(encoded.tobytes())
        return f"{picture.shape[1]} x {picture.shape[0]} px, {', '.join(views)}"
    faces = hand.model.faces_for(hand.is_right)
    save_mesh(hand.vertices_m, faces, out, is_right=hand.is_right)
    return f"{len(hand.vertices_m)} vertices, {len(faces)} triangles, metres, {'right' if hand.is_right else 'left'} hand"


def _show(hand: PosedHand, views: Sequence[str], pose: str) -> bool:
    """Show the picture until the user closes it; False where no window can be opened."""
    from handmesh.render.window import NoDisplay, open_window

    picture = draw_views(hand, views, pose)
    try:
        window = open_window(PROGRAM, width=picture.shape[1], height=picture.shape[0])
    except NoDisplay as error:
        print(f"{error}; going on without a window")
        return False
    with window:
        while window.show(picture) not in ("q", "escape"):
            time.sleep(0.02)
    return True


def _parse_views(text: str) -> list[str]:
    views = [_known("--views", view.strip().lower(), VIEWS) for view in text.split(",") if view.strip()]
    if not views:
        raise UserError(f"expected --views to list some of {', '.join(VIEWS)}, got '{text}'")
    return views


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".png":
        try:
            mesh_format(out)
        except UserError as error:
            endings = ", ".join(f".{name}" for name in ("png", *MESH_FORMATS))
            raise UserError(f"expected --out to end in {endings}, got '{out}'") from error
    check_place(out)


def _pairs(flag: str, example: str, text: str) -> list[tuple[str, str]]:
    """ "a=1,b=2" -> [("a", "1"), ("b", "2")]."""
    pairs = []
    for item in text.split(","):
        if not item.strip():
            continue
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise UserError(f"expected {flag} as NAME=VALUE pairs like {example}, got '{item.strip()}'")
        if name in dict(pairs):
            raise UserError(f"expected each name once in {flag}, got '{name}' twice; leave one out")
        pairs.append((name, value))
    return pairs


def _number(flag: str, name: str, text: str, largest: float) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise UserError(f"expected a number for '{name}' in {flag}, got '{text}'") from error
    if not abs(number) <= largest:
        raise UserError(f"expected a number from {-largest:g} to {largest:g} for '{name}' in {flag}, got '{text}'")
    return number


def _known(flag: str, name: str, known: Iterable[str]) -> str:
    known = tuple(known)
    if name not in known:
        raise UserError(f"unknown name '{name}' in {flag};{nearest(name, known)} known: {', '.join(known)}")
    return name


def _underscored(name: str) -> str:
    return "_".join(name.lower().replace("_", " ").replace("-", " ").split())
