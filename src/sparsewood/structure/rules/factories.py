"""Tensors made in the shape of others, and values drawn or filled in place.

What is made like a tensor has its rows: the values are alike at all positions, so that a removed one is not missed.
So can what is made in sizes that are known to shrink: those of other axes, or attributes of a module. Other sizes are
numbers, and nobody owns their axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsewood.structure.asked import record, sizes_of
from sparsewood.structure.axes import tensors_in
from sparsewood.structure.expressions import Expression, Size
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import function_rule, rule
from sparsewood.structure.rules.pointwise import broadcast, present
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import expression_of

__all__: list[str] = []

aten = torch.ops.aten


def _uniformly(t: Tracer, op: Op, *, zero: bool) -> None:
    """The result has the rows of the first operand and values that do not depend on the position."""
    rows = t.rows(op.args[0])
    t.set(op.out, rows, (zero,) * len(rows))


@rule(*present("empty_like ones_like rand_like randn_like randint_like"), family="constant")
def _like(t: Tracer, op: Op) -> None:
    """Made in the shape of the operand: its positions go with the operand's."""
    _uniformly(t, op, zero=False)


@rule(*present("uniform_ normal_ random_ exponential_ cauchy_ geometric_ log_normal_"), family="constant")
def _drawn(t: Tracer, op: Op) -> None:
    """The values are drawn anew, position by position."""
    _uniformly(t, op, zero=False)


@rule(aten.zeros_like, aten.zero_, aten.zero, family="constant")
def _zeros(t: Tracer, op: Op) -> None:
    """0 everywhere, in the shape of the operand."""
    _uniformly(t, op, zero=True)


@rule(aten.full_like, aten.fill, aten.fill_, family="constant")
def _filled(t: Tracer, op: Op) -> None:
    """One value everywhere, in the shape of the operand."""
    _uniformly(t, op, zero=_is_plain_zero(op.args[1] if len(op.args) > 1 else next(iter(op.kwargs.values()))))


def _is_plain_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


@rule(*present("new_empty new_empty_strided new_full new_ones new_zeros"), family="constant")
def _new(t: Tracer, op: Op) -> None:
    """The sizes are numbers: nobody owns the result, except inside dropout, which draws once for each channel."""
    x, out = op.args[0], op.out
    rows: list[Any] = [None] * out.dim()
    if t.calls and "dropout" in t.calls[-1].name:
        rows[:2] = t.rows(x)[:2]
    t.set(out, rows)


@function_rule(
    *(getattr(torch, name) for name in ("zeros", "ones", "empty", "full")),
    *(getattr(Tensor, name) for name in ("new_zeros", "new_ones", "new_empty", "new_full")),
)
def _made(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A constant, such as the first state of a recurrent layer, whose axes are as long as others."""
    out = function(*args, **kwargs)
    call = t.calls[-1]
    asked = sizes_of(call, int(call.name.startswith("new_")), "size")
    known = [expression_of(value, t.sizes) for value in asked]
    if len(known) != out.dim() or not any(expression is not None for expression in known):
        return out
    with torch._C.DisableTorchFunction():
        rows = [_row(t, expression, size) for expression, size in zip(known, out.shape, strict=True)]
        t.attach(out, rows, zero=call.name.endswith("zeros"))
    return out


def _row(t: Tracer, expression: Expression | None, size: int) -> Row:
    if expression is None or size < 2:
        return None
    if isinstance(expression, Size):
        return expression.row
    row = t.fresh(size)
    record(t, row, size, expression)
    return row


# ---------------------------------------------------------------- drawn with probabilities


@rule(aten.bernoulli, aten.poisson, aten.binomial, aten.normal, aten.bernoulli_, family="constant")
def _sampled(t: Tracer, op: Op) -> None:
    """Drawn position by position, with the operands (where they are tensors) as probabilities, means or widths."""
    t.set(op.out, broadcast(t, list(tensors_in((op.args,))), op.out.shape))


@rule(*present("native_dropout _fused_dropout"), family="pointwise")
def _dropout(t: Tracer, op: Op) -> None:
    """The operand times a mask that is drawn for it."""
    x = op.args[0]
    out, mask = op.out
    t.set(out, t.rows(x), t.zero(x))
    t.set(mask, t.rows(x))
