"""Result shapes of operations whose own shape functions are slow: on meta tensors these take most of a trace."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["SHORTCUTS"]

_aten = torch.ops.aten


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _require(fits: bool, *tensors: Tensor) -> None:
    if not fits:
        raise RuntimeError(f"sizes that do not fit: {', '.join(str(list(tensor.shape)) for tensor in tensors)}")


def _vector(size: int, tensor: Tensor) -> Tensor:
    return torch.empty_strided((size,), (1,), dtype=tensor.dtype, device="meta")


def _batch_norm(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    given = [one for one in others[:4] if one is not None]
    _require(all(one.shape[0] == x.shape[1] for one in given), x, *given)
    training = others[4]
    size = x.shape[1] if training else 0
    return _like(x), _vector(size, x), _vector(size, x)


def _layer_norm(x: Tensor, normalized_shape: Any, *_: Any) -> tuple[Tensor, ...]:
    _require(list(x.shape[x.dim() - len(normalized_shape) :]) == list(normalized_shape), x)
    lead = (*x.shape[: x.dim() - len(normalized_shape)], *(1 for _ in normalized_shape))
    statistic = torch.empty(lead, dtype=x.dtype, device="meta")
    return _like(x), statistic, _like(statistic)


def _group_norm(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    n, groups = others[2], others[5]
    statistic = torch.empty((n, groups), dtype=x.dtype, device="meta")
    return _like(x), statistic, _like(statistic)


def _mm(left: Tensor, right: Tensor) -> Tensor:
    _require(left.shape[1] == right.shape[0], left, right)
    return torch.empty((left.shape[0], right.shape[1]), dtype=left.dtype, device="meta")


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor:
    _require(bias.shape[-1] in (1, right.shape[1]), bias, right)
    return _mm(left, right)


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    _require(left.shape[0] == right.shape[0] and left.shape[2] == right.shape[1], left, right)
    return torch.empty((left.shape[0], left.shape[1], right.shape[2]), dtype=left.dtype, device="meta")


def _convolution(x: Tensor, weight: Tensor, bias: Any, *others: Any) -> Tensor:
    stride, padding, dilation, transposed, _, groups = others
    kernel, space = weight.shape[2:], x.shape[2:]
    if transposed or len(x.shape) != len(weight.shape):
        return _aten.convolution.default(x, weight, bias, *others)
    _require(x.shape[1] == weight.shape[1] * groups, x, weight)
    out = [
        (size + 2 * _of(padding, i) - _of(dilation, i) * (kernel[i] - 1) - 1) // _of(stride, i) + 1
        for i, size in enumerate(space)
    ]
    _require(min(out) > 0, x, weight)
    return torch.empty((x.shape[0], weight.shape[0], *out), dtype=x.dtype, device="meta")


def _cat(tensors: Any, dim: int = 0) -> Tensor:
    first = tensors[0]
    alike = all(one.dim() == first.dim() and one.dtype == first.dtype for one in tensors)
    if not alike or not first.dim():
        return _aten.cat.default(tensors, dim)
    dim %= first.dim()
    shape = list(first.shape)
    _require(all(size == one.shape[i] for one in tensors for i, size in enumerate(shape) if i != dim), *tensors)
    shape[dim] = sum(one.shape[dim] for one in tensors)
    return torch.empty(shape, dtype=first.dtype, device="meta")


def _unary(func: Any, x: Tensor, *others: Any, **named: Any) -> Tensor:
    return _like(x) if x.is_floating_point() and x.is_contiguous() else func(x, *others, **named)


def _in_place(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _of(values: Any, axis: int) -> int:
    return values[axis if len(values) > 1 else 0]


def _grouped_mm(left: Tensor, right: Tensor, *_: Any, **others: Any) -> Tensor:
    if left.dim() == 2 and right.dim() == 3:
        return torch.empty((left.shape[0], right.shape[2]), dtype=left.dtype, device="meta")
    return _aten._grouped_mm.default(left, right, *_, **others)


SHORTCUTS: dict[Any, Any] = {
    _aten.cat.default: _cat,
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_group_norm.default: _group_norm,
}
for _name in ["relu", "silu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "gelu"]:
    SHORTCUTS[getattr(_aten, _name).default] = partial(_unary, getattr(_aten, _name).default)
    SHORTCUTS[getattr(_aten, f"{_name}_").default] = _in_place
if hasattr(_aten, "_grouped_mm"):  # not in older versions; its own shape function knows one precision only
    SHORTCUTS[_aten._grouped_mm.default] = _grouped_mm
