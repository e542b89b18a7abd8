"""Result shapes of operations whose own shape functions are slow: on meta tensors these take most of a trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["SHORTCUTS"]

_aten = torch.ops.aten


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _vector(size: int, tensor: Tensor) -> Tensor:
    return torch.empty_strided((size,), (1,), dtype=tensor.dtype, device="meta")


def _batch_norm(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    training = others[4]
    size = x.shape[1] if training else 0
    return _like(x), _vector(size, x), _vector(size, x)


def _layer_norm(x: Tensor, normalized_shape: Any, *_: Any) -> tuple[Tensor, ...]:
    lead = (*x.shape[: x.dim() - len(normalized_shape)], *(1 for _ in normalized_shape))
    statistic = torch.empty(lead, dtype=x.dtype, device="meta")
    return _like(x), statistic, _like(statistic)


def _group_norm(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    n, groups = others[2], others[5]
    statistic = torch.empty((n, groups), dtype=x.dtype, device="meta")
    return _like(x), statistic, _like(statistic)


def _grouped_mm(left: Tensor, right: Tensor, *_: Any, **others: Any) -> Tensor:
    if left.dim() == 2 and right.dim() == 3:
        return torch.empty((left.shape[0], right.shape[2]), dtype=left.dtype, device="meta")
    return _aten._grouped_mm.default(left, right, *_, **others)


SHORTCUTS: dict[Any, Any] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_group_norm.default: _group_norm,
}
if hasattr(_aten, "_grouped_mm"):  # not in older versions; its own shape function knows one precision only
    SHORTCUTS[_aten._grouped_mm.default] = _grouped_mm
