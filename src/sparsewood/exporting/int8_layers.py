"""Which layers of a network are held and computed in 8 bits: read from the finished model, not from what was asked."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.exporting.int8_sites import Site
from sparsewood.onnx_graph import package
from sparsewood.parameters import NORMS

__all__ = ["Found", "Int8Layer", "kernels", "left_layer", "other_layers", "quantized_layer"]

_STEPS = 0.5 + 1e-3
"""How far a weight may be from its integer, in steps: half of one, and the rounding of float32."""


@dataclass(frozen=True, eq=False)
class Int8Layer:
    """One weight of a network, or a layer without one that could be quantised.

    Attributes:
        name: the parameter's name, or that of the layer.
        operator: as ONNX calls it ("Conv", "Gemm", "MatMul" ...), or the module's class.
        quantized: whether the file holds its weight as integers of 8 bits.
        reason: why not; "" if it is.
        kernel: the operation that onnxruntime runs on it, such as "QLinearConv".
        integers: the weight as it is in the file, int8 or uint8, in PyTorch's order of axes; None if it is not
            quantised.
        scale, zero_point: one, or one for each output: weight = (integers - zero_point) * scale.
        axis: of `integers` that of the scales; None if there is one scale.
        bytes_before, bytes_after: of the weight, with its scales and zero points.
    """

    name: str
    operator: str
    quantized: bool
    reason: str
    kernel: str
    integers: Tensor | None
    scale: Tensor | None
    zero_point: Tensor | None
    axis: int | None
    bytes_before: int
    bytes_after: int

    @property
    def scheme(self) -> str:
        """Such as "int8 per channel" or "uint8 per tensor, zero at 128"; "float32" if it is not quantised."""
        if self.integers is None or self.zero_point is None:
            return "float32"
        kind = str(self.integers.dtype).removeprefix("torch.")
        if self.axis is not None:
            return f"{kind} per channel"
        zero = int(self.zero_point)
        return f"{kind} per tensor" + (f", zero at {zero}" if zero else "")

    @property
    def values(self) -> int:
        """How many different integers there are, of channels with scales of their own the most of any; 0 if none."""
        if self.integers is None:
            return 0
        rows = self.integers.reshape(1, -1) if self.axis is None else self.integers.movedim(self.axis, 0).flatten(1)
        return max(int(row.unique().numel()) for row in rows)

    @property
    def weight(self) -> Tensor | None:
        """The float32 weight that the integers stand for."""
        if self.integers is None or self.scale is None or self.zero_point is None:
            return None
        scale, zero_point = (_spread(one, self.axis, self.integers) for one in (self.scale, self.zero_point.float()))
        return (self.integers.float() - zero_point) * scale


@dataclass(frozen=True, eq=False)
class Found:
    """A finished model: by name its constants, what onnxruntime runs on each, and whether Gemms became MatMuls."""

    constants: Mapping[str, Any]
    kernels: Mapping[str, str]
    turned: bool


def kernels(model: Any) -> dict[str, str]:
    """By constant what onnxruntime runs on it once it has put the model's steps together.

    A constant that is made float32 first has the operation on the result, with the word "float32".
    """
    onnx, runtime = package("onnx"), package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        options.optimized_model_filepath = str(path)
        runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(path).graph
    made = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, str] = {}
    for node in graph.node:
        for name in node.input if node.op_type != "DequantizeLinear" else ():
            if name in made:
                found.setdefault(made[name], f"{node.op_type} in float32")
            else:
                found[name] = node.op_type
    return found


def quantized_layer(site: Site, before: Any, found: Found) -> Int8Layer | None:
    """The row of a weight whose integers are in the finished model; None if they are not there.

    Raises `SparsewoodError` if the integers do not stand for the weight.
    """
    held = found.constants.get(f"{site.weight}_quantized")
    numpy_helper, kind = package("onnx").numpy_helper, package("onnx").TensorProto
    if held is None or held.data_type not in (kind.INT8, kind.UINT8):
        return None
    parts = (numpy_helper.to_array(found.constants[f"{site.weight}_{part}"]) for part in ("scale", "zero_point"))
    scale, zero_point = (torch.from_numpy(part.copy()).reshape(-1) for part in parts)
    held_beside = sum(one.numel() * one.element_size() for one in (scale, zero_point))
    integers = _as_in_torch(site, _array(held), turned=found.turned or site.operator == "LSTM")
    if site.operator == "LSTM" and scale.numel() > 1:  # it can have one for each direction
        scale, zero_point = (one.repeat_interleave(len(integers) // len(one)) for one in (scale, zero_point))
    axis = None if scale.numel() == 1 else 1 if site.operator == "ConvTranspose" else 0
    row = Int8Layer(
        name=site.name,
        operator=site.operator,
        quantized=True,
        reason="",
        kernel=found.kernels.get(held.name, "nothing"),
        integers=integers,
        scale=scale if axis is not None else scale[0],
        zero_point=zero_point if axis is not None else zero_point[0],
        axis=axis,
        bytes_before=4 * integers.numel(),
        bytes_after=integers.numel() + held_beside,
    )
    _require_right(row, _as_in_torch(site, _array(before), turned=False))
    return row


def left_layer(site: Site, before: Any, found: Found, reason: str) -> Int8Layer:
    """The row of a weight that stays in float32."""
    size = 4 * math.prod(before.dims)
    kernel = found.kernels.get(site.weight, site.operator)
    return _plain(site.name, site.operator, reason, kernel, size)


def other_layers(network: nn.Module, listed: Sequence[Site], reasons: Mapping[str, str]) -> list[Int8Layer]:
    """Rows for the modules with parameters in which no weight is multiplied or looked up; `reasons` by module name."""
    seen = {name.rpartition(".")[0] for site in listed for name in (*site.parameters, *site.name.split(" and "))}
    seen |= {site.module for site in listed}
    rows = []
    for name, module in network.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.is_floating_point()]
        if (not own and name not in reasons) or name in seen:
            continue
        reason = reasons.get(name, _why_none(module))
        size = sum(p.numel() * p.element_size() for p in own)
        kind = type(module).__name__
        rows.append(_plain(name or kind, kind, reason, kind, size))
    return rows


def _why_none(module: nn.Module) -> str:
    if isinstance(module, NORMS):
        return "normalisations are computed in float32"
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase | nn.Embedding):
        return "no step of the exported network has its weight for a constant"
    return "it has no weight of a convolution or matrix product"


def _plain(name: str, operator: str, reason: str, kernel: str, size: int) -> Int8Layer:
    return Int8Layer(name, operator, False, reason, kernel, None, None, None, None, size, size)


def _array(constant: Any) -> Tensor:
    return torch.from_numpy(package("onnx").numpy_helper.to_array(constant).copy())


def _as_in_torch(site: Site, tensor: Tensor, *, turned: bool) -> Tensor:
    """A constant of the graph with the outputs on the first axis, where it is a matrix or an LSTM's.

    `turned`: inputs and outputs have changed places since the float32 model.
    """
    if site.operator == "LSTM":
        return (tensor.transpose(1, 2) if turned else tensor).flatten(0, 1)
    if site.operator == "Gemm":
        return tensor if site.transposed and not turned else tensor.T
    return tensor.T if site.operator == "MatMul" and site.axis == 1 else tensor


def _require_right(row: Int8Layer, weight: Tensor) -> None:
    made = row.weight
    assert made is not None
    assert row.scale is not None
    off = float(((made - weight) / _spread(row.scale, row.axis, weight)).abs().max())
    zeros = bool((made[weight == 0] == 0).all())
    if not off <= _STEPS or not zeros:
        what = f"up to {off:.3g} steps off" if zeros else "not zero where the weight is"
        raise SparsewoodError(
            f"quantize_int8: the integers of {row.name!r} are {what}; at most half a step is expected. Leave it out "
            f"with exclude=[{row.name!r}], and check the version of onnxruntime."
        )


def _spread(values: Tensor, axis: int | None, like: Tensor) -> Tensor:
    shape = [1] * like.ndim
    if axis is not None:
        shape[axis] = -1
    return values.reshape(shape)
