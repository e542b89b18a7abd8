"""Normalisations: affine parameters and running statistics belong to the axis that they scale.

An axis that statistics are taken over may lose positions, but not exactly: a masked position still counts in the mean
and the variance, a removed one does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import function_rule, rule
from sparsewood.structure.rules.pointwise import NOT_FINITE, present
from sparsewood.structure.tracer import Tracer

__all__ = ["MEAN", "NORMALISED", "SUM"]

aten = torch.ops.aten

NORMALISED = "normalised over units"
MEAN = "mean over units"
SUM = "sum of non-zero entries"


def _affine_is_zero(t: Tracer, weight: Tensor | None, bias: Tensor | None, axis: int, core: bool) -> bool:
    """Whether `weight * x + bias` is 0 at masked positions, if x is for `core`."""
    scaled = core or (weight is not None and t.zero(weight)[axis])
    return scaled and (bias is None or t.zero(bias)[axis])


def _statistics(t: Tracer, results: Iterable[Tensor], row: Row) -> None:
    """The further results of a batch normalisation: one value for each channel, or none."""
    for result in results:
        fits = row is not None and tuple(result.shape) == (len(row),)
        t.set(result, (row,) if fits else (None,) * result.dim())


_BATCH_NORMS = """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional
    cudnn_batch_norm miopen_batch_norm _batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update
"""


@rule(*present(_BATCH_NORMS), family="normalization")
def _batch_norm(t: Tracer, op: Op) -> None:
    """The channels (axis 1) are united with weight, bias and running statistics; other axes are averaged over."""
    x, weight, bias = op.args[0], op.get("weight", 1), op.get("bias", 2)
    vectors = [value for value in (*op.args[1:], *op.kwargs.values()) if isinstance(value, Tensor)]
    from_batch = "with_update" in str(op.func) or any(arg is True for arg in op.args)
    rows = list(t.rows(x))
    rows[1] = t.unite(rows[1], *(t.rows(vector)[0] for vector in vectors))
    zero = [False] * len(rows)
    zero[1] = _affine_is_zero(t, weight, bias, 0, from_batch and t.zero(x)[1])
    if from_batch:
        for axis, row in enumerate(rows):
            if axis != 1:
                t.inexact(row, NORMALISED)
    t.set(op.out[0], rows, zero)
    _statistics(t, op.out[1:], rows[1])


@rule(aten.native_layer_norm, family="normalization")
def _layer_norm(t: Tracer, op: Op) -> None:
    """The last axes are normalised together and united with those of weight and bias."""
    x, count = op.args[0], len(op.args[1])
    weight, bias = op.get("weight", 2), op.get("bias", 3)
    rows, zero = list(t.rows(x)), list(t.zero(x))
    first = x.dim() - count
    for axis in range(first):
        zero[axis] = zero[axis] and bias is None
    for place in range(count):
        axis = first + place
        rows[axis] = t.unite(rows[axis], *(t.rows(one)[place] for one in (weight, bias) if one is not None))
        t.inexact(rows[axis], NORMALISED)
        zero[axis] = _affine_is_zero(t, weight, bias, place, False)
    t.set(op.out[0], rows, zero)
    for result in op.out[1:]:
        t.set(result, (*rows[:first], *(None,) * count))


@rule(*present("_fused_rms_norm"), family="normalization")
def _rms_norm(t: Tracer, op: Op) -> None:
    """The last axes are divided by their root mean square and united with those of the weight."""
    x, count, weight = op.args[0], len(op.args[1]), op.get("weight", 2)
    rows, zero = list(t.rows(x)), list(t.zero(x))
    first = x.dim() - count
    for place in range(count):
        axis = first + place
        if weight is not None:
            rows[axis] = t.unite(rows[axis], t.rows(weight)[place])
        t.inexact(rows[axis], MEAN if zero[axis] else SUM)
        zero[axis] = _affine_is_zero(t, weight, None, place, zero[axis])
    t.set(op.out[0], rows, zero)
    for result in op.out[1:]:
        t.set(result, (*rows[:first], *(None,) * count))


@rule(aten.native_group_norm, family="normalization")
def _group_norm(t: Tracer, op: Op) -> None:
    """Channels are (groups, channels of a group): whole groups go exactly, a channel of every group does not."""
    x, weight, bias, groups = op.args[0], op.args[1], op.args[2], op.args[6]
    rows = list(t.rows(x))
    rows[1] = t.unite(rows[1], *(t.rows(one)[0] for one in (weight, bias) if one is not None))
    in_group = x.shape[1] // groups
    left, right = t.split(rows[1], (groups, in_group))
    for row in (right, *rows[2:]):
        t.inexact(row, NORMALISED)
    zero = [False] * len(rows)
    zero[0] = t.zero(x)[0] and bias is None
    zero[1] = _affine_is_zero(t, weight, bias, 0, in_group == 1 and t.zero(x)[1])
    t.set(op.out[0], rows, zero)
    for result in op.out[1:]:
        t.set(result, (rows[0], left))


@function_rule(F.normalize)
def _normalize(_: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """PyTorch spreads the norm over the size that the axis has; written without that, the axis can shrink."""
    given = dict(zip(("input", "p", "dim", "eps", "out"), args, strict=False)) | kwargs
    norm = given["input"].norm(given.get("p", 2.0), given.get("dim", 1), keepdim=True)
    return torch.div(given["input"], norm.clamp_min(given.get("eps", 1e-12)), out=given.get("out"))


@rule(aten._weight_norm_interface, family="normalization")
def _weight_norm(t: Tracer, op: Op) -> None:
    """`g * v / norm(v)`, a norm for each position of axis `dim`: there v and g are united, and 0 / 0 if masked."""
    v, g, axis = op.args[0], op.args[1], op.get("dim", 2, 0)
    rows, zero, sizes = list(t.rows(v)), list(t.zero(v)), list(t.rows(g))
    rows[axis] = t.unite(rows[axis], sizes[axis])
    t.inexact(rows[axis], NOT_FINITE)
    zero[axis] = False
    for other, row in enumerate(rows):
        if other != axis:
            t.freeze(sizes[other], "its only position is spread over a longer axis")
            if not zero[other]:
                t.inexact(row, SUM)
    t.set(op.out[0], rows, zero)
    norms: list[Row] = [None] * len(rows)
    norms[axis] = rows[axis]
    t.set(op.out[1], norms)


@rule(*present("_softmax _log_softmax _safe_softmax"), family="normalization")
def _softmax(t: Tracer, op: Op) -> None:
    """Every position of the axis has a share of 1, a masked one too: it stays."""
    _shares(t, op, op.get("dim", 1))


@rule(aten._masked_softmax, family="normalization")
def _masked_softmax(t: Tracer, op: Op) -> None:
    """As softmax; a mask says what takes no share."""
    for row in t.rows(op.args[1]):
        t.freeze(row, "it masks a softmax")
    _shares(t, op, op.get("dim", 2, -1))


def _shares(t: Tracer, op: Op, dim: Any) -> None:
    x = op.args[0]
    rows = list(t.rows(x))
    if rows:
        t.freeze(rows[dim], "softmax over it")
        rows[dim] = None
    t.set(op.out, rows)
