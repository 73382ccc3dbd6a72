"""The hand that parameters pose: its arrays, where they come from, and mesh files out."""

from handmesh.hand_model.assets import load_hand_model
from handmesh.hand_model.skinning import HandModel

__all__ = ["HandModel", "load_hand_model"]
