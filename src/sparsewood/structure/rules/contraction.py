"""Products of tensors: axes that are summed over go together, all others are passed on.

`contract` does this for any product that can be written like an einsum; the rules give it the letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sparsewood.structure.labels import Row
from sparsewood.structure.rules import rule
from sparsewood.structure.rules.pointwise import present

if TYPE_CHECKING:
    from sparsewood.structure.log import Op
    from sparsewood.structure.tracer import Tracer

__all__ = ["Factor", "add_bias", "contract", "sum_over"]

aten = torch.ops.aten


class Factor(NamedTuple):
    """An axis of a factor of a product: its row, whether masked positions are 0, whether it is a weight's."""

    row: Row
    zero: bool
    weight: bool

    @staticmethod
    def of(t: Tracer, tensor: Tensor, axis: int) -> Factor:
        """The factor that `axis` of a tensor is."""
        return Factor(t.rows(tensor)[axis], t.zero(tensor)[axis], t.is_weight(tensor))


class _Letter(NamedTuple):
    """An index of a product: where it stands in the operands, (operand, axis) each, and whether the result has it."""

    places: tuple[tuple[int, int], ...]
    kept: bool


@cache
def _letters(equation: str) -> tuple[dict[str, _Letter], str]:
    inputs, _, result = equation.partition("->")
    places: dict[str, list[tuple[int, int]]] = {}
    for operand, letters in enumerate(inputs.split(",")):
        for axis, letter in enumerate(letters):
            places.setdefault(letter, []).append((operand, axis))
    return {letter: _Letter(tuple(where), letter in result) for letter, where in places.items()}, result


def contract(t: Tracer, equation: str, *tensors: Tensor) -> tuple[list[Row], list[bool]]:
    """The rows of the product `equation` ("mk,kn->mn") of tensors without broadcasting, and where it is zero.

    A letter that stands in several operands couples their positions. A letter of the result that several activations
    have is a batch of products: attention heads, if anybody owns it.
    """
    letters, result = _letters(equation)
    known: dict[str, tuple[Row, bool]] = {}
    dims: list[tuple[int, Row]] = []
    for letter, (places, kept) in letters.items():
        size = tensors[places[0][0]].shape[places[0][1]]
        if any(tensors[operand].shape[axis] != size for operand, axis in places):
            raise ValueError("an axis of one position is repeated in a product")
        factors = [Factor.of(t, tensors[operand], axis) for operand, axis in places]
        row = _along(t, factors) if kept else sum_over(t, *factors)
        known[letter] = row, any(factor.zero for factor in factors)
        dims.append((size, row))
    t.cost(*dims)
    return [known[letter][0] for letter in result], [known[letter][1] for letter in result]


def _along(t: Tracer, factors: Sequence[Factor]) -> Row:
    row = t.unite(*(factor.row for factor in factors))
    if row is not None and len(factors) > 1 and not any(factor.weight for factor in factors):
        t.heads(row)
    return row


def sum_over(t: Tracer, *factors: Factor) -> Row:
    """Couple the axes that a product sums over; the row of the sum.

    Masked positions add nothing if one of the factors is zero there. The weights among the factors read the units; of
    weights alone the last one does.
    """
    if all(factor.row is None for factor in factors):
        return None
    weights = [factor for factor in factors if factor.weight]
    for factor in weights if len(weights) < len(factors) else weights[-1:]:
        t.consume(factor.row)
    row = t.unite(*(factor.row for factor in factors))
    if not any(factor.zero for factor in factors):
        t.inexact(row, "sum of non-zero entries")
    return row


def add_bias(t: Tracer, rows: list[Row], zero: list[bool], bias: Tensor | None, shape: Sequence[int]) -> None:
    """Couple a product of `shape` with the bias that is added to it, broadcast like in any sum; changes the lists."""
    if bias is None:
        return
    bias_rows, bias_zero = t.rows(bias), t.zero(bias)
    missing = len(rows) - len(bias_rows)
    for axis, size in enumerate(shape):
        own = axis - missing
        if own >= 0 and bias.shape[own] == size:
            rows[axis] = t.unite(rows[axis], bias_rows[own])
            zero[axis] = zero[axis] and bias_zero[own]
        else:
            zero[axis] = False
            if own >= 0:
                t.freeze(bias_rows[own], "it is the only position of its axis")


# ---------------------------------------------------------------- functions as one step


# ---------------------------------------------------------------- matrix products


def _product(equation: str) -> Callable[[Tracer, Op], None]:
    def apply(t: Tracer, op: Op) -> None:
        t.set(op.out, *contract(t, equation, op.args[0], op.args[1]))

    return apply


def _product_plus(equation: str) -> Callable[[Tracer, Op], None]:
    def apply(t: Tracer, op: Op) -> None:
        rows, zero = contract(t, equation, op.args[1], op.args[2])
        add_bias(t, rows, zero, op.args[0], op.out.shape)
        t.set(op.out, rows, zero)

    return apply


_PRODUCTS = {
    "mk,kn->mn": (aten.mm,),
    "mk,k->m": (aten.mv,),
    "k,k->": (aten.dot, aten.vdot),
    "m,n->mn": (aten.ger, aten.outer),
}
_PRODUCTS_PLUS = {
    "mk,kn->mn": (aten.addmm, aten.addmm_, aten._addmm_activation),
    "mk,k->m": (aten.addmv, aten.addmv_),
    "bmk,bkn->mn": (aten.addbmm, aten.addbmm_),
    "m,n->mn": (aten.addr, aten.addr_),
}
for _equation, _ops in _PRODUCTS.items():
    rule(*_ops, family="contraction")(_product(_equation))
for _equation, _ops in _PRODUCTS_PLUS.items():
    rule(*_ops, family="contraction")(_product_plus(_equation))


@rule(aten.bmm, family="contraction")
def _bmm(t: Tracer, op: Op) -> None:
    """Couples what is summed over and the batch axis, in which heads may stand."""
    left, right = op.args[:2]
    t.set(op.out, *contract(t, "bmk,bkn->bmn", left, right))
    _implicit_scale(t, left)


@rule(aten.baddbmm, aten.baddbmm_, family="contraction")
def _baddbmm(t: Tracer, op: Op) -> None:
    """Couples what is summed over and the batch axis, and both with what is added."""
    bias, left, right = op.args[:3]
    rows, zero = contract(t, "bmk,bkn->bmn", left, right)
    add_bias(t, rows, zero, bias, op.out.shape)
    t.set(op.out, rows, zero)
    _implicit_scale(t, left)


def _implicit_scale(t: Tracer, query: Tensor) -> None:
    """`multi_head_attention_forward` divides by the square root of the head's width, which it reads from a shape."""
    row = t.rows(query)[2]
    if row is not None and t.calls and t.calls[-1].name == "multi_head_attention_forward":
        t.inexact(row, "attention scale")


@rule(aten.linear, aten.mkldnn_linear, family="contraction")
def _linear(t: Tracer, op: Op) -> None:
    """Couples the input's last axis with the weight's axis 1 and passes on the weight's axis 0."""
    x, weight, bias = op.args[0], op.args[1], op.get("bias", 2)
    lead = ascii_uppercase[: x.dim() - 1]
    rows, zero = contract(t, f"{lead}k,nk->{lead}n", x, weight)
    add_bias(t, rows, zero, bias, op.out.shape)
    t.set(op.out, rows, zero)


@rule(aten._trilinear, family="contraction")
def _trilinear(t: Tracer, op: Op) -> None:
    """Couples three factors, each of which lacks some axes of the product (`nn.Bilinear`)."""
    factors, lacking, summed = op.args[:3], op.args[3:6], op.args[6]
    letters = ascii_lowercase[: factors[0].dim() + len(lacking[0])]
    inputs = ["".join(letter for axis, letter in enumerate(letters) if axis not in lack) for lack in lacking]
    result = "".join(letter for axis, letter in enumerate(letters) if axis not in summed)
    t.set(op.out, *contract(t, f"{','.join(inputs)}->{result}", *factors))


@rule(aten._cdist_forward, aten._euclidean_dist, family="contraction")
def _distances(t: Tracer, op: Op) -> None:
    """Couples the last axes; masked positions add nothing to a distance if both points are zero there."""
    first, second = op.args[:2]
    row = t.unite(t.rows(first)[-1], t.rows(second)[-1])
    if not (t.zero(first)[-1] and t.zero(second)[-1]):
        t.inexact(row, "sum of non-zero entries")
    for points in (first, second):
        for lead in t.rows(points)[:-2]:
            t.freeze(lead, "distances are taken in batches along it")
    lead = (None,) * (op.out.dim() - 2)
    t.set(op.out, (*lead, t.rows(first)[-2], t.rows(second)[-2]))


_CHOSEN = "its positions are chosen by data"


@rule(*present("_grouped_mm"), family="contraction")
def _grouped(t: Tracer, op: Op) -> None:
    """Every row meets the matrix of its group: couples what is summed over; which group it is depends on data."""
    left, right = op.args[:2]
    if left.dim() != 2 or right.dim() != 3:
        t.barrier((left, right), "its groups cut the axis that is summed over")
        t.set(op.out, (None,) * op.out.dim())
        return
    groups, _, outer = t.rows(right)
    t.freeze(groups, _CHOSEN)
    summed = sum_over(t, Factor.of(t, left, 1), Factor.of(t, right, 1))
    t.cost((left.shape[0], None), (left.shape[1], summed), (right.shape[2], outer))
    rows, zero = [t.rows(left)[0], outer], [t.zero(left)[0], t.zero(right)[2]]
    add_bias(t, rows, zero, op.get("bias", 3), op.out.shape)
    t.set(op.out, rows, zero)


# ---------------------------------------------------------------- embeddings


@rule(aten.embedding, family="contraction")
def _embedding(t: Tracer, op: Op) -> None:
    """Passes on the columns of the table; which rows are read depends on data."""
    table, index = op.args[:2]
    words, columns = t.rows(table)
    t.freeze(words, _CHOSEN)
    rows = (*t.rows(index), columns)
    t.set(op.out, rows, (*(False for _ in index.shape), t.zero(table)[1]))


@rule(aten.embedding_renorm_, family="contraction")
def _embedding_renorm(t: Tracer, op: Op) -> None:
    """Scales rows of the table by their norms, to which columns of zeros add nothing."""
    table = op.args[0]
    words, columns = t.rows(table)
    t.freeze(words, _CHOSEN)
    if not t.zero(table)[1]:
        t.inexact(columns, "sum of non-zero entries")
    t.set(op.out, t.rows(table), t.zero(table))


@rule(aten._embedding_bag, aten._embedding_bag_forward_only, family="contraction")
def _embedding_bag(t: Tracer, op: Op) -> None:
    """Passes on the columns of the table: sums, means and maxima of zeros are zero."""
    table, weights = op.args[0], op.get("per_sample_weights", 6)
    words, columns = t.rows(table)
    t.freeze(words, _CHOSEN)
    t.barrier([tensor for tensor in (*op.args[1:3], weights) if tensor is not None], _CHOSEN)
    bags: Sequence[Any] = op.out
    t.set(bags[0], (None, columns), (False, t.zero(table)[1]))
    for tensor in bags[1:]:
        t.set(tensor, (None,) * tensor.dim())
