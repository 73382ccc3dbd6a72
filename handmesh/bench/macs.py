"""Multiply-adds of a network, from the static shapes of its graph: the file that is timed is counted, and torch is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

Shape = Sequence[int]

_COUNTED = ("Convolution", "GroupConvolution", "MatMul", "ScaledDotProductAttention")


def convolution_macs(weight: Shape, output: Shape) -> int:
    """Multiply-adds of one convolution.

    Args:
        weight: (out, in, height, width), or in groups (groups, out / groups, in / groups, height, width).
        output: (batch, out, height, width).
    """
    return prod(output) * prod(weight[-3:])


def product_macs(left: Shape, output: Shape) -> int:
    """Multiply-adds of a matrix product, whichever of its sides is transposed.

    Args:
        left: (..., rows, inner) or (..., inner, rows), with all leading axes of the output.
        output: (..., rows, columns).
    """
    return prod(left) * output[-1]


def attention_macs(queries: Shape, keys: Shape, output: Shape) -> int:
    """Multiply-adds of both products of softmax(queries keys^T) values.

    Args:
        queries: (..., rows, inner).
        keys: (..., columns, inner).
        output: (..., rows, value's width).
    """
    return (prod(queries) + prod(output)) * keys[-2]


def operation_macs(kind: str, inputs: Sequence[Shape], output: Shape) -> int:
    """Multiply-adds of one operation; 0 for all but convolutions, matrix products and attention.

    Args:
        kind: OpenVINO's name of the operation, of a model as read or as compiled.
        inputs: shapes; the second is the weight's or the keys'.
        output: shape of the first output.
    """
    match kind:
        case "Convolution" | "GroupConvolution":
            return convolution_macs(inputs[1], output)
        case "MatMul" | "FullyConnected":
            return product_macs(inputs[0], output)
        case "ScaledDotProductAttention":
            return attention_macs(inputs[0], inputs[1], output)
    return 0


def macs_by_operation(model: Any) -> dict[str, int]:
    """Friendly name -> multiply-adds of each operation of an OpenVINO model that has any.

    Args:
        model: an `openvino.Model` whose shapes are static (see `Model.reshape`).
    """
    return {
        operation.get_friendly_name(): operation_macs(
            operation.get_type_name(),
            [tuple(value.get_shape()) for value in operation.input_values()],
            tuple(operation.output(0).get_shape()),
        )
        for operation in model.get_ordered_ops()
        if operation.get_type_name() in _COUNTED
    }


def count_macs(model: Any) -> int:
    """Multiply-adds of one run of an OpenVINO model whose shapes are static."""
    return sum(macs_by_operation(model).values())
