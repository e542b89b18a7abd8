"""Scaled dot-product attention: heads go together, and so do the head dimensions of queries and keys.

Most calls are seen as Python makes them; the fused operations are what is left of calls from PyTorch's own functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.labels import Row
from sparsewood.structure.rules import function_rule, rule

if TYPE_CHECKING:
    from sparsewood.structure.log import Op
    from sparsewood.structure.tracer import Tracer

__all__: list[str] = []

aten = torch.ops.aten


@function_rule(functional.scaled_dot_product_attention)
def _attention_function(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Attention as a forward calls it."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    given = {name: t.stand_in(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    query, key, value = given["query"], given["key"], given["value"]
    operands = list(tensors_in((query, key, value, given.get("attn_mask"))))
    if all(t.is_constant(tensor) for tensor in operands):
        return function(*args, **kwargs)
    if t.real or not any(tensor.is_meta for tensor in operands):
        with torch._C._DisableTorchDispatch():
            out = function(**given)
    else:
        out = _without_values(query, key, value)
    t.begin_step()
    t.set(out, *_attend(t, operands, given.get("scale")))
    t.end_step(operands, [out], family="contraction")
    return out


def _without_values(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The result on meta tensors, in memory as fused attention lays it out: heads beside head dimensions."""
    lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    shape = (*lead, *query.shape[-3:-1], value.shape[-1])
    if query.dim() < 3 or len(shape) != 4 or query.shape[-1] != value.shape[-1]:
        return torch.empty(shape, dtype=query.dtype, device="meta")
    batch, heads, tokens, width = shape
    return torch.empty((batch, tokens, heads, width), dtype=query.dtype, device="meta").transpose(1, 2)


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
    aten._scaled_dot_product_attention_math.default,
    aten._scaled_dot_product_attention_math_for_mps.default,
    family="contraction",
)
def _fused_attention(t: Tracer, op: Op) -> None:
    """Attention as PyTorch's own functions call it; what it keeps for the backward pass has no owner."""
    out, *kept = tensors_in((op.out,))
    t.set(out, *_attend(t, list(tensors_in((op.args, op.kwargs))), op.kwargs.get("scale")))
    for tensor in kept:
        t.set(tensor, (None,) * tensor.dim())


@rule(aten._native_multi_head_attention, aten._transformer_encoder_layer_fwd, family="contraction")
def _fast_path(t: Tracer, op: Op) -> None:
    """Whole layers in one operation, which tracing switches off."""
    t.barrier(tensors_in((op.args, op.kwargs)), "it is a transformer layer in one operation")
    for tensor in tensors_in((op.out,)):
        t.set(tensor, (None,) * tensor.dim())


def _attend(t: Tracer, operands: Sequence[Tensor], scale: float | None) -> tuple[list[Row], list[bool]]:
    """The rows of the result [..., heads, tokens of the query, width of the value], and where it is zero.

    The operands are query, key, value and, if there are any, masks.
    """
    query, key, value, *masks = operands
    width = t.unite(t.rows(query)[-1], t.rows(key)[-1])
    if not (t.zero(query)[-1] or t.zero(key)[-1]):
        t.inexact(width, "sum of non-zero entries")
    if scale is None:
        t.inexact(width, "attention scale")
    places = [t.rows(tensor)[-2] for tensor in (query, key, value)]
    for row in (*places, *(row for mask in masks for row in t.rows(mask)[-2:])):
        t.freeze(row, "it is a place in a sequence")
    lead = max(tensor.dim() for tensor in (query, key, value)) - 2
    batch = [_batch_axis(t, operands, axis) for axis in range(-lead - 2, -2)]
    made, made_zero = t.rows(value)[-1], t.zero(value)[-1]
    tokens = [(query.shape[-2], None), (key.shape[-2], None)]
    sizes = [(size, row) for size, row, _ in batch]
    t.cost(*sizes, *tokens, (query.shape[-1], width))
    t.cost(*sizes, *tokens, (value.shape[-1], made))
    return [*(row for _, row, _ in batch), None, made], [*(zero for _, _, zero in batch), False, made_zero]


def _batch_axis(t: Tracer, operands: Sequence[Tensor], axis: int) -> tuple[int, Row, bool]:
    """Size, row and zeros of the result's `axis` (from the end), in which heads or examples stand.

    Fewer heads of keys and values than of queries serve equal runs of them, which then go together.
    """
    present = [tensor for tensor in operands if tensor.dim() >= -axis]
    size = max(tensor.shape[axis] for tensor in present)
    rows = []
    for tensor in present:
        row, own = t.rows(tensor)[axis], tensor.shape[axis]
        if own == 1 < size:
            t.freeze(row, "it is the only position of its axis")
        else:
            rows.append(row if row is None or own == size else np.repeat(row, size // own))
    row = t.unite(*rows)
    t.heads(row)
    value = operands[2]
    return size, row, value.dim() >= -axis and value.shape[axis] == size and t.zero(value)[axis]
