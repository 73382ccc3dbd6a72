"""Convolutions whose backward pass is several times faster on CPUs than torch's own, which takes most of a FastViT's step there.

Pointwise ones are matrix products. Depthwise ones are taken back to what is fast: convolutions forward, and long dot products.
`quicken` swaps them in; weights and their names stay what they were, and the layout is torch's contiguous one throughout.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

# Torch's own gradient of the weights alone is good for smaller ones.
_LARGE_KERNEL = 5


def quicken(net: nn.Module) -> int:
    """Let a network's depthwise and pointwise convolutions run on these routines wherever their input is on the CPU.

    Args:
        net: any; changed in place. Its state dict and (to rounding) its outputs and gradients stay the same.

    Returns:
        How many convolutions were swapped.
    """
    swapped = 0
    for module in net.modules():
        kind = _kind(module) if type(module) is nn.Conv2d else None
        if kind is not None:
            module.__class__ = kind
            swapped += 1
    return swapped


def _kind(module: nn.Conv2d) -> type[nn.Conv2d] | None:
    kernel, stride = module.kernel_size, module.stride
    is_square = kernel[0] == kernel[1] and stride[0] == stride[1] and kernel[0] % 2 == 1 and stride[0] in (1, 2)
    is_same = module.padding == (kernel[0] // 2, kernel[0] // 2) and module.padding_mode == "zeros" and module.dilation == (1, 1)
    if not (is_square and is_same):
        return None
    if module.groups == module.in_channels > 1:
        return DepthwiseConv2d
    if kernel[0] == 1 and module.groups == 1:
        return PointwiseConv2d
    return None


class DepthwiseConv2d(nn.Conv2d):
    """One kernel, or a few, for each channel."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_ours(input):
            return super()._conv_forward(input, weight, bias)
        out = _Depthwise.apply(_autocast(input), _autocast(weight), self.stride[0])
        return out if bias is None else out + bias.to(out.dtype).view(-1, 1, 1)


class PointwiseConv2d(nn.Conv2d):
    """One matrix for all pixels."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_ours(input):
            return super()._conv_forward(input, weight, bias)
        input = _autocast(input[:, :, :: self.stride[0], :: self.stride[0]])
        out = _Pointwise.apply(input.contiguous(), _autocast(weight))
        return out if bias is None else out + bias.to(out.dtype).view(-1, 1, 1)


def _is_ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _autocast(x: Tensor) -> Tensor:
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


class _Pointwise(torch.autograd.Function):
    """(N, C, H, W) by (O, C, 1, 1) weights to (N, O, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _mix(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        d_x = _mix(gradient, weight.transpose(0, 1)) if ctx.needs_input_grad[0] else None
        if _has_few_pixels(x):
            d_weight = _columns(gradient) @ _columns(x).t()
        else:
            # Each picture's product may be rounded to bf16, but not their sum.
            d_weight = torch.bmm(gradient.flatten(2), x.flatten(2).transpose(1, 2)).sum(0, dtype=torch.float32)
        return d_x, d_weight.to(x.dtype).view_as(weight)


def _has_few_pixels(x: Tensor) -> bool:
    # Then a matrix product a picture is slow.
    return x.shape[2] * x.shape[3] < 128


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    if _has_few_pixels(x):
        return conv2d(x, weight.contiguous())
    n, _, height, width = x.shape
    return torch.bmm(weight.flatten(1).expand(n, -1, -1), x.flatten(2)).view(n, -1, height, width)


def _columns(x: Tensor) -> Tensor:
    """(N, C, H, W) to (C, N * H * W)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


class _Depthwise(torch.autograd.Function):
    """(N, C, H, W) by (M C, 1, k, k) weights to (N, M C, ceil(H / s), ceil(W / s)), with zeros beyond the border."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        k = weight.shape[-1]
        if k == 1:
            x = x[:, :, ::stride, ::stride]
        # One kernel a channel is fast, several are not: those are taken one at a time.
        planes = [
            x * part.view(-1, 1, 1) if k == 1 else conv2d(x, part, stride=stride, padding=k // 2, groups=x.shape[1])
            for part in _parts(weight, x.shape[1])
        ]
        return _joined(planes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, k, channels = ctx.stride, weight.shape[-1], x.shape[1]
        multiplier = len(weight) // channels
        gradient = gradients[0].contiguous()
        shares = [gradient] if multiplier == 1 else [gradient[:, m::multiplier].contiguous() for m in range(multiplier)]
        d_x = None
        if ctx.needs_input_grad[0]:
            for share, part in zip(shares, _parts(weight, channels), strict=True):
                spread = _spread(share, stride, x.shape[2:])
                d_share = spread * part.view(-1, 1, 1) if k == 1 else conv2d(spread, part.flip(2, 3), padding=k // 2, groups=channels)
                d_x = d_share if d_x is None else d_x + d_share
        d_parts = [depthwise_weight_gradient(x, share, k, stride) for share in shares]
        return d_x, torch.cat(d_parts, dim=1).view_as(weight).to(weight.dtype), None


def _parts(weight: Tensor, channels: int) -> list[Tensor]:
    """The kernels of each channel: the first of all channels, the second, ..."""
    multiplier = len(weight) // channels
    return [weight] if multiplier == 1 else [weight[m::multiplier].contiguous() for m in range(multiplier)]


def _joined(planes: list[Tensor]) -> Tensor:
    """Outputs of the first kernels, the second, ... in the order of channels."""
    return planes[0] if len(planes) == 1 else torch.stack(planes, dim=2).flatten(1, 2)


def _spread(gradient: Tensor, stride: int, shape: torch.Size) -> Tensor:
    """Values at every `stride`-th pixel of planes of `shape`, zeros between them."""
    if stride == 1:
        return gradient
    spread = gradient.new_zeros(*gradient.shape[:2], *shape)
    spread[:, :, ::stride, ::stride] = gradient
    return spread


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, k: int, stride: int) -> Tensor:
    """Gradient of a depthwise convolution's kernels.

    Args:
        x: (N, C, H, W) input; gradient: (N, C, ceil(H / stride), ceil(W / stride)); both float32 or both bfloat16.
        k: side of the kernels, odd; zeros are beyond the border.

    Returns:
        (C, 1, k, k) float32.
    """
    channels = x.shape[1]
    if k == 1:
        return (x[:, :, ::stride, ::stride].float() * gradient.float()).sum((0, 2, 3)).view(-1, 1, 1, 1)
    if k < _LARGE_KERNEL:
        weight, both = x.new_empty(channels, 1, k, k), (k // 2, k // 2)
        only_weight = (False, True, False)
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, (stride, stride), both, (1, 1), False, (0, 0), channels, only_weight
        )[1].float()
    # As many as torch uses: who sets OMP_NUM_THREADS, or starts a process for each core, means these too.
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # pyright: ignore
    out = np.empty((channels, 1, k, k), np.float32)
    _correlate(_bits(x), _bits(gradient), stride, out)
    return torch.from_numpy(out)


def _bits(x: Tensor) -> np.ndarray:
    """The same memory; bfloat16 as integers, since numpy has no such type."""
    x = x.detach().contiguous()
    return x.view(torch.int16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


# Sums in another order than written, but always the same: what makes vector instructions of them.
_FASTMATH = {"reassoc", "contract", "nsz"}


@numba.njit(fastmath=_FASTMATH, nogil=True, cache=True, error_model="numpy")
def _dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _read(row: np.ndarray, out: np.ndarray) -> None:
    """Floats, or the integers of `_bits`, as floats."""
    if row.itemsize == 2:
        bits = out.view(np.int32)
        for i in range(row.size):
            bits[i] = np.int32(row[i]) << 16
    else:
        for i in range(row.size):
            out[i] = row[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _spread_row(row: np.ndarray, first: int, stride: int, start: int, phases: np.ndarray, line: np.ndarray) -> None:
    """A row of a plane, its first value in column `first` of the padded plane, into the phases (S, ...) from `start` on."""
    if stride == 1:
        _read(row, phases[0, start + first : start + first + row.size])
        return
    _read(row, line)
    for q in range(stride):
        behind = (q - first) % stride
        out = phases[q, start + (first + behind) // stride :]
        for u in range((row.size - behind + stride - 1) // stride):
            out[u] = line[behind + u * stride]


# Floats that stay in the innermost cache.
_STRETCH = 3072


@numba.njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def _correlate(x: np.ndarray, gradient: np.ndarray, stride: int, out: np.ndarray) -> None:
    """Kernels whose entry (a, b) is the sum of the gradient times the padded input shifted by (a, b), in (C, 1, k, k).

    The padded input lies in stride x stride phases: its row s y + p and column s x + q are row y and column x of phase (p, q). Phases
    and gradient have rows of one length in memory, with zeros behind the gradient's rows and below its last one, so that each entry is
    one dot product of two stretches of memory, over several pictures if they are small.
    """
    n, channels, height, width = x.shape
    rows, columns = gradient.shape[2:]
    k = out.shape[2]
    pad = k // 2
    reach = (k + stride - 1) // stride
    length = columns + reach - 1
    size = (rows + reach - 1) * length
    several = max(1, min(n, _STRETCH // size))
    for c in numba.prange(channels):
        phases = np.zeros((stride, stride, several * size + reach * (length + 1)), np.float32)
        given = np.zeros(several * size, np.float32)
        line = np.empty(width, np.float32)
        sums = np.zeros((k, k), np.float32)
        for first in range(0, n, several):
            if first + several > n:
                given[:] = 0
            for i in range(first, min(n, first + several)):
                begin = (i - first) * size
                for y in range(height):
                    start = begin + (y + pad) // stride * length
                    _spread_row(x[i, c, y], pad, stride, start, phases[(y + pad) % stride], line)
                for y in range(rows):
                    _read(gradient[i, c, y], given[begin + y * length : begin + y * length + columns])
            for a in range(k):
                for b in range(k):
                    start = a // stride * length + b // stride
                    sums[a, b] += _dot(given, phases[a % stride, b % stride, start : start + given.size])
        out[c, 0] = sums
