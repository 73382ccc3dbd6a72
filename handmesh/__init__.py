"""handmesh: a picture of a hand in, a 3D hand out.

from handmesh import HandMeshEstimator
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handmesh.estimator import HandMeshEstimator
    from handmesh.hand_model.skinning import HandModel
    from handmesh.records import Camera, Hand

__version__ = "0.1.0"
__all__ = ["Camera", "Hand", "HandMeshEstimator", "HandModel", "__version__"]

# Nothing is sent anywhere: libraries that report their use to their makers are told not to before any of them is imported.
# What a user has set counts.
for _variable, _value in (("ORT_DISABLE_TELEMETRY", "1"), ("HF_HUB_DISABLE_TELEMETRY", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
    os.environ.setdefault(_variable, _value)
# OpenVINO (whenever it is imported) and NNCF report through this package alone, and do without where it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

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
