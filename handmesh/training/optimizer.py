"""How the weights move: what decays, how fast each group learns, when that changes, and the average that is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from handmesh.training.command import ScheduleConfig


def parameter_groups(net: nn.Module, schedule: ScheduleConfig, *others: nn.Module) -> list[dict[str, Any]]:
    """Parameters for the optimiser: matrices and kernels decay; biases, normalisation and scales do not.

    Args:
        net: a network with its trunk in `net.backbone`. With `schedule.layer_decay` below 1 the trunk's layers, as timm
            groups them, learn that much slower the further they are from its end; all else learns at the full rate.
        schedule: gives weight_decay and layer_decay.
        others: further modules that learn at the full rate.

    Returns:
        Groups with `params`, `weight_decay`, and `lr_scale`, which the learning rate is multiplied by.
    """
    if schedule.layer_decay == 1:
        return _two_groups([net, *others], schedule.weight_decay)
    from timm.optim._param_groups import param_groups_layer_decay

    trunk: Any = net.backbone
    no_decay = [name for name, parameter in trunk.named_parameters() if not _decays(parameter)]
    groups = param_groups_layer_decay(trunk, schedule.weight_decay, no_decay, layer_decay=schedule.layer_decay)
    heads = [module for name, module in net.named_children() if name != "backbone"]
    return [*groups, *_two_groups([*heads, *others], schedule.weight_decay)]


def schedule_progress(schedule: ScheduleConfig, pictures: int, seconds: float) -> float:
    """How much of the training is over, in 0..1: the larger of its share of pictures and of time."""
    share = pictures / schedule.pictures
    return share if schedule.max_minutes is None else max(share, seconds / (60 * schedule.max_minutes))


def learning_rate_at(schedule: ScheduleConfig, progress: float, pictures: int) -> float:
    """Linear warm-up by pictures, then a cosine by progress, or one step half way."""
    low, high = schedule.final_learning_rate, schedule.learning_rate
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) if schedule.shape == "cosine" else float(progress < 0.5)
    return (low + (high - low) * share) * min(1.0, (pictures + 1) / max(1, schedule.warmup_pictures))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The same rate for all groups, but for each group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and of normalisation statistics; a short memory at first."""
    decay = min(decay, (1 + step) / (10 + step))
    pairs = list(zip([*average.parameters(), *average.buffers()], [*net.parameters(), *net.buffers()], strict=True))
    means, values = (list(tensors) for tensors in zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True))
    get_ema_multi_avg_fn(decay)(means, values, 0)
    for count, value in pairs:
        if not count.is_floating_point():
            count.copy_(value)


def _two_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return [
        {"params": [p for p in parameters if _decays(p)], "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": [p for p in parameters if not _decays(p)], "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def _decays(parameter: nn.Parameter) -> bool:
    # FastViT's layer scales are (C, 1, 1): three axes, but one value a channel.
    return parameter.ndim in (2, 4)
