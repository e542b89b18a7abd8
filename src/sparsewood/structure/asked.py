"""What the forward asked for when it gave sizes: whether they follow when units go.

A size that was not given (-1) follows. A tracked integer is recorded, for `sizes.conflicts` to judge. A plain integer
is one that was written in the forward, or whose origin is not known: what it is the size of stays. Sizes that a
function of PyTorch works out itself come from shapes and follow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.expressions import Expression, Size
from sparsewood.structure.integers import row_of
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Call
from sparsewood.structure.sizes import SizeUse
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import Tracked, expression_of, note_number, plain, same_labels

__all__ = ["argument", "asked_by", "given", "given_all", "note_integers", "record", "sizes_of", "trusted"]

_NO_SIZE = -1

# ---------------------------------------------------------------- one size, one row


def given(trace: Tracer, row: Row, value: Any, size: int) -> None:
    """`value` was given as the size, which is `size`, of an axis with `row`."""
    expression = expression_of(value, trace.sizes)
    if expression is None:
        if row is None or (type(value) is not Tracked and value == _NO_SIZE):
            return
        trace.freeze(row, f"its size {size} is written in the forward")
    elif not (isinstance(expression, Size) and row is not None and same_labels(expression.row, row)):
        record(trace, row, size, expression)


def given_all(trace: Tracer, rows: Sequence[Row], values: Sequence[Any], shape: Sequence[int]) -> None:
    """`values` were given as the sizes of axes with `rows`."""
    values = _from_einops(rows, values)
    for row, value, size in zip(rows, values, shape, strict=True):
        given(trace, row, value, size)


def record(trace: Tracer, row: Row, size: int, expression: Expression) -> None:
    """Note that an expression was used for the size of an axis; with no row, that it has to stay what it is."""
    function = trace.calls[-1].name if trace.calls else ""
    trace.sizes.append(SizeUse(len(trace.steps), trace.module, function, row, size, expression))


# ---------------------------------------------------------------- what was asked for


def asked_by(trace: Tracer) -> str:
    """The name of the function that Python called, without its overload; empty if it is not known."""
    return trace.calls[-1].name.partition(".")[0] if trace.calls else ""


def trusted(trace: Tracer) -> bool:
    """Whether the operation was called by a function of PyTorch: one of another's may hold numbers of its own."""
    if not trace.calls:
        return False
    function = trace.calls[-1].function
    if isinstance(function, OpOverload | OpOverloadPacket):
        return str(function).startswith(("aten", "prims"))
    module = getattr(function, "__module__", None)
    return module is None or module.partition(".")[0] in ("torch", "builtins")


def argument(call: Call, position: int, *names: str) -> Any:
    """An argument by position or by one of its names; `None` if it was left out."""
    if position < len(call.args):
        return call.args[position]
    return next((call.kwargs[name] for name in names if name in call.kwargs), None)


def sizes_of(call: Call, position: int, *names: str) -> list[Any]:
    """Sizes given one by one from `position` on, or all in a sequence."""
    first = argument(call, position, *names)
    if isinstance(first, list | tuple):
        return list(first)
    if position < len(call.args):
        return list(call.args[position:])
    return [] if first is None else [first]


# ---------------------------------------------------------------- integers given to anything else

_OWN_RULES = frozenset(
    [
        "view",
        "view_copy",
        "reshape",
        "unflatten",
        "view_as",
        "reshape_as",
        "expand",
        "expand_as",
        "expand_copy",
        "broadcast_to",
        "broadcast_tensors",
        "repeat",
        "tile",
        "split",
        "split_copy",
        "split_with_sizes",
        "split_with_sizes_copy",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "narrow",
        "narrow_copy",
        "chunk",
        "unsafe_chunk",
        "__getitem__",
        "__setitem__",
        "channel_shuffle",
    ]
)
_MADE = frozenset(["zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full"])
_EXPANDS = frozenset(["expand", "expand_as", "broadcast_to"])
_ARITHMETIC = frozenset(
    name
    for plain in [
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "floordiv",
        "floor_divide",
        "pow",
        "rsub",
        "true_divide",
        "multiply",
        "divide",
        "mod",
    ]
    for name in (plain, f"{plain}_", f"__{plain}__", f"__r{plain}__", f"__i{plain}__")
) | frozenset(["clamp", "full", "full_like", "fill_", "masked_fill", "addcmul", "addcdiv", "where"])


def note_integers(trace: Tracer, call: Call) -> None:
    """Take down the tracked integers that a function is called with, unless the rule of its operation does it.

    Sizes of normalisations and numbers of groups belong to a row; factors scale; anything else has to stay.
    """
    check = _CHECKS.get(call.name)
    if check is not None:
        check(trace, call)
        return
    tracked = [value for value in _integers(call.args, call.kwargs) if type(value) is Tracked]
    if tracked and call.name in ("full", "new_full"):
        value = argument(call, 1 if call.name == "full" else 2, "fill_value")
        if type(value) is Tracked:
            note_number(value)
    if (
        call.name in _MADE
        or call.name in _EXPANDS
        or not tracked
        or (call.name in _OWN_RULES and _labelled(trace, call))
    ):
        return
    for value in tracked:
        if call.name in _ARITHMETIC:
            note_number(value)
        else:
            _stays(trace, value)


def _stays(trace: Tracer, value: Any) -> None:
    expression = expression_of(value, trace.sizes)
    if expression is not None:
        record(trace, None, plain(value), expression)


def _integers(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterable[Any]:
    for value in (*args, *kwargs.values()):
        if type(value) is Tracked:
            yield value
        elif isinstance(value, list | tuple):
            for item in value:
                yield from (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)
        elif isinstance(value, slice):
            yield from (value.start, value.stop, value.step)


def _labelled(trace: Tracer, call: Call) -> bool:
    """Whether the function is called on a tensor with labels, so that the rule of its operation will be asked."""
    return any(isinstance(value, Tensor) and row_of(trace, value) is not None for value in call.args)


def _groups(trace: Tracer, call: Call, groups: Any, axis: int) -> None:
    """A number of groups is the size of one side of the channels, seen as (groups, channels of a group)."""
    rows = row_of(trace, call.args[0] if call.args else call.kwargs["input"])
    if type(groups) is not Tracked and (groups is None or groups == 1 or rows is None):
        return
    row = None if rows is None else rows[axis]
    if row is None:
        _stays(trace, groups)
        return
    given(trace, trace.split(row, (plain(groups), len(row) // plain(groups)))[0], groups, plain(groups))


def _convolution(position: int, axis: int) -> Callable[[Tracer, Call], None]:
    def check(trace: Tracer, call: Call) -> None:
        _groups(trace, call, argument(call, position, "groups"), axis)
        rest = {name: value for name, value in call.kwargs.items() if name != "groups"}
        for value in _integers(call.args[3:position], rest):
            _stays(trace, value)

    return check


def _group_norm(trace: Tracer, call: Call) -> None:
    _groups(trace, call, argument(call, 1, "num_groups"), 1)


def _normalized_shape(trace: Tracer, call: Call) -> None:
    x = call.args[0] if call.args else call.kwargs["input"]
    values = list(argument(call, 1, "normalized_shape"))
    shape = list(x.shape)[-len(values) :]
    rows = row_of(trace, x)
    given_all(trace, (None,) * len(values) if rows is None else rows[-len(values) :], values, shape)


def _attention(trace: Tracer, call: Call) -> None:
    """The number of heads and the width that it is told: of a module they can be rewritten, written out they stay."""
    given = dict(zip(("query", "key", "value", "width", "heads", "weight"), call.args, strict=False))
    query, width = (
        given.get("query", call.kwargs.get("query")),
        given.get("width", call.kwargs.get("embed_dim_to_check")),
    )
    heads, weight = (
        given.get("heads", call.kwargs.get("num_heads")),
        given.get("weight", call.kwargs.get("in_proj_weight")),
    )
    weights = [weight, *(call.kwargs.get(f"{one}_proj_weight") for one in "qkv")]
    if type(heads) is not Tracked and heads != 1:
        for tensor in weights:
            rows = None if tensor is None else row_of(trace, tensor)
            trace.freeze(None if rows is None else rows[0], f"its {heads} heads are written in the forward")
    if type(width) is not Tracked:
        rows = None if query is None else row_of(trace, query)
        trace.freeze(None if rows is None else rows[-1], f"its size {width} is written in the forward")


def _broadcast(trace: Tracer, call: Call) -> None:
    """Tensors that are broadcast against one another go together, also where nothing has to be done for it."""
    tensors = list(tensors_in(call.args))
    for back in range(1, max((tensor.dim() for tensor in tensors), default=0) + 1):
        rows = [
            (row_of(trace, tensor) or (None,) * tensor.dim())[-back]
            for tensor in tensors
            if tensor.dim() >= back and tensor.shape[-back] > 1
        ]
        if rows:
            trace.unite(*rows)


_CHECKS: Mapping[str, Callable[[Tracer, Call], None]] = {
    **{f"conv{kind}{n}d": _convolution(6, -n - 1) for n in (1, 2, 3) for kind in ("", "_transpose")},
    "broadcast_tensors": _broadcast,
    "multi_head_attention_forward": _attention,
    "group_norm": _group_norm,
    "layer_norm": _normalized_shape,
    "rms_norm": _normalized_shape,
}


# ---------------------------------------------------------------- einops


def _from_einops(rows: Sequence[Row], values: Sequence[Any]) -> Sequence[Any]:
    """The sizes in a pattern of einops: what its caller gave by name; einops works out the others, and keeps them.

    Kept sizes may come from another tensor of the same shape, so that what they remember does not count.
    """
    if "einops" not in sys.modules or all(row is None for row in rows):
        return values
    names = _pattern_sizes()
    if names is None:
        return values
    return [next((name for name in names if plain(name) == plain(value)), _NO_SIZE) for value in values]


def _pattern_sizes() -> list[Any] | None:
    """The sizes given by name to the function of einops that is running; `None` if none is."""
    frame = sys._getframe(2)
    found: list[Any] | None = None
    while frame is not None:
        library = frame.f_globals.get("__name__", "").partition(".")[0]
        if library == "einops":
            pairs = frame.f_locals.get("axes_lengths", frame.f_locals.get("axes_dims"))
            if pairs is not None:
                found = [size for _, size in (pairs.items() if isinstance(pairs, Mapping) else pairs)]
        elif found is not None or library not in ("torch", "sparsewood"):
            return found
        frame = frame.f_back
    return found
