"""Losses vanish at the truth, ignore what has no label, and errors do not see what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.geometry import camera as numpy_camera
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.training.command import LossWeights
from handmesh.training.data import Batch
from handmesh.training.layer import HandLayer
from handmesh.training.losses import (
    align_points,
    cell_cross_entropy,
    loss_terms,
    measure_errors,
    pose_target,
    total_loss,
    translation_to_weak_perspective,
    weak_perspective_to_translation,
)
from handmesh.training.model import Prediction

SIZE_PX = 64


@pytest.fixture
def layer(hand_model):
    return HandLayer(hand_model)


@pytest.fixture
def batch(hand_model) -> Batch:
    """24 samples: hands, mirrored hands, no hands and some not scored."""
    return GeneratedShards(hand_model).folders().training_batch(0, 0, 24, 0.3)


def truth(batch: Batch) -> Prediction:
    rot6d = torch.cat([batch.rotmats[..., 0], batch.rotmats[..., 1]], dim=-1).flatten(1)
    camera = translation_to_weak_perspective(batch.root_m, batch.focal_px, SIZE_PX)
    there = batch.presence != 0
    return Prediction(
        rot6d=rot6d,
        betas=batch.betas,
        camera=torch.where(there[:, None], camera, 1.0),
        presence_logit=100.0 * (2 * batch.presence - 1).float(),
        right_logit=100.0 * (2 * batch.right - 1).float(),
        keypoints=(2 * batch.keypoints_px + 1) / SIZE_PX - 1,
        heatmap_logits=torch.zeros(len(batch), 21, SIZE_PX // 8, SIZE_PX // 8),
        parts_logits=100.0 * torch.nn.functional.one_hot(batch.parts, 18).movedim(-1, 1),
    )


def test_the_batch_has_all_kinds(batch):
    assert set(batch.presence.tolist()) == {-1, 0, 1} and set(batch.right.tolist()) == {-1, 0, 1}
    assert 0 < batch.has_params.sum() < len(batch)


def test_zero_at_the_truth(layer, batch):
    terms = loss_terms(layer, truth(batch), batch)
    assert set(terms) == set(vars(LossWeights()))
    # A point between cells always surprises a heat map: test_heat_maps_learn_the_cells_around_a_point.
    assert {name: value.item() for name, value in terms.items() if name != "heatmap_cells" and not value < 1e-5} == {}
    errors = measure_errors(layer, truth(batch), batch)
    for values, limit in ((errors.pa_mpjpe_mm, 1e-2), (errors.mpjpe_mm, 1e-2), (errors.keypoints_share, 1e-4)):
        assert values.nan_to_num(0).max() < limit and values.isnan().sum() == (~batch.has_params).sum()
    assert errors.presence_hit.nanmean() == 1 and errors.right_hit.nanmean() == 1


def test_samples_without_a_label_give_no_gradient(layer, batch):
    prediction = Prediction(**{name: (value + 0.01).requires_grad_() for name, value in vars(truth(batch)).items()})
    loss = total_loss(loss_terms(layer, prediction, batch), LossWeights())
    loss.backward()
    silent = ~batch.has_params
    for name, value in vars(prediction).items():
        moved = value.grad.flatten(1).abs().sum(1) if value.ndim > 1 else value.grad.abs()
        assert torch.isfinite(moved).all(), name
        if name == "presence_logit":
            assert (moved[batch.presence < 0] == 0).all()
        elif name == "right_logit":
            assert (moved[batch.right < 0] == 0).all()
        else:
            assert (moved[silent] == 0).all(), name
            assert name == "parts_logits" or (moved[batch.has_params] > 0).all(), name


def test_a_wrong_hand_costs_something_in_every_term(layer, batch):
    right = vars(truth(batch))
    others = {name: -right[name].roll(1, 0) for name in ("rot6d", "betas")}
    shifted = {"camera": right["camera"] * 1.1, "keypoints": right["keypoints"] + 0.1}
    flipped = {name: -right[name] for name in ("presence_logit", "right_logit", "parts_logits")}
    wrong = Prediction(**others, **shifted, **flipped, heatmap_logits=right["heatmap_logits"])
    assert {name for name, value in loss_terms(layer, wrong, batch).items() if not value > 1e-4} == set()


def test_labels_agree_with_the_projection(layer, batch):
    mine = batch.has_params
    assert (pose_target(layer, batch).keypoints_px[mine] - batch.keypoints_px[mine]).abs().max() < 1e-3


def test_heat_maps_learn_the_cells_around_a_point():
    # Half-way between two columns, a quarter of the way between two rows: columns 2 and 3, rows 5 and 6 of 8.
    x, y = (2 * (2.5 + 0.5) / 8 - 1), (2 * (5.25 + 0.5) / 8 - 1)
    shares = torch.zeros(8, 8, dtype=torch.float64)
    shares[5, 2:4], shares[6, 2:4] = 0.375, 0.125
    logits = shares.clamp(min=1e-12).log().view(1, 1, 8, 8).requires_grad_()
    surprise = cell_cross_entropy(logits, torch.tensor([[[x, y]]]))
    entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum()
    assert surprise.item() == pytest.approx(entropy.item(), abs=1e-5)
    surprise.backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-5
    # In the middle of a cell there is nothing to share; beyond the outer cells a point counts as in them.
    for point, cell in (((x + 1 / 8, 2 * 5.5 / 8 - 1), (5, 3)), ((0.99, -0.99), (0, 7))):
        sharp = torch.zeros(1, 1, 8, 8)
        sharp[0, 0, *cell] = 50
        assert cell_cross_entropy(sharp, torch.tensor([[point]])).item() < 1e-5


def test_weak_perspective_is_the_runtimes():
    rng = np.random.default_rng(0)
    camera = rng.uniform((2, -0.1, -0.1), (9, 0.1, 0.1), (5, 3))
    ours = weak_perspective_to_translation(torch.tensor(camera), torch.full((5,), 200.0), SIZE_PX).numpy()
    assert np.abs(ours - numpy_camera.weak_perspective_to_translation(camera, 200.0, SIZE_PX)).max() < 1e-12
    back = translation_to_weak_perspective(torch.tensor(ours), torch.full((5,), 200.0), SIZE_PX).numpy()
    assert np.abs(back - camera).max() < 1e-12


def test_alignment_undoes_a_similarity_but_no_mirror():
    rng = np.random.default_rng(3)
    points = torch.tensor(rng.normal(size=(4, 21, 3)))
    moved = 1.7 * points @ torch.tensor(rotvec_to_rotmat(rng.normal(size=(4, 3)))).mT + torch.tensor(rng.normal(size=(4, 1, 3)))
    assert (align_points(moved, points) - points).norm(dim=-1).max() < 1e-9
    mirrored = moved * torch.tensor([-1.0, 1.0, 1.0])
    assert (align_points(mirrored, points) - points).norm(dim=-1).mean() > 0.1
