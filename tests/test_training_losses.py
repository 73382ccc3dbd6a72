"""Losses vanish at the truth, ignore what has no label, add up over parts of a batch; errors do not see what they must not see."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import Tensor

from handmesh.geometry import camera as numpy_camera
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.training.command import LossWeights
from handmesh.training.data import Batch
from handmesh.training.layer import HandLayer
from handmesh.training.losses import (
    align_points,
    answer_weights,
    cell_cross_entropy,
    label_counts,
    loss_terms,
    measure_errors,
    pose_prediction,
    total_loss,
    translation_to_weak_perspective,
    weak_perspective_to_translation,
)
from handmesh.training.model import Prediction

SIZE_PX = 64
TERMS = {name for name in vars(LossWeights()) if not name.startswith("teacher")}
# Whose labels stand where which flag is set.
LABELS = {
    "has_keypoints": ("keypoints_px",),
    "has_joints": ("joints_m", "root_m"),
    "has_params": ("rotmats", "betas"),
    "has_vertices": ("vertices_m",),
    "has_dense": ("depth_m",),
}


@pytest.fixture
def layer(hand_model):
    return HandLayer(hand_model)


@pytest.fixture
def full(hand_model) -> Batch:
    """24 samples: hands, mirrored hands, no hands and some not scored."""
    return GeneratedShards(hand_model).batch(24, 0.3)


@pytest.fixture
def batch(full) -> Batch:
    """The same, of some of whose hands only joints are known, of some no dense labels, and of some a detector's landmarks alone."""
    lacking = torch.arange(len(full)) % 3 == 0
    photographs = (torch.arange(len(full)) % 5 == 1) & full.has_keypoints
    holds = {name: getattr(full, name) & ~(lacking | photographs) for name in ("has_params", "has_vertices", "has_dense")}
    weight = torch.where(photographs, 0.5, 0.0)
    return replace(full, **holds, has_joints=full.has_joints & ~photographs, landmark_weight=weight)


def truth(batch: Batch) -> Prediction:
    camera = translation_to_weak_perspective(batch.root_m, batch.focal_px, SIZE_PX)
    return Prediction(
        rot6d=torch.cat([batch.rotmats[..., 0], batch.rotmats[..., 1]], dim=-1).flatten(1),
        betas=batch.betas,
        camera=torch.where(batch.has_joints[:, None], camera, 1.0),
        presence_logit=100.0 * (2 * batch.presence - 1).float(),
        right_logit=100.0 * (2 * batch.right - 1).float(),
        keypoints=(2 * batch.keypoints_px + 1) / SIZE_PX - 1,
        heatmap_logits=torch.zeros(len(batch), 21, SIZE_PX // 8, SIZE_PX // 8),
        parts_logits=100.0 * torch.nn.functional.one_hot(batch.parts, 18).movedim(-1, 1),
        depth_m=batch.depth_m,
    )


def guess(batch: Batch, seed: int = 0) -> Prediction:
    """Something wrong everywhere, whose gradients can be asked for."""
    random = torch.Generator().manual_seed(seed)
    wrong = {
        name: value.float() + 0.3 * torch.randn(value.shape, generator=random)
        for name, value in vars(truth(batch)).items()
        if value is not None
    }
    wrong["rot6d"] = torch.randn(wrong["rot6d"].shape, generator=random)
    wrong["camera"] = wrong["camera"].abs() + 1
    for name in ("presence_logit", "right_logit", "parts_logits"):
        wrong[name] = torch.randn(wrong[name].shape, generator=random)
    return Prediction(**{name: value.requires_grad_() for name, value in wrong.items()})


def outputs(prediction: Prediction) -> dict[str, Tensor]:
    return {name: value for name, value in vars(prediction).items() if value is not None}


def rows(prediction: Prediction, index: Tensor | slice) -> Prediction:
    return Prediction(**{name: value.detach()[index].requires_grad_() for name, value in outputs(prediction).items()})


def gradients(layer: HandLayer, prediction: Prediction, batch: Batch, counts: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    leaves = outputs(prediction)
    loss = total_loss(loss_terms(layer, prediction, batch, counts), LossWeights())
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def test_the_batch_has_all_kinds(full, batch):
    assert set(batch.presence.tolist()) == {-1, 0, 1} and set(batch.right.tolist()) == {-1, 0, 1}
    assert 0 < batch.has_params.sum() < batch.has_joints.sum() < batch.has_keypoints.sum() < len(batch)
    assert not full.has_dense[~full.has_keypoints].any() and batch.has_dense.any()


def test_zero_at_the_truth(layer, full):
    terms = loss_terms(layer, truth(full), full)
    assert set(terms) == TERMS
    # A point between cells always surprises a heat map: test_heat_maps_learn_the_cells_around_a_point.
    assert {name: value.item() for name, value in terms.items() if name != "heatmap_cells" and not value < 1e-5} == {}
    errors = measure_errors(layer, truth(full), full)
    for values, limit in ((errors.pa_mpjpe_mm, 1e-2), (errors.pa_mpvpe_mm, 1e-2), (errors.mpjpe_mm, 1e-2), (errors.keypoints_share, 1e-4)):
        assert values.nan_to_num(0).max() < limit
    assert errors.presence_hit.nanmean() == 1 and errors.right_hit.nanmean() == 1


def test_errors_are_given_where_there_is_a_label(layer, batch):
    errors = measure_errors(layer, guess(batch), batch)
    for name in ("pa_mpjpe_mm", "mpjpe_mm", "keypoints_share"):
        assert torch.equal(getattr(errors, name).isfinite(), batch.has_joints), name
    assert torch.equal(errors.pa_mpvpe_mm.isfinite(), batch.has_vertices)
    assert torch.equal(errors.presence_hit.isfinite(), batch.presence >= 0) and torch.equal(errors.right_hit.isfinite(), batch.right >= 0)


def test_aligned_errors_see_shapes_alone(layer, full):
    """A hand turned as a whole is no other shape; rough skin is, but not for the joints."""
    turn = torch.tensor(rotvec_to_rotmat(np.array([0.4, -0.2, 0.9])), dtype=torch.float32)
    turned = turn @ full.rotmats[:, 0]
    rot6d = truth(full).rot6d.clone()
    rot6d[:, :6] = torch.cat([turned[..., 0], turned[..., 1]], dim=-1)
    errors = measure_errors(layer, replace(truth(full), rot6d=rot6d), full)
    assert errors.pa_mpjpe_mm.nanmean() < 0.01 and errors.pa_mpvpe_mm.nanmean() < 0.01 and errors.mpjpe_mm.nanmean() > 10
    rough_m = full.vertices_m + 1e-3 * torch.randn(full.vertices_m.shape, generator=torch.Generator().manual_seed(0))
    errors = measure_errors(layer, truth(full), replace(full, vertices_m=rough_m))
    # The mean length of a normal vector is sqrt(8 / pi).
    assert errors.pa_mpvpe_mm.nanmean().item() == pytest.approx(1.6, abs=0.05) and errors.pa_mpjpe_mm.nanmean() < 0.01


def test_samples_without_a_label_give_no_gradient(layer, batch):
    pull = gradients(layer, guess(batch), batch)
    landmarks = batch.landmark_weight > 0
    assert (landmarks & (batch.right == 1)).any() and (landmarks & (batch.right == 0)).any()
    holds = {
        **dict.fromkeys(("rot6d", "betas", "camera"), batch.has_joints | (landmarks & (batch.right == 1))),
        **dict.fromkeys(("keypoints", "heatmap_logits"), batch.has_keypoints & (~landmarks | (batch.right == 1))),
        **dict.fromkeys(("parts_logits", "depth_m"), batch.has_dense),
        "presence_logit": batch.presence >= 0,
        "right_logit": batch.right >= 0,
    }
    for name, gradient in pull.items():
        assert torch.equal(gradient.view(len(batch), -1).abs().sum(1) > 0, holds[name]), name


def test_labels_that_do_not_hold_may_be_anything(layer, batch):
    broken = {name: getattr(batch, name).clone() for names in LABELS.values() for name in names}
    for flag, names in LABELS.items():
        for name in names:
            broken[name][~getattr(batch, flag)] = torch.nan
    # Landmarks are projected with the focal length, too.
    broken["focal_px"] = torch.where(batch.has_joints | (batch.landmark_weight > 0), batch.focal_px, torch.nan)
    broken["param_weight"] = torch.where(batch.has_params, batch.param_weight, torch.nan)
    foul = replace(batch, **broken)
    assert all(getattr(foul, name).isnan().any() for name in broken)
    prediction = guess(batch)
    for term, value in loss_terms(layer, prediction, batch).items():
        assert torch.equal(loss_terms(layer, prediction, foul)[term], value), term
    expected = gradients(layer, prediction, batch)
    for name, gradient in gradients(layer, prediction, foul).items():
        assert gradient.isfinite().all() and torch.equal(gradient, expected[name]), name
    errors, clean = measure_errors(layer, prediction, foul), measure_errors(layer, prediction, batch)
    for field in fields(errors):
        assert torch.equal(getattr(errors, field.name).nan_to_num(-1), getattr(clean, field.name).nan_to_num(-1)), field.name


def test_a_batch_without_any_label_costs_nothing_and_still_reaches_every_output(layer, batch):
    nothing = {field.name: torch.zeros(len(batch), dtype=torch.bool) for field in fields(Batch) if field.name.startswith("has_")}
    unscored = torch.full((len(batch),), -1)
    empty = replace(batch, **nothing, presence=unscored, right=unscored)
    assert set(label_counts(empty)) == set(label_counts(batch)) and all(count == 0 for count in label_counts(empty).values())
    assert total_loss(loss_terms(layer, guess(batch), empty), LossWeights()) == 0
    assert all((gradient == 0).all() for gradient in gradients(layer, guess(batch), empty).values())


@pytest.mark.parametrize("order", ["as they come", "labels apart"])
def test_parts_of_a_batch_add_up_to_the_whole(layer, batch, order):
    if order == "labels apart":
        # First all without any hand, and only right ones last: one half lacks most kinds of labels.
        batch = batch.rows((batch.has_joints.long() + batch.has_params + batch.has_keypoints + (batch.presence == 1)).argsort())
        first = label_counts(batch.rows(slice(0, 8)))
        assert first["vertices"] == first["joints"] == first["right_1"] == 0 < first["presence_0"]
    prediction = guess(batch)
    whole, counts = gradients(layer, prediction, batch), label_counts(batch)
    halves = [slice(0, 8), slice(8, None)]
    parts = [gradients(layer, rows(prediction, half), batch.rows(half), counts) for half in halves]
    for name, gradient in whole.items():
        scale = gradient.abs().max()
        assert scale > 0 and (torch.cat([part[name] for part in parts]) - gradient).abs().max() < 1e-5 * scale, name
    terms = [loss_terms(layer, rows(prediction, half), batch.rows(half), counts) for half in halves]
    for name, value in loss_terms(layer, prediction, batch).items():
        assert (terms[0][name] + terms[1][name]).item() == pytest.approx(value.item(), rel=1e-4), name
    for name, count in counts.items():
        assert sum(label_counts(batch.rows(half))[name] for half in halves) == count, name


def test_counts_of_devices_may_be_fractions(layer, batch):
    """Gradients that are averaged over 64 devices want 1/64 of the counts, which is less than one sample."""
    prediction = guess(batch)
    shares = {name: count / 64 for name, count in label_counts(batch).items()}
    assert shares["vertices"] < 1
    whole = gradients(layer, prediction, batch)
    for name, gradient in gradients(layer, prediction, batch, shares).items():
        assert (gradient / 64 - whole[name]).abs().max() <= 1e-5 * whole[name].abs().max(), name


def test_both_answers_count_alike(layer, batch):
    for name in ("presence", "right"):
        for zeros, ratio in ((4, 5.0), (12, 1.0), (20, 0.2), (1, 8.0)):
            labels = (torch.arange(len(batch)) >= zeros).long()
            prediction = replace(guess(batch), **{f"{name}_logit": torch.zeros(len(batch), requires_grad=True)})
            term = loss_terms(layer, prediction, replace(batch, **{name: labels}))[name]
            assert term.item() == pytest.approx(math.log(2), rel=1e-5)
            (pull,) = torch.autograd.grad(term, getattr(prediction, f"{name}_logit"))
            assert (pull[0] / -pull[-1]).item() == pytest.approx(ratio, rel=1e-5)
            if zeros > 1:
                assert pull.sum().abs() < 1e-6
    assert [weight.item() for weight in answer_weights(torch.tensor(0.0), torch.tensor(5.0))] == [8, 1]
    assert [weight.item() for weight in answer_weights(torch.tensor(5.0), torch.tensor(0.0))] == [1, 8]


def test_depth_is_learnt_on_the_hand_alone(layer, full):
    on_hand = full.parts > 0
    assert 0 < on_hand[full.has_dense].float().mean() < 1
    off = replace(truth(full), depth_m=torch.where(on_hand, full.depth_m + 0.01, 7.0))
    assert loss_terms(layer, off, full)["depth"].item() == pytest.approx(0.01, rel=1e-4)
    empty = full.has_dense.nonzero()[0, 0]
    bare = replace(full, parts=full.parts.index_fill(0, empty, 0), depth_m=full.depth_m.index_fill(0, empty, 0.0))
    assert label_counts(bare)["depth"] == label_counts(full)["depth"] - 1 and torch.equal(label_counts(bare)["parts"], full.has_dense.sum())
    assert loss_terms(layer, off, bare)["depth"].item() == pytest.approx(0.01, rel=1e-4)
    # The mean of means: a small hand counts as much as a large one.
    small = full.parts.clone()
    small[0::2, 2:] = 0
    weights = torch.where(torch.arange(len(full)) % 2 == 0, 0.03, 0.01)[:, None, None]
    term = loss_terms(layer, replace(truth(full), depth_m=full.depth_m + weights), replace(full, parts=small))["depth"]
    even = full.has_dense[0::2].sum() / full.has_dense.sum()
    assert term.item() == pytest.approx((0.03 * even + 0.01 * (1 - even)).item(), rel=1e-4)


def test_terms_are_means_over_the_samples_with_the_label(layer, batch):
    prediction = guess(batch)
    terms = loss_terms(layer, prediction, batch)
    for flag, names in {
        "has_joints": ("joints", "keypoints_2d", "camera_scale", "camera_shift"),
        "has_params": ("rotmats", "betas"),
        "has_vertices": ("vertices",),
        "has_keypoints": ("heatmaps", "heatmap_cells"),
        "has_dense": ("parts", "depth"),
    }.items():
        holds = getattr(batch, flag)
        alone = loss_terms(layer, rows(prediction, holds), batch.rows(holds))
        for name in names:
            assert alone[name].item() == pytest.approx(terms[name].item(), rel=1e-4), name


def test_heads_that_are_missing_are_left_out(layer, batch):
    pooled = replace(truth(batch), keypoints=None, heatmap_logits=None, parts_logits=None, depth_m=None)
    assert set(loss_terms(layer, pooled, batch)) == TERMS - {"heatmaps", "heatmap_cells", "parts", "depth"}
    validating = replace(truth(batch), heatmap_logits=None, parts_logits=None, depth_m=None)
    assert set(loss_terms(layer, validating, batch)) == TERMS - {"heatmap_cells", "parts", "depth"}


def test_a_wrong_hand_costs_something_in_every_term(layer, full):
    right = outputs(truth(full))
    others = {name: -right[name].roll(1, 0) for name in ("rot6d", "betas")}
    shifted = {"camera": right["camera"] * 1.1, "keypoints": right["keypoints"] + 0.1, "depth_m": right["depth_m"] + 0.01}
    flipped = {name: -right[name] for name in ("presence_logit", "right_logit", "parts_logits")}
    wrong = Prediction(**others, **shifted, **flipped, heatmap_logits=right["heatmap_logits"])
    # Rendered images have no landmarks; tests/test_training_photographs.py.
    assert {name for name, value in loss_terms(layer, wrong, full).items() if not value > 1e-4} == {"landmarks"}


def test_keypoints_outside_of_the_crop_are_not_sought_in_it(layer, full):
    far = full.keypoints_px.clone()
    far[:, 4] = 200.0
    batch = replace(full, keypoints_px=far)
    assert label_counts(batch)["heatmaps"] <= 20 * full.has_keypoints.sum()
    pull = gradients(layer, guess(full), batch)
    assert (pull["keypoints"][:, 4] == 0).all() and (pull["heatmap_logits"][:, 4] == 0).all()
    assert pull["keypoints"][:, 3].abs().sum() > 0


def test_labels_agree_with_the_projection(layer, full):
    mine = full.has_joints
    posed = pose_prediction(layer, truth(full), full)
    assert (posed.keypoints_px[mine] - full.keypoints_px[mine]).abs().max() < 1e-3


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
