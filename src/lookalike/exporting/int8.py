"""Eight-bit weights and activations, by onnxruntime's static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

# Where everything between convolutions is eight bits as well, they follow each other without
# going back to floats. Not in transformers, whose sums along the depth have a few huge values.
_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_BETWEEN = ["Add", "Relu", "Clip"]


class _Batches(CalibrationDataReader):
    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self._name = name
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def quantise(
    network: ModelProto, batches: Iterable[np.ndarray], *, convolutional: bool
) -> ModelProto:
    """The network in eight bits: weights for each channel, activations by the extremes seen.

    Products of two activations (attention) and everything that is no product stay in floats.

    Args:
        network: one input -> `embedding`.
        batches: what the input takes.
        convolutional: whether the network is mainly convolutions.
    """
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder, _hushed():
        source, prepared, result = (Path(folder) / f"{name}.onnx" for name in "abc")
        source.write_bytes(network.SerializeToString())
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(result),
            _Batches(network.graph.input[0].name, batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_PRODUCTS + (_BETWEEN if convolutional else []),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(str(result))


@contextmanager
def _hushed() -> Iterator[None]:
    """It advises on the root logger, and what it advises is done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
