"""A larger network that shows a smaller one how: the teacher's hand and features as additional targets.

The teacher sees the same crops as its student, augmented alike. Its answer is worth having wherever there is a right
hand, with or without labels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from handmesh.errors import UserError
from handmesh.hand_model import HandModel
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint
from handmesh.training.command import LossWeights
from handmesh.training.data import Batch
from handmesh.training.layer import HandLayer, rot6d_to_rotmat
from handmesh.training.losses import label_counts, pose_prediction
from handmesh.training.model import HandNet, Prediction

# Within the parameters' term, betas and camera weigh as much against rotations as they do among the labels' terms.
_TABLE = LossWeights()


class Teacher:
    """A trained network that does not change any more.

    Args:
        path: its checkpoint; the averaged weights are taken.
        hand_model: the one that the student is trained for.
        device: where it runs.

    Raises:
        UserError: no such checkpoint, or one of another hand model.
    """

    def __init__(self, path: Path, hand_model: HandModel, device: torch.device | str = "cpu"):
        checkpoint = load_checkpoint(path)
        if checkpoint.hand_model != hand_model.id:
            raise UserError(
                f"expected a teacher for the hand model '{hand_model.id}', but '{path}' is for '{checkpoint.hand_model}'; "
                "choose another distill.teacher, or its hand_model"
            )
        self.net: HandNet = net_from_checkpoint(checkpoint).requires_grad_(False).to(device)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """What it says about a batch's crops, enlarged or reduced to its own size.

        Every output that a student learns from is free of the crop's size: rotations, betas, the camera's `s` in half-crops
        per metre and `tx, ty` in metres. The crop camera's focal length in pixels grows with the crop, its depth does not.
        """
        return self.net(resize_crops(batch.crops, self.net.size_px))

    def student_map(self, net: HandNet) -> nn.Linear:
        """A fresh linear map from the student's features to the teacher's, to be trained with the student."""
        return nn.Linear(net.backbone.num_features, self.net.backbone.num_features)


def resize_crops(crops: Tensor, size_px: int) -> Tensor:
    """(N, S, S, 3) pictures to (N, size_px, size_px, 3) float; corners stay corners. Reduced ones are averaged."""
    if crops.shape[1] == size_px:
        return crops
    planes = crops.float().permute(0, 3, 1, 2)
    return interpolate(planes, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True).permute(0, 2, 3, 1)


def teacher_terms(
    layer: HandLayer,
    prediction: Prediction,
    teacher: Prediction,
    student_map: nn.Linear,
    batch: Batch,
    counts: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Terms of the loss before weighting, by their names in `LossWeights`: sums over the right hands, over how many there are.

    Args:
        layer: of the hand model of both networks.
        prediction: the student's, with features.
        teacher: of the same N crops; no gradient reaches it.
        student_map: `Teacher.student_map`, trained along.
        batch: the crops and their labels.
        counts: as for `losses.loss_terms`; right_1 is read.
    """
    # `right` is -1 where no hand can be judged.
    holds = batch.right == 1
    count = (label_counts(batch) if counts is None else counts)["right_1"]
    assert prediction.features is not None and teacher.features is not None

    def mean(values: Tensor) -> Tensor:
        # A zero of the mask times a nan would be a nan.
        return torch.where(holds, values, 0.0).sum() / torch.where(count > 0, count, 1.0)

    def l1(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs.detach()).abs().flatten(1).mean(1)

    rotmats, true_rotmats = (rot6d_to_rotmat(each.rot6d.view(-1, 16, 6)) for each in (prediction, teacher))
    parameters = (
        _TABLE.rotmats * l1(rotmats, true_rotmats)
        + _TABLE.betas * l1(prediction.betas, teacher.betas)
        + _TABLE.camera_scale * l1(prediction.camera[:, :1].log(), teacher.camera[:, :1].log())
        + _TABLE.camera_shift * l1(prediction.camera[:, 1:], teacher.camera[:, 1:])
    )
    vertices = l1(pose_prediction(layer, prediction, batch).vertices_m, pose_prediction(layer, teacher, batch).vertices_m)
    features = 1 - cosine_similarity(student_map(prediction.features.float()), teacher.features.detach().float(), dim=1)
    return {"teacher_parameters": mean(parameters), "teacher_vertices": mean(vertices), "teacher_features": mean(features)}
