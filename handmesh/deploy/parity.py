"""How far one form of a network is from another, in millimetres on the hand's skin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import nn

from handmesh.deploy.graph import DeployNet
from handmesh.errors import UserError
from handmesh.geometry.rotation import rot6d_to_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.runtime import OUTPUTS
from handmesh.skeleton import MANO_JOINTS
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import load_places
from handmesh.synthetic.scene import render_sample
from handmesh.synthetic.surface import HandSurface

if TYPE_CHECKING:
    # It needs tyro, which a machine that only trains may lack.
    from handmesh.deploy.command import Precision

PARITY_PICTURES = 64
_SEED = 64
# Mean vertex distance to the training form in f64, in millimetres.
FUSED_F64_LIMIT_MM = 1e-6
LIMIT_MM: dict[Precision, float] = {"f32": 0.01, "fp16": 0.1, "bf16": 1.0, "int8": 2.0}

_ADVICE: dict[Precision, str] = {
    "f32": "check that the training converged to finite weights",
    "fp16": "check that the training converged to finite weights, or export f32",
    "bf16": "export f32 or fp16",
    "int8": "calibrate with pictures like those that it will see, or export bf16 or f32",
}


def parity_pictures(size_px: int) -> np.ndarray:
    """(64, S, S, 3) uint8 drawn pictures of hands, always the same: rounding costs more on what a network never saw."""
    surface, config = HandSurface.of(load_hand_model("open")), SynthConfig(size_px=size_px)
    places = load_places(None, None, config)
    return np.stack([render_sample(surface, config, places, _SEED, index).image for index in range(PARITY_PICTURES)])


def noise_pictures(size_px: int, count: int, seed: int = 0) -> np.ndarray:
    """(count, S, S, 3) uint8 pictures with structure at all scales, always the same, for networks that were not trained.

    Args:
        seed: others give other pictures.
    """
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        layers = [cv2.resize(rng.random((side, side, 3)), (size_px, size_px), interpolation=cv2.INTER_CUBIC) for side in (2, 4, 8, 16, 32)]
        picture = np.tensordot(rng.dirichlet(np.ones(5)), np.stack(layers), axes=1)
        pictures.append((255 * np.clip(rng.uniform(0.5, 1.5) * picture, 0, 1)).astype(np.uint8))
    return np.stack(pictures)


def vertices_of(model: HandModel, outputs: dict[str, np.ndarray]) -> np.ndarray:
    """(N, V, 3) metres: what the outputs pose, in the model's frame, in double precision."""
    rot6d = outputs["rot6d"].astype(np.float64).reshape(-1, len(MANO_JOINTS), 6)
    return skin(model.astype(np.float64), rot6d_to_rotmat(rot6d), outputs["betas"].astype(np.float64))


def run_torch(net: nn.Module, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`runtime.OUTPUTS` of a network in torch, in its own precision."""
    with torch.no_grad():
        outputs = [DeployNet(net)(batch) for batch in torch.from_numpy(crops).split(16)]
    return {name: torch.cat([values[index] for values in outputs]).numpy() for index, name in enumerate(OUTPUTS)}


def distance_mm(ours_m: np.ndarray, theirs_m: np.ndarray) -> float:
    """Mean over vertices (..., 3) in metres of how far the two are apart."""
    return float(1e3 * np.linalg.norm(ours_m - theirs_m, axis=-1).mean())


def check_parity(what: str, distance: float, limit_mm: float, pictures: int, precision: Precision) -> None:
    """Raises:
    UserError: a distance in mm beyond the limit, or one that is no number.
    """
    if not distance <= limit_mm:
        raise UserError(
            f"expected {what} within {limit_mm:g} mm of the trained one over {pictures} pictures, got {distance:.3g} mm; "
            f"nothing was written: {_ADVICE[precision]}"
        )
