"""Joint names and the orders derived from them. Knows no geometry and no hand model."""

FINGERS = ("thumb", "index", "middle", "ring", "little")

# The 16 joints that MANO articulates, in MANO's order: little before ring, thumb last.
MANO_JOINTS = (
    "wrist",
    *(f"{finger}_{joint}" for finger in ("index", "middle", "little", "ring") for joint in ("mcp", "pip", "dip")),
    *("thumb_cmc", "thumb_mcp", "thumb_ip"),
)

# The 21 joints of FreiHAND, in its order, which is also MediaPipe's.
JOINTS = (
    "wrist",
    *("thumb_cmc", "thumb_mcp", "thumb_ip", "thumb_tip"),
    *(f"{finger}_{joint}" for finger in FINGERS[1:] for joint in ("mcp", "pip", "dip", "tip")),
)

TIPS = tuple(f"{finger}_tip" for finger in FINGERS)


def _parent(joint: str) -> str:
    finger_start = {"thumb_cmc", *(f"{finger}_mcp" for finger in FINGERS[1:])}
    return "wrist" if joint in finger_start else JOINTS[JOINTS.index(joint) - 1]


# (child, parent) indices into JOINTS: the 20 bones that are drawn and measured.
BONES = tuple((JOINTS.index(joint), JOINTS.index(_parent(joint))) for joint in JOINTS[1:])

# parent of each of MANO_JOINTS; -1 for the wrist.
MANO_PARENTS = (-1, *(MANO_JOINTS.index(_parent(joint)) for joint in MANO_JOINTS[1:]))

# JOINTS[i] = (MANO_JOINTS + TIPS)[FROM_MANO_AND_TIPS[i]]
FROM_MANO_AND_TIPS = tuple((MANO_JOINTS + TIPS).index(joint) for joint in JOINTS)

# The joint that a hand is placed by, and that FreiHAND measures relative to.
ROOT = JOINTS.index("middle_mcp")
WRIST = JOINTS.index("wrist")

# FreiHAND's fingertip vertices on MANO's 778-vertex mesh, thumb to little. Other libraries' differ by millimetres.
FREIHAND_TIP_VERTICES = (744, 320, 443, 555, 672)
