"""ONNX models: our preprocessing graph, the network by torch's exporter, quantisation to int8."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, compose
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from lookalike.data.image_size import height_width
from lookalike.errors import ExportError
from lookalike.exporting.network import Network, TensorNetwork, in_precision
from lookalike.exporting.onnx_preprocess import OPSET, preprocessing_graph
from lookalike.model.embedder import Embedder

_LARGEST = 2**31 - 2**20  # bytes: a protobuf message holds 2^31 - 1; the rest is for our graph


def build(
    embedder: Embedder,
    precision: str,
    calibration: Iterable[np.ndarray] | None = None,
    input: str = "picture",
) -> ModelProto:
    """The model as ONNX, any batch B -> `embedding` (B, D) float32.

    Args:
        embedder: on the CPU.
        precision: fp32, fp16 or int8.
        input: picture: `images` (B, H, W, 3) uint8, any H and W; tensor: `tensor` (B, 3, H, W)
            float32 of the model's size, normalised: the network alone.
        calibration: for int8, batches (b, 3, S, S) uint8 of preprocessed images, whose
            activations set the ranges.

    Raises:
        ExportError: torch cannot export this network, or it exceeds what one ONNX file can hold.
    """
    network = network_graph(in_precision(embedder, precision), input)
    if network.ByteSize() > _LARGEST:
        raise ExportError(
            f"the model takes {network.ByteSize() / 1e9:.1f} GB and an ONNX file holds "
            f"{_LARGEST / 1e9:.1f}; use --format torch_export"
        )
    if precision == "int8":
        assert calibration is not None
        convolutional = embedder.backbone.is_convolutional
        if input == "tensor":
            normalise = embedder.preprocess.normalise
            calibration = (normalise(torch.from_numpy(batch)).numpy() for batch in calibration)
        network = _quantise(network, calibration, convolutional=convolutional)
    if input == "tensor":
        onnx.checker.check_model(network, full_check=True)
        return network
    pixels = preprocessing_graph(embedder.preprocess, network.ir_version)
    # The names of ours must not meet those of torch's.
    pixels = compose.add_prefix(pixels, "preprocess/", rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(pixels, network, io_map=[("pixels", "pixels")])
    onnx.checker.check_model(merged, full_check=True)
    return merged


def network_graph(embedder: Embedder, input: str = "picture") -> ModelProto:
    """The network alone -> `embedding` (B, D) float32.

    Its input is `pixels` (B, 3, H, W) uint8, or `tensor`, the same as normalised float32.

    Raises:
        ExportError: torch cannot export this network.
    """
    size = height_width(embedder.preprocess.image_size)
    tensor = input == "tensor"
    name = "tensor" if tensor else "pixels"
    network = TensorNetwork(embedder) if tensor else Network(embedder)
    example = torch.zeros(2, 3, *size, dtype=torch.float32 if tensor else torch.uint8)
    try:
        with _hushed():
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                input_names=[name],
                output_names=["embedding"],
                dynamic_shapes={name: {0: torch.export.Dim("batch")}},
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # its errors have no common base
        raise ExportError(
            f"torch cannot export {embedder.backbone.name} to ONNX: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}"
        ) from error
    assert program is not None
    model = program.model_proto
    # torch notes the stack of each node: file paths and source lines of the machine that exports.
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            del node.metadata_props[:]
    return model


def save(model: ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the model with `metadata` as its metadata_props."""
    named = ModelProto()
    named.CopyFrom(model)
    onnx.helper.set_model_props(named, dict(metadata))
    path.write_bytes(named.SerializeToString())


# With eight bits between convolutions too, they follow each other without floats. Not in
# transformers, whose sums along the depth have a few huge values.
_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_BETWEEN = ["Add", "Relu", "Clip"]


class _Batches(CalibrationDataReader):
    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self._name = name
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _quantise(
    network: ModelProto, batches: Iterable[np.ndarray], *, convolutional: bool
) -> ModelProto:
    """Static quantisation by onnxruntime: weights per channel, activations by the extremes of
    `batches`; products of two activations (attention) and all but products stay in floats.
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
    """Silence of torch.onnx and onnxruntime about their own parts, and on the root logger."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
