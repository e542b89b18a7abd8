"""Reductions. Over an axis of units they are exact only where a masked position does not count, as 0 in a sum.

Sorting, ranking and running totals depend on where a position is: such an axis stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import rule
from sparsewood.structure.rules.normalization import MEAN, NORMALISED, SUM
from sparsewood.structure.tracer import Tracer

__all__ = ["MAXIMUM"]

aten = torch.ops.aten

MAXIMUM = "maximum over units"

OverUnits = Callable[[Tracer, Row, bool], None]
"""Notes what it means to reduce over a row, whose masked entries are 0 or not."""


def _axes(dim: Any, x: Tensor, out: Tensor) -> set[int]:
    """The axes that are reduced; no number means all of them."""
    if dim is None or (not isinstance(dim, int) and not len(dim) and out.dim() < x.dim()):
        return set(range(x.dim()))
    numbers: Iterable[int] = (dim,) if isinstance(dim, int) else dim
    return {number % x.dim() for number in numbers} if x.dim() else set()


def _reduce(t: Tracer, op: Op, dim: Any, over: OverUnits, *, zeros_make: tuple[bool, ...] = (True,)) -> None:
    """Drop the reduced axes; `zeros_make`: for each result, whether it is 0 where all that is reduced is."""
    x = op.args[0]
    results = list(tensors_in((op.out,)))
    rows, zero = list(t.rows(x)), t.zero(x)
    axes = _axes(dim, x, results[0])
    for axis in axes:
        if rows[axis] is not None:
            over(t, rows[axis], zero[axis])
            rows[axis] = None
    kept = [axis for axis in range(x.dim()) if results[0].dim() == x.dim() or axis not in axes]
    for result, zeros in zip(results, zeros_make, strict=True):
        flags = [zeros and rows[axis] is not None and zero[axis] for axis in kept]
        t.set(result, [rows[axis] for axis in kept], flags)


def _sum(t: Tracer, row: Row, zero: bool) -> None:
    if not zero:
        t.inexact(row, SUM)


def _mean(t: Tracer, row: Row, zero: bool) -> None:
    t.inexact(row, MEAN if zero else SUM)


def _kind(kind: str) -> OverUnits:
    return lambda t, row, _: t.inexact(row, kind)


def _stays(why: str) -> OverUnits:
    return lambda t, row, _: t.freeze(row, why)


def _register(ops: Iterable[Any], over: OverUnits, zeros_make: tuple[bool, ...] = (True,), default: Any = None) -> None:
    """Rules for operations whose second argument is `dim`."""

    def apply(t: Tracer, op: Op) -> None:
        _reduce(t, op, op.get("dim", 1, default), over, zeros_make=zeros_make)

    rule(*ops, family="reduction")(apply)


_ORDER = "its positions are put in order"
_register([aten.sum, aten.nansum, aten.any, aten.count_nonzero], _sum)
_register([aten.mean], _mean)
_register([aten.logsumexp], _kind(SUM), (False,))
_register([aten.var.correction, aten.std.correction], _kind(NORMALISED))
_register([aten.var_mean.correction, aten.std_mean.correction], _kind(NORMALISED), (True, True))
_register([aten.amax, aten.amin, aten.max.default, aten.min.default], _kind(MAXIMUM))
_register([aten.max.unary_out, aten.min.unary_out], _kind(MAXIMUM))
_register([aten.aminmax], _kind(MAXIMUM), (True, True))
_register([aten.prod, aten.all], _stays("product over it"))
_register([aten.argmax, aten.argmin], _stays("the result is a position of it"), (False,))
_register([aten.median.default, aten.nanmedian.default], _stays(_ORDER))
_register([aten.median.dim, aten.nanmedian.dim, aten.mode], _stays(_ORDER), (True, False), default=-1)


@rule(aten.max.dim, aten.max.dim_max, aten.min.dim, aten.min.dim_min, family="reduction")
def _extreme(t: Tracer, op: Op) -> None:
    """A maximum over units, and where it was: positions, which mean nothing once others are gone."""
    x, dim = op.args[0], op.args[1]
    _reduce(t, op, dim, _kind(MAXIMUM), zeros_make=(True, False))
    if x.dim():
        t.freeze_if_read(op.out[1], t.rows(x)[dim], "the result holds positions of it")


@rule(aten.kthvalue, family="reduction")
def _kth(t: Tracer, op: Op) -> None:
    """The axis is ordered and stays."""
    _reduce(t, op, op.get("dim", 2, -1), _stays(_ORDER), zeros_make=(True, False))


# ---------------------------------------------------------------- norms


def _norm_over(order: Any) -> OverUnits:
    """A sum of powers of absolute values, or their maximum: entries that are 0 do not count."""
    if order is None:
        order = 2
    if isinstance(order, str) or order < 0:
        return _kind(MAXIMUM)
    return _sum if order != float("inf") else lambda t, row, zero: None if zero else t.inexact(row, MAXIMUM)


@rule(aten.linalg_vector_norm, aten.norm, family="reduction")
def _norm(t: Tracer, op: Op) -> None:
    """A norm over axes; exact where masked entries are 0."""
    order = op.args[1] if len(op.args) > 1 else op.kwargs.get("ord", op.kwargs.get("p", 2))
    _reduce(t, op, op.get("dim", 2), _norm_over(order))


# ---------------------------------------------------------------- along an axis that is not dropped


def _along(t: Tracer, op: Op, *, position: int, why: str, zeros_make: tuple[bool, ...]) -> None:
    """The axis is worked on as a whole and stays; other axes keep their rows."""
    x = op.args[0]
    rows, zero = list(t.rows(x)), t.zero(x)
    if rows:
        dim = op.get("dim", position, -1)
        t.freeze(rows[dim], why)
        rows[dim] = None
    for result, zeros in zip(tensors_in((op.out,)), zeros_make, strict=True):
        t.set(result, rows, [zeros and flag for flag in zero])


_TOTAL = "running totals along it"
_ALONG: list[tuple[list[Any], int, str, tuple[bool, ...]]] = [
    ([aten.cumsum, aten.cumsum_, aten.cumprod, aten.cumprod_], 1, _TOTAL, (True,)),
    ([aten.logcumsumexp], 1, _TOTAL, (False,)),
    ([aten.cummax, aten.cummin], 1, _TOTAL, (True, False)),
    ([aten.sort], 1, _ORDER, (True, False)),
    ([aten.topk], 2, _ORDER, (True, False)),
]
for _ops, _position, _why, _zeros_make in _ALONG:
    rule(*_ops, family="reduction")(partial(_along, position=_position, why=_why, zeros_make=_zeros_make))
