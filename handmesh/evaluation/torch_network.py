"""A checkpoint of handmesh-train as an evaluation's network: run by torch as it was trained, before anything is fused or converted.

The one module of this room that needs torch; imported only when a checkpoint is to be run by it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from handmesh.errors import UserError
from handmesh.records import HandParams
from handmesh.runtime import OUTPUTS, NetworkInfo, expect_crops, outputs_to_params
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint

_AT_ONCE = 16


class TorchNetwork:
    """The averaged weights of a checkpoint in the training form, in f32 on the CPU; a `predict.CropNetwork`.

    Args:
        path: a checkpoint that handmesh-train wrote.
        hand_model_id: the model that will be posed; None accepts any.

    Raises:
        UserError: a file that is missing, broken or no checkpoint, or one trained for another hand model.
    """

    def __init__(self, path: str | Path, hand_model_id: str | None = None) -> None:
        checkpoint = load_checkpoint(Path(path))
        if hand_model_id is not None and checkpoint.hand_model != hand_model_id:
            raise UserError(
                f"expected a checkpoint for the hand model '{hand_model_id}', got one for '{checkpoint.hand_model}' in '{path}'; "
                "choose the --hand-model it was trained with"
            )
        command = checkpoint.command()
        metadata = {"pictures": checkpoint.pictures, "commit": checkpoint.commit, "config_hash": checkpoint.config_hash()}
        self.info = NetworkInfo(checkpoint.hand_model, command.model.size_px, command.model.variant, metadata)
        self._net = net_from_checkpoint(checkpoint)

    def __call__(self, crops: np.ndarray, /) -> list[HandParams]:
        """Predict hands.

        Args:
            crops: (N, S, S, 3) uint8 RGB with S = `info.input_size_px`; N may be 0.

        Returns:
            N parameters.
        """
        expect_crops(crops, self.info.input_size_px)
        params = []
        for start in range(0, len(crops), _AT_ONCE):
            with torch.inference_mode():
                prediction = self._net(torch.from_numpy(crops[start : start + _AT_ONCE]))
            params += outputs_to_params({name: getattr(prediction, name).numpy() for name in OUTPUTS})
        return params
