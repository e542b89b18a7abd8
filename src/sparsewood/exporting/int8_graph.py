"""ONNX models with weights, and activations, of 8 bits: what onnxruntime's own quantisers make of them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsewood.errors import SparsewoodError
from sparsewood.exporting.int8_ranges import activation_names
from sparsewood.exporting.int8_sites import Site
from sparsewood.onnx_graph import LARGEST, nodes, package
from sparsewood.quantization.affine import affine_of

__all__ = ["Weights", "inferred", "quantized_dynamic", "quantized_static"]

_MULTIPLIED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSED = ("Concat", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Gather")
_STATIC = (*_MULTIPLIED, *_PASSED, "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators that may compute on, or pass on, integers. Normalisations, softmax and other functions stay in float32."""

_DYNAMIC = ("MatMul", "LSTM", "Gather")

_SPREAD = 1.0 / 1024
"""The scale of weights that are all zero: any represents them, and a bias is rounded in steps of it."""


@dataclass(frozen=True)
class Weights:
    """How weights become integers: a scale for each output or one, zero at 0 or not, 7 bits of 8 or all."""

    per_channel: bool
    symmetric: bool
    reduce_range: bool


def inferred(model: Any) -> Any:
    """A copy with the types and shapes of its tensors found anew; those that the exporter wrote can contradict them.

    Raises `SparsewoodError` for a model that is too large for one file, which is what onnx can work on.
    """
    onnx = package("onnx")
    size = sum(len(one.raw_data) for one in model.graph.initializer)
    if size > LARGEST:
        raise SparsewoodError(
            f"quantize_int8: the weights take {size:,} bytes in float32; onnx works on files of {LARGEST:,} at most. "
            "Shrink the network first, or quantise its parts one by one."
        )
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copied)


def quantized_static(
    model: Any,
    ranges: Mapping[str, tuple[float, float]],
    weights: Weights,
    *,
    symmetric_activations: bool,
    chosen: Sequence[Site],
    left: Sequence[Site],
) -> Any:
    """Weights of `chosen`, and the activations around them, in 8 bits, as pairs of QuantizeLinear and DequantizeLinear.

    Outputs of the network that a Gemm made stay in float32, and so do those of matrix products without a bias of their
    own: what is added to them is float32, and onnxruntime does both in one step.
    """
    tools = package("onnxruntime.quantization")
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = tools.QDQQuantizer(
        model,
        weights.per_channel,
        weights.reduce_range,
        tools.QuantType.QInt8,
        tools.QuantType.QInt8 if symmetric_activations else tools.QuantType.QUInt8,
        tools.TensorsData(tools.CalibrationMethod.MinMax, limits),
        [],
        _excluded(model, left, limits),
        list(_STATIC),
        {
            "WeightSymmetric": weights.symmetric,
            "ActivationSymmetric": symmetric_activations,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "TensorQuantOverrides": dict(_overrides(model, weights, chosen)),
        },
    )
    with _quiet():
        quantizer.quantize_model()
    found = quantizer.model.model
    _free_outputs(found)
    return found


def quantized_dynamic(model: Any, weights: Weights, *, left: Sequence[Site]) -> Any:
    """Weights in 8 bits; activations are quantised as they come by, each time for the range that they have."""
    onnx, tools = package("onnx"), package("onnxruntime.quantization")
    _turn(model)
    with tempfile.TemporaryDirectory() as directory, _quiet():
        path = Path(directory) / "int8.onnx"
        tools.quantize_dynamic(
            model,
            path,
            op_types_to_quantize=list(_DYNAMIC),
            per_channel=weights.per_channel,
            reduce_range=weights.reduce_range,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=[site.node for site in left],
            extra_options={"WeightSymmetric": weights.symmetric, "MatMulConstBOnly": True},
        )
        return onnx.load(path)


def _turn(model: Any) -> None:
    """Inputs first in the weight of every Gemm: onnxruntime's tool would turn one as often as there are Gemms of it."""
    numpy_helper = package("onnx").numpy_helper
    constants = {one.name: one for one in model.graph.initializer}
    turned: set[str] = set()
    for node in model.graph.node:
        settings = {one.name: one for one in node.attribute}
        weight = node.input[1] if node.op_type == "Gemm" and "transB" in settings and settings["transB"].i else ""
        if weight not in constants:
            continue
        if weight not in turned:
            values = numpy_helper.to_array(constants[weight]).T
            constants[weight].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), weight))
            turned.add(weight)
        settings["transB"].i = 0


def _excluded(model: Any, left: Sequence[Site], ranges: Mapping[str, object]) -> list[str]:
    """Nodes that stay in float32: what was left out, and what has no range; sums and joins with constants, which would
    become 8-bit numbers; sums for softmax, in which the masks of attention are far below all else."""
    constants = {one.name for one in model.graph.initializer}
    for_softmax = {name for node in model.graph.node if node.op_type == "Softmax" for name in node.input}
    unbounded = set(activation_names(model)) - ranges.keys()
    found = [site.node for site in left]
    for node in model.graph.node:
        reads_constant = node.op_type in ("Add", "Concat") and constants.intersection(node.input)
        masks = node.op_type == "Add" and for_softmax.intersection(node.output)
        if reads_constant or masks or unbounded.intersection((*node.input, *node.output)):
            found.append(node.name)
    return found


def _overrides(model: Any, weights: Weights, chosen: Sequence[Site]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Scales of weights in which something is all zeros.

    onnxruntime gives that the scale 1, in whose steps it then rounds the bias: that of a channel which pruning removed
    and BatchNorm left a constant would be lost.
    """
    onnx, tools = package("onnx"), package("onnxruntime.quantization")
    values = {one.name: one for one in model.graph.initializer}
    bits = 7 if weights.reduce_range else 8
    for site in chosen:
        axis = site.axis if weights.per_channel else None
        weight = torch.from_numpy(onnx.numpy_helper.to_array(values[site.weight]).copy())
        rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
        empty = ~rows.any(1)
        if site.operator == "Gather" or not bool(empty.any()):
            continue
        affine = affine_of(weight, bits=bits, symmetric=weights.symmetric, axis=axis)
        scale, zero_point = affine.scale.reshape(-1), affine.zero_point.reshape(-1)
        scale = scale.where(~empty, scale[~empty].max() if bool((~empty).any()) else scale.new_tensor(_SPREAD))
        place = {} if axis is None else {"axis": axis}
        yield (
            site.weight,
            [
                {"scale": np.float32(s), "zero_point": np.int8(z), "quant_type": tools.QuantType.QInt8, **place}
                for s, z in zip(scale.tolist(), zero_point.tolist(), strict=True)
            ],
        )


def _free_outputs(model: Any) -> None:
    """Take away the rounding of outputs that a Gemm made: it can leave them in float32, other operators cannot."""
    graph = model.graph
    for output in graph.output:
        producers = {name: node for node in graph.node for name in node.output}
        last = producers.get(output.name)
        if last is None or last.op_type != "DequantizeLinear":
            continue
        first = producers.get(last.input[0])
        readers = [node for node in graph.node if last.input[0] in node.input]
        others = [node for node in graph.node if output.name in node.input]
        if first is None or first.op_type != "QuantizeLinear" or len(readers) > 1 or others:
            continue
        source = first.input[0]
        made_by_gemm = source in producers and producers[source].op_type == "Gemm"
        if not made_by_gemm or sum(source in node.input for node in graph.node) > 1:
            continue
        producers[source].output[list(producers[source].output).index(source)] = output.name
        graph.node.remove(first)
        graph.node.remove(last)
    read = {name for node in nodes(graph) for name in node.input} | {output.name for output in graph.output}
    for constant in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(constant)  # onnxruntime would warn of it


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime logs advice on the root logger, such as to run what was run already, and gives that a handler."""
    logger = logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
