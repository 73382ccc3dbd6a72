"""MediaPipe's .tflite networks in OpenVINO: read, and compiled for uint8 pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from handmesh.detection.files import NETWORKS, NetworkName, network_path
from handmesh.errors import UserError
from handmesh.runtime import Precision

# pictures (N, S, S, 3) uint8 -> the chosen outputs, each (N, ...) float32
PictureNetwork = Callable[[np.ndarray], list[np.ndarray]]


def read_network(name: NetworkName) -> Any:
    """The `openvino.Model` of one of MediaPipe's networks, with one input (N, S, S, 3) of values 0..1.

    Raises:
        UserError: its file is not to be had (see `files.network_path`), or OpenVINO cannot read it.
    """
    import openvino

    path = network_path(name)
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise UserError(f"expected a version of OpenVINO that reads {NETWORKS[name].file}, got {openvino.__version__}") from error


def output_named(model: Any, name: str, shape: Sequence[int]) -> Any:
    """The tensor of that name, which must have that shape.

    Raises:
        UserError: there is none: another version of OpenVINO reads the file in another way.
    """
    for operation in model.get_ordered_ops():
        for output in operation.outputs():
            if name in output.get_names() and list(output.get_partial_shape().get_min_shape()) == list(shape):
                return output
    raise _unexpected(name, shape)


def sum_before(output: Any, name: str, shape: Sequence[int]) -> Any:
    """The nearest sum of that shape that a tensor comes from, by first inputs; it gets a name.

    Raises:
        UserError: there is none.
    """
    while output.get_node().get_input_size():
        if output.get_node().get_type_name() == "Add" and list(output.get_partial_shape().get_min_shape()) == list(shape):
            output.get_tensor().set_names({name})
            return output
        output = output.get_node().input_value(0)
    raise _unexpected(name, shape)


def compile_for_pictures(model: Any, outputs: Sequence[str], batch: int, precision: Precision, threads: int) -> PictureNetwork:
    """Compile a network for so many uint8 pictures at once; OpenVINO makes 0..1 of them.

    Args:
        model: of `read_network`; stays as it is.
        outputs: names of the tensors that are returned.
        precision, threads: as everywhere in `runtime`.
    """
    import openvino
    from openvino.preprocess import PrePostProcessor

    model = model.clone()
    for name in outputs:
        found = next(each for operation in model.get_ordered_ops() for each in operation.outputs() if name in each.get_names())
        if not any(name in each.get_names() for each in model.outputs):
            model.add_outputs(found)
    processor = PrePostProcessor(model)
    processor.input().tensor().set_element_type(openvino.Type.u8)
    processor.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    model = processor.build()
    model.reshape([batch, *list(model.input().get_partial_shape().get_min_shape())[1:]])
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    request = (compiled := openvino.Core().compile_model(model, "CPU", config)).create_infer_request()
    pictures_in = request.get_input_tensor(0).data
    values = [request.get_tensor(compiled.output(name)).data for name in outputs]

    def network(pictures: np.ndarray) -> list[np.ndarray]:
        pictures_in[...] = pictures
        request.infer()
        # Views of memory that the next call overwrites.
        return [each.copy() for each in values]

    return network


def _unexpected(name: str, shape: Sequence[int]) -> UserError:
    import openvino

    return UserError(
        f"expected a tensor '{name}' of shape {list(shape)} in MediaPipe's network, which OpenVINO {openvino.__version__} does not give; "
        "install a version of OpenVINO that handmesh was tested with"
    )
