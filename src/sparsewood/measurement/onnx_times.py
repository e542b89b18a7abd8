"""How long layers and networks take in onnxruntime: graphs of one node each, and exported networks.

Needs the packages onnx and onnxruntime, and onnxscript for networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs
from sparsewood.measurement.layer_times import Convolution, Layer, Product, best_of, clock_for
from sparsewood.onnx_graph import feeds, package, session, to_onnx

__all__ = ["in_onnxruntime", "time_in_onnxruntime", "versions"]

_OPSET = 18
_IR_VERSION = 10
"""Versions of the format that every onnxruntime of the last years reads."""


def versions() -> dict[str, str]:
    """The versions that times depend on."""
    return {"onnxruntime": package("onnxruntime").__version__}


def time_in_onnxruntime(layer: Layer, sizes: tuple[int, ...]) -> float:
    """Seconds that onnxruntime takes on the CPU for a layer of these sizes: the best of a few repeats."""
    _, tensors = layer.build(sizes)
    arrays = [_array(layer, tensor) for tensor in tensors]
    operator, settings, constant = _node(layer, sizes)
    onnx = package("onnx")
    names = [f"input{i}" for i in range(len(arrays))]
    given = dict(zip(names[:1] if constant else names, arrays, strict=False))
    kind = onnx.helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, ["output"], **settings)],
        "layer",
        [onnx.helper.make_tensor_value_info(name, kind, array.shape) for name, array in given.items()],
        [onnx.helper.make_tensor_value_info("output", kind, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in zip(names, arrays, strict=True) if n not in given],
    )
    versions = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=versions, ir_version=_IR_VERSION)
    running = session(model)
    return best_of(lambda: running.run(None, given), clock=clock_for(torch.device("cpu")))


def in_onnxruntime(model: nn.Module, example_inputs: Inputs) -> Callable[[], object]:
    """What runs `model(example_inputs)`, in eval mode, in onnxruntime on the CPU, once each time that it is called.

    Raises `SparsewoodError` if PyTorch cannot export the network.
    """
    try:
        running = session(to_onnx(model, example_inputs))
    except SparsewoodError as error:
        raise SparsewoodError(
            f"{error} A latency in onnxruntime cannot be predicted for it; use the latency in PyTorch."
        ) from error
    given = feeds(running, example_inputs)
    return lambda: running.run(None, given)


def _node(layer: Layer, sizes: tuple[int, ...]) -> tuple[str, dict[str, Any], bool]:
    """The operator, its settings, and whether all but its first operand are constants."""
    if isinstance(layer, Convolution):
        settings = {
            "kernel_shape": layer.kernel,
            "strides": layer.stride,
            "pads": layer.padding * 2,
            "dilations": layer.dilation,
            "group": layer.widths(sizes)[0],
        }
        return "ConvTranspose" if layer.transposed else "Conv", settings, True
    if isinstance(layer, Product) and layer.linear:
        return "Gemm", {"transB": 1}, True
    return "MatMul", {}, len(sizes) == 3


def _array(layer: Layer, tensor: Tensor) -> np.ndarray:
    if tensor.dtype not in (torch.float32, torch.float16, torch.float64):
        raise SparsewoodError(f"onnxruntime times layers in float32, float16 and float64. Got {tensor.dtype}: {layer}.")
    return np.ascontiguousarray(tensor.cpu().numpy())
