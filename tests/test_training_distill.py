"""The teacher: what it says does not depend on the crop's size, reaches only the student, and counts right hands alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import Tensor

from handmesh.config import config_to_dict
from handmesh.deploy.parity import noise_pictures
from handmesh.errors import UserError
from handmesh.training.checkpoint import Checkpoint, save_checkpoint
from handmesh.training.command import LossWeights, ModelConfig, TrainCommand
from handmesh.training.data import Batch
from handmesh.training.distill import Teacher, resize_crops, teacher_terms
from handmesh.training.layer import HandLayer
from handmesh.training.losses import label_counts, total_loss, translation_to_weak_perspective, weak_perspective_to_translation
from handmesh.training.model import HandNet, Prediction, build_net

TERMS = ("teacher_parameters", "teacher_vertices", "teacher_features")


def saved_net(path: Path, hand_model_id: str, model: ModelConfig) -> HandNet:
    """A checkpoint of a network whose answers depend on the picture."""
    torch.manual_seed(1)
    net = build_net(model)
    torch.nn.init.normal_(net.head.output.weight, std=0.2)
    state = net.state_dict()
    config = config_to_dict(TrainCommand(model=model))
    save_checkpoint(Checkpoint(config, hand_model_id, "none", 0, 0, 0.0, model={}, ema=state, optimizer={}), path)
    return net


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory, hand_model) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "best.pt"
    saved_net(path, hand_model.id, ModelConfig("fastvit_t12", "pooled", 96))
    return path


@pytest.fixture(scope="module")
def teacher(teacher_path, hand_model) -> Teacher:
    return Teacher(teacher_path, hand_model)


@pytest.fixture(scope="module")
def layer(hand_model) -> HandLayer:
    return HandLayer(hand_model)


@pytest.fixture
def batch(hand_model) -> Batch:
    """Right hands, mirrored ones, and crops without a hand."""
    batch = GeneratedShards(hand_model).batch(12, mirror_share=0.3)
    assert {-1, 0, 1} == set(batch.right.tolist())
    return batch


def test_a_student_equal_to_its_teacher_pays_nothing(tmp_path, hand_model, layer, batch):
    twin = saved_net(tmp_path / "twin.pt", hand_model.id, ModelConfig("fastvit_t8", "keypoint", 64)).eval()
    teacher = Teacher(tmp_path / "twin.pt", hand_model)
    prediction = twin(batch.crops)
    identity = teacher.student_map(twin)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(len(identity.weight)))
        identity.bias.zero_()
    terms = teacher_terms(layer, prediction, teacher.predict(batch), identity, batch)
    assert tuple(terms) == TERMS
    assert all(abs(value.item()) < 1e-6 for value in terms.values())
    # And another student pays for each.
    other = build_net(ModelConfig(size_px=64)).eval()(batch.crops)
    terms = teacher_terms(layer, other, teacher.predict(batch), teacher.student_map(twin), batch)
    assert all(value > 1e-3 for value in terms.values())
    assert total_loss(terms, LossWeights()).isfinite()


def test_gradients_reach_the_student_alone(teacher, layer, batch):
    torch.manual_seed(0)
    student = build_net(ModelConfig(size_px=64))
    student_map = teacher.student_map(student)
    before = {name: value.clone() for name, value in teacher.net.state_dict().items()}
    answer = teacher.predict(batch)
    terms = teacher_terms(layer, student(batch.crops), answer, student_map, batch)
    total_loss(terms, LossWeights()).backward()
    assert not teacher.net.training and not answer.rot6d.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.net.state_dict().items())
    assert student_map.weight.grad is not None and student_map.weight.grad.abs().sum() > 0
    for parameter in (student.head.output.weight, student.backbone.stem[0].conv_kxk[0].conv.weight):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_only_right_hands_count(teacher, layer, batch):
    student = build_net(ModelConfig(size_px=64)).eval()
    with torch.no_grad():
        prediction, answer, student_map = student(batch.crops), teacher.predict(batch), teacher.student_map(student)
        terms = teacher_terms(layer, prediction, answer, student_map, batch)
        right = batch.right == 1
        assert 0 < right.sum() < len(batch)
        alone = teacher_terms(layer, rows(prediction, right), rows(answer, right), student_map, batch.rows(right))
        assert all(torch.isclose(terms[name], alone[name], rtol=1e-5) for name in TERMS)
        # Even an answer that is no number does no harm where nobody asked.
        spoiled = replace(answer, rot6d=torch.where(right[:, None], answer.rot6d, torch.nan))
        spoiled = teacher_terms(layer, prediction, spoiled, student_map, batch)
        assert all(torch.equal(spoiled[name], terms[name]) for name in TERMS)
        none = teacher_terms(layer, rows(prediction, ~right), rows(answer, ~right), student_map, batch.rows(~right))
        assert all(value == 0 for value in none.values())


def test_parts_of_a_batch_add_up(teacher, layer, batch):
    student = build_net(ModelConfig(size_px=64)).eval()
    with torch.no_grad():
        prediction, answer, student_map = student(batch.crops), teacher.predict(batch), teacher.student_map(student)
        whole = teacher_terms(layer, prediction, answer, student_map, batch)
        counts = label_counts(batch)
        parts = [
            teacher_terms(layer, rows(prediction, part), rows(answer, part), student_map, batch.rows(part), counts)
            for part in (slice(0, 5), slice(5, 12))
        ]
        assert all(torch.isclose(parts[0][name] + parts[1][name], whole[name], rtol=1e-5) for name in TERMS)


def test_the_teacher_sees_the_picture_at_its_own_size(teacher, batch):
    assert teacher.net.size_px == 96 and batch.crops.shape[1] == 64
    seen = resize_crops(batch.crops, 96)
    assert seen.shape == (len(batch), 96, 96, 3)
    with torch.no_grad():
        assert torch.equal(teacher.predict(batch).rot6d, teacher.net(seen).rot6d)
    # A point of light is where it was, measured from the crop's edges: (x + 0.5) / S.
    for size, other in ((64, 96), (96, 64), (128, 224)):
        x = torch.arange(size)
        light = torch.exp(-((x[None, :, None, None] - 0.3 * size) ** 2 + (x[None, None, :, None] - 0.6 * size) ** 2) / 20).expand(
            1, -1, -1, 3
        )
        moved = resize_crops(255 * light, other)[0, :, :, 0]
        total, at = moved.sum(), torch.arange(other) + 0.5
        assert ((moved.sum(1) * at).sum() / total / other).item() == pytest.approx((0.3 * size + 0.5) / size, abs=2e-3)
        assert ((moved.sum(0) * at).sum() / total / other).item() == pytest.approx((0.6 * size + 0.5) / size, abs=2e-3)
    crops = torch.from_numpy(noise_pictures(64, 1))
    assert resize_crops(crops, 64) is crops


def test_the_camera_does_not_know_the_crops_size():
    """The same hand seen in a crop of another size: the focal length grows along, so s, tx and ty stay."""
    root_m, focal_px = torch.tensor([[0.02, -0.03, 0.61]]), torch.tensor([300.0])
    camera = translation_to_weak_perspective(root_m, focal_px, 128)
    larger = translation_to_weak_perspective(root_m, focal_px * 224 / 128, 224)
    assert torch.allclose(camera, larger, atol=1e-6)
    assert torch.allclose(weak_perspective_to_translation(camera, focal_px * 224 / 128, 224), root_m, atol=1e-6)


def test_the_map_goes_from_student_to_teacher(teacher):
    student = build_net(ModelConfig("fastvit_t8", size_px=64))
    student_map = teacher.student_map(student)
    assert (student_map.in_features, student_map.out_features) == (768, 1024)


def test_bad_teachers_get_one_line(teacher_path, hand_model, tmp_path):
    with pytest.raises(UserError, match=f"teacher for the hand model 'mano-right'.*is for '{hand_model.id}'") as caught:
        Teacher(teacher_path, replace(hand_model, id="mano-right"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is no file"):
        Teacher(tmp_path / "none.pt", hand_model)


def rows(prediction: Prediction, part: Tensor | slice) -> Prediction:
    return Prediction(**{name: value[part] for name, value in vars(prediction).items() if value is not None})


def test_pictures_reach_the_answer(teacher, batch):
    """The tests above would say little about a teacher that always says the same."""
    with torch.no_grad():
        answer = teacher.predict(replace(batch, crops=torch.from_numpy(noise_pictures(64, len(batch)))))
    assert np.ptp(answer.rot6d.numpy(), axis=0).max() > 0.01
