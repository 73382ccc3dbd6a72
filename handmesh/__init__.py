"""handmesh: a picture of a hand in, a 3D hand out.

from handmesh import HandMeshEstimator
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handmesh.estimator import HandMeshEstimator
    from handmesh.hand_model.skinning import HandModel
    from handmesh.records import Camera, Hand

__version__ = "0.1.0"
__all__ = ["Camera", "Hand", "HandMeshEstimator", "HandModel", "__version__"]

_HOMES = {
    "HandMeshEstimator": "handmesh.estimator",
    "Hand": "handmesh.records",
    "Camera": "handmesh.records",
    "HandModel": "handmesh.hand_model.skinning",
}


def __getattr__(name: str) -> Any:
    """Import a public name's room when it is first asked for, so that `import handmesh` stays fast."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'handmesh' has no attribute '{name}'")
