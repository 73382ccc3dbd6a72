"""int8 by post-training quantisation (NNCF)."""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np


def quantize(model: Any, crops: np.ndarray) -> Any:
    """A copy of an `openvino.Model` whose dense convolutions are computed in int8.

    They are where the work is. Everything else stays as it was, because it costs accuracy and saves no time: depthwise convolutions, sums,
    the pieces of GELU, the keypoint head's softmax and products, the layers of its MLP. Ranges come from histograms of activations, because
    single large values would stretch them (docs/deploy.md has the numbers).

    Args:
        crops: (N, S, S, 3) uint8, whose activations give the ranges.
    """
    # Its import of torch's compiler says on the log that there is no CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # Its own function would also set whatever handlers others have put there.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    others = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() != "Convolution"]
    # It draws progress bars on the standard output, which is for results.
    with redirect_stdout(StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset([crop[None] for crop in crops]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(crops),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
            ),
        )
