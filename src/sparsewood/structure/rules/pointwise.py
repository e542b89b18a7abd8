"""Operations that work on one position at a time: operands are united along every axis, under broadcasting.

Everything that PyTorch tags as pointwise has the rule `_pointwise`. Whether its result is 0 where the operands are
masked is found by computing the operation on zeros, with the same numbers for its other arguments: so
`clamp(x, min=-1)` keeps zeros and `clamp(x, min=0.1)` does not. A few operations need less than all operands to be 0
(`_ZERO_IF`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import Family, rule
from sparsewood.structure.tracer import Tracer

__all__ = ["NOT_FINITE", "broadcast", "present", "same"]

aten = torch.ops.aten

NOT_FINITE = "not finite where masked"

_ACTIVATIONS = """
    celu clamp clamp_max clamp_min clip elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu mish relu relu6
    selu sigmoid silu softplus softshrink tanh threshold _prelu_kernel
"""
_UNTAGGED = "complex floor_divide hardswish masked_fill polar _prelu_kernel rsub"
_NOT_HERE = "clone equal max min rrelu where"
"""With the tag, but: `equal` makes one truth value of all positions, `rrelu` draws, others are reductions as well."""

_ZERO_IF: dict[str, tuple[tuple[int, ...], ...]] = {
    "addcdiv": ((0, 1),),
    "addcmul": ((0, 1), (0, 2)),
    "bitwise_and": ((0,), (1,)),
    "copysign": ((0,),),
    "div": ((0,),),
    "floor_divide": ((0,),),
    "fmod": ((0,),),
    "ldexp": ((0,),),
    "lerp": ((0, 1),),
    "logical_and": ((0,), (1,)),
    "masked_fill": ((0, 2),),
    "mul": ((0,), (1,)),
    "polar": ((0,),),
    "_prelu_kernel": ((0,),),
    "remainder": ((0,),),
    "special_xlog1py": ((0,),),
    "true_divide": ((0,),),
    "xlogy": ((0,),),
}
"""The arguments, by number, that suffice: the result is 0 where all of the first ones are, or all of the second."""

_POLE = {"addcdiv": 2, "div": 1, "floor_divide": 1, "fmod": 1, "remainder": 1, "true_divide": 1}
"""The argument that must not be 0."""


# ---------------------------------------------------------------- broadcasting


def broadcast(t: Tracer, tensors: Sequence[Tensor], shape: Sequence[int]) -> list[Row]:
    """The rows of a result of `shape`: operands are united where they are as long, and stay where they are spread."""
    rows: list[Row] = [None] * len(shape)
    known = [(t.rows(tensor), tensor.shape) for tensor in tensors]
    for back in range(1, len(shape) + 1):
        size, met = shape[-back], list[Row]()
        for own, own_shape in known:
            if len(own) < back:
                continue
            if own_shape[-back] == size:
                met.append(own[-back])
            else:
                t.freeze(own[-back], "its only position is spread over a longer axis")
        if any(row is not None for row in met):
            rows[-back] = t.unite(*met)
    return rows


def same(t: Tracer, op: Op) -> None:
    """The result has the values of the first operand."""
    x = op.args[0]
    t.set(op.out, t.rows(x), t.zero(x))


# ---------------------------------------------------------------- zeros


class _Zero(NamedTuple):
    """Stands for a tensor argument in a key."""

    dtype: torch.dtype


@cache
def _at_zero(func: Any, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> Literal["zero", "other", "not finite"]:
    """What an operation makes of zeros."""

    def filled(value: Any) -> Any:
        return torch.zeros((), dtype=value.dtype, device="cpu") if isinstance(value, _Zero) else value

    try:
        out = func(*map(filled, args), **{name: filled(value) for name, value in kwargs})
    except (RuntimeError, TypeError):  # not for this dtype on the CPU
        return "other"
    results = list(tensors_in((out,)))
    if not all(bool(torch.isfinite(result)) for result in results):
        return "not finite"
    return "zero" if all(bool(result == 0) for result in results) else "other"


def _key(value: Any) -> Any:
    """An argument without the tensor."""
    return _Zero(value.dtype) if isinstance(value, Tensor) else value


def _vanishes(t: Tracer, value: Any, back: int, size: int) -> bool:
    """Whether an argument is 0 at the masked positions of the axis `back` from the end, of length `size`."""
    if not isinstance(value, Tensor):
        return value == 0
    if value.dim() == 0:
        known = t.value(value) if t.is_constant(value) else None
        return known is not None and bool(known == 0)
    return value.dim() >= back and value.shape[-back] == size and t.zero(value)[-back]


def _is_zero(t: Tracer, op: Op, operands: list[Tensor], back: int, row: Row, name: str) -> bool:
    """Whether the result is 0 at the masked positions of an axis; notes where it is not even finite there."""
    assert row is not None
    size = len(row)
    pole = _POLE.get(name)
    if pole is not None and _vanishes(t, op.args[pole], back, size):
        t.inexact(row, NOT_FINITE)
        return False
    ways = _ZERO_IF.get(name)
    if ways:
        values = (*op.args, *op.kwargs.values())
        return any(all(_vanishes(t, values[index], back, size) for index in way) for way in ways)
    if not all(_vanishes(t, operand, back, size) for operand in operands):
        return False
    kwargs = tuple((word, _key(value)) for word, value in op.kwargs.items())
    answer = _at_zero(op.func, tuple(map(_key, op.args)), kwargs)
    if answer == "not finite":
        t.inexact(row, NOT_FINITE)
    return answer == "zero"


def _pointwise(t: Tracer, op: Op, *, name: str) -> None:
    """Positions meet positions: what is broadcast against each other is removed together."""
    results = list(tensors_in((op.out,)))
    operands = [value for value in op.args if isinstance(value, Tensor)]
    for value in op.kwargs.values():
        if isinstance(value, Tensor) and not any(value is result for result in results):
            operands.append(value)
    shape = results[0].shape
    rows = list(t.rows(operands[0])) if len(operands) == 1 else broadcast(t, operands, shape)
    ndim = len(rows)
    zero = [row is not None and _is_zero(t, op, operands, ndim - axis, row, name) for axis, row in enumerate(rows)]
    for result in results:
        t.set(result, rows, zero)


# ---------------------------------------------------------------- the table


def present(names: str) -> list[Any]:
    """Those of the operations (names with blanks between) that this version of PyTorch has."""
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


def _tagged() -> set[str]:
    """The names of the operations that PyTorch tags as pointwise."""
    names: set[str] = set()
    for full_name in torch._C._dispatch_get_all_op_names():
        name, _, overload = full_name.partition(".")
        if name.startswith("aten::") and name[6:] not in names:
            found = torch._C._get_operation_overload(name, overload)  # pyright: ignore[reportAttributeAccessIssue]
            if found is not None and torch.Tag.pointwise in found[2]:
                names.add(name.removeprefix("aten::"))
    return names


def _register() -> None:
    names = (_tagged() | set(_UNTAGGED.split())) - set(_NOT_HERE.split())
    activations = set(_ACTIVATIONS.split())
    names |= {name + "_" for name in names}  # the tag is missing from many of the in-place forms
    for name in sorted(names):
        plain = name.removesuffix("_")
        family: Family = "activation" if plain in activations else "pointwise"
        rule(*present(name), family=family)(partial(_pointwise, name=plain))
    rule(aten.max.other, aten.max.out, aten.min.other, aten.min.out, family="pointwise")(partial(_pointwise, name=""))


_SAME = "alias clone detach detach_ lift lift_fresh lift_fresh_copy _to_copy _conj _neg_view _pin_memory"
"""These have the values of their operand, or their negatives."""

_register()
rule(*present(_SAME), family="pointwise")(same)


@rule(aten.where.self, aten.where.self_out, family="pointwise")
def _where(t: Tracer, op: Op) -> None:
    """The condition chooses at every position: all three are united; 0 if both choices are."""
    condition, first, second = op.args
    shape = op.out.shape
    rows = broadcast(t, (condition, first, second), shape)
    zero = [
        row is not None and all(_vanishes(t, value, len(shape) - axis, shape[axis]) for value in (first, second))
        for axis, row in enumerate(rows)
    ]
    t.set(op.out, rows, zero)


@rule(aten.copy_, aten.copy, family="pointwise")
def _copy(t: Tracer, op: Op) -> None:
    """The target keeps its shape and takes the values: target and source are united."""
    target, source = op.args[:2]
    shape = target.shape
    rows = broadcast(t, (target, source), shape)
    zero = [row is not None and _vanishes(t, source, len(shape) - axis, shape[axis]) for axis, row in enumerate(rows)]
    t.set(op.out, rows, zero)


# ---------------------------------------------------------------- activations with several operands or results


@rule(aten.glu, family="activation")
def _glu(t: Tracer, op: Op) -> None:
    """Position j of the first half is multiplied with the sigmoid of position j of the second: both go together."""
    x = op.args[0]
    axis = op.get("dim", 1, -1) % x.dim()
    rows, half = list(t.rows(x)), op.out.shape[axis]
    row = rows[axis]
    if row is not None:
        rows[axis] = t.unite(row[:half], row[half:])
    t.set(op.out, rows, t.zero(x))


@rule(aten.log_sigmoid_forward, family="activation")
def _log_sigmoid(t: Tracer, op: Op) -> None:
    """Works on one position at a time; the second result is for the backward pass, empty on some devices."""
    rows = t.rows(op.args[0])
    for result in op.out:
        t.set(result, rows if result.shape == op.args[0].shape else (None,) * result.dim())


@rule(aten.rrelu_with_noise, aten.rrelu_with_noise_, family="activation")
def _rrelu(t: Tracer, op: Op) -> None:
    """The slope of every position is drawn into `noise`, made like the operand."""
    x, noise = op.args[:2]
    zero = t.zero(x)
    t.set(op.out, broadcast(t, (x, noise), x.shape), zero)


# ---------------------------------------------------------------- complex numbers


@rule(aten.view_as_real, family="pointwise")
def _as_real(t: Tracer, op: Op) -> None:
    """A last axis for the real and the imaginary part, which nobody owns."""
    x = op.args[0]
    t.set(op.out, (*t.rows(x), None), (*t.zero(x), False))


@rule(aten.view_as_complex, family="pointwise")
def _as_complex(t: Tracer, op: Op) -> None:
    """Both parts are needed: the last axis stays."""
    x = op.args[0]
    rows = t.rows(x)
    t.freeze(rows[-1], "it holds the real and the imaginary part")
    t.set(op.out, rows[:-1], t.zero(x)[:-1])
