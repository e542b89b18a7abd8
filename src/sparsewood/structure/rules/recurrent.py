"""Recurrent layers and cells: the gates of a hidden unit go together, in all layers and directions of one call.

The states of all layers and directions are one tensor, so these have as many units each. A weight's first axis is the
rectangle (gates x hidden units), of which the gates stay. Where a unit is masked in weights and biases, its gates are
`sigmoid(0)` and `tanh(0)`: from a state of 0 it stays 0, so that removing it changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.labels import Row
from sparsewood.structure.rules import function_rule
from sparsewood.structure.rules.contraction import Factor, sum_over
from sparsewood.structure.tracked import plain

if TYPE_CHECKING:
    from sparsewood.structure.tracer import Tracer

__all__: list[str] = []


@dataclass(frozen=True, slots=True)
class _Cell:
    """The parameters of one layer in one direction; a projection, if there is one, makes the output."""

    inputs: Tensor
    hidden: Tensor
    biases: Sequence[Tensor]
    projection: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """What cells make: their output and, behind a projection, their memory; `gates` is the weights' first axis."""

    gates: Row
    memory: Factor
    output: Factor


@function_rule(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
def _layers(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Layers of cells along sequences of one length, or along packed ones (`batch_sizes` is the second argument)."""
    if kwargs or len(args) != 9:
        return function(*args, **kwargs)
    args = _stand_ins(t, args)
    packed = isinstance(args[3], list | tuple)
    x, (states, params, biased, layers) = args[0], args[2:6] if packed else args[1:5]
    if all(t.is_constant(tensor) for tensor in (x, *params)):
        return function(*args)
    directions = 2 if args[8 if packed else 7] else 1
    states = _as_list(states)
    cells = _cells(params, 2 if biased else 0, plain(layers) * directions)
    out = _values(t, function, args)
    if out is None:
        shape = (*x.shape[:-1], states[0].shape[2] * directions)
        out = [_empty(x, shape, swapped=not packed and args[8]), *(_empty(x, state.shape) for state in states)]
    t.begin_step()
    read = Factor(t.rows(x)[-1], t.zero(x)[-1], weight=False)
    places = x.numel() // max(x.shape[-1], 1)
    made = _couple(t, cells, states, read, places, directions)
    _label(t, x, out[:1], [made.output._replace(row=_side_by_side(made.output.row, directions))])
    _label(t, x, out[1:], [made.output, made.memory])
    t.end_step([x, *states, *params], out, family="contraction")
    return tuple(out)


@function_rule(torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
def _cell(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One step of a cell."""
    if kwargs or len(args) not in (4, 6):
        return function(*args, **kwargs)
    x, states, *params = args = _stand_ins(t, args)
    if all(t.is_constant(tensor) for tensor in tensors_in(args)):
        return function(*args)
    states = _as_list(states)
    biases = [bias for bias in params[2:] if bias is not None]
    out = _values(t, function, args) or [_empty(x, state.shape) for state in states]
    t.begin_step()
    read = Factor(t.rows(x)[-1], t.zero(x)[-1], weight=False)
    made = _couple(t, [_Cell(params[0], params[1], biases)], states, read, x.shape[0], 1)
    _label(t, x, out, [made.output, made.memory])
    t.end_step([x, *states, *params[:2], *biases], out, family="contraction")
    return tuple(out) if len(out) > 1 else out[0]


# ---------------------------------------------------------------- sequences of different lengths


@function_rule(torch._pack_padded_sequence)  # pyright: ignore[reportPrivateImportUsage]
def _pack(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The steps of all sequences in one axis; which ones depends on the lengths."""
    return _repack(t, function, args, kwargs, axes=(2, 1), keeps_zeros=True)


@function_rule(torch._pad_packed_sequence)  # pyright: ignore[reportPrivateImportUsage]
def _pad(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Back to one axis for steps and one for sequences, with a given value where there is no step."""
    return _repack(t, function, args, kwargs, axes=(1, 2), keeps_zeros=len(args) > 3 and args[3] == 0)


def _repack(
    t: Tracer,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    axes: tuple[int, int],
    keeps_zeros: bool,
) -> Any:
    """Turn the first axes, as many as the two numbers in `axes` say, into each other; the others are passed on."""
    x, lengths, *rest = _stand_ins(t, args)
    values, (before, after) = t.value(lengths), axes
    if kwargs or values is None or t.is_constant(x):
        return function(*args, **kwargs)
    with torch._C._DisableTorchDispatch():
        moved, counts = function(torch.empty((*x.shape[:before], 1)) if x.is_meta else x, values, *rest)
    if x.is_meta:
        moved = torch.empty((*moved.shape[:after], *x.shape[before:]), dtype=x.dtype, device="meta")
    t.begin_step()
    for row in t.rows(x)[:before]:
        t.freeze(row, "sequences of different lengths lie along it")
    zero = [keeps_zeros and one for one in t.zero(x)[before:]]
    t.set(moved, ((None,) * after + t.rows(x)[before:]), ((False,) * after + tuple(zero)))
    t.set(counts, (None,) * counts.dim())
    t.end_step([x], [moved, counts], family="movement")
    return moved, counts


# ---------------------------------------------------------------- what is coupled


def _couple(
    t: Tracer, cells: Sequence[_Cell], states: Sequence[Tensor], read: Factor, places: int, directions: int
) -> _Made:
    """Couple the units of all cells; each layer reads the outputs of both directions of the one before."""
    kinds = [_made(t, cell, states[-1].shape[-1]) for cell in cells]
    output = _all(t, [one.output for one in kinds])
    memory = _all(t, [one.memory for one in kinds])
    start = _couple_state(t, states[0], output.row)
    kept = start if len(states) == 1 else _couple_state(t, states[1], memory.row)
    memory = memory._replace(zero=memory.zero and kept)
    if cells[0].projection is None:
        output = memory
    for number, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
        if number and number % directions == 0:
            read = output._replace(row=_side_by_side(output.row, directions))
        _read(t, kind.gates, read, cell.inputs, places)
        _read(t, kind.gates, output._replace(zero=output.zero and start), cell.hidden, places)
        if cell.projection is not None:
            _read(t, kind.output.row, memory, cell.projection, places)
    return _Made(None, memory, output)


def _all(t: Tracer, factors: Sequence[Factor]) -> Factor:
    """Units of the same number in all layers and directions go together."""
    return Factor(t.unite(*(one.row for one in factors)), all(one.zero for one in factors), weight=False)


def _made(t: Tracer, cell: _Cell, units: int) -> _Made:
    """What one cell makes, its weights and biases coupled gate by gate."""
    tensors = (cell.inputs, cell.hidden, *cell.biases)
    row = t.unite(*(t.rows(tensor)[0] for tensor in tensors))
    gate, unit = t.split(row, (len(cell.inputs) // units, units))
    t.freeze(gate, "it is a gate of a recurrent cell")
    memory = Factor(unit, all(t.zero(tensor)[0] for tensor in tensors), weight=False)
    output = memory if cell.projection is None else Factor.of(t, cell.projection, 0)
    return _Made(row, memory, output)


def _read(t: Tracer, made: Row, read: Factor, weight: Tensor, places: int) -> None:
    """A product with a weight [made, read] at every place of a sequence."""
    row = sum_over(t, read, Factor.of(t, weight, 1))
    t.cost((places, None), (weight.shape[0], made), (weight.shape[1], row))


def _couple_state(t: Tracer, state: Tensor, row: Row) -> bool:
    """Couple an initial state with the units; whether it is 0 where they are masked."""
    for other in t.rows(state)[:-1]:
        t.freeze(other, "it counts layers, directions or examples of recurrent states")
    t.unite(row, t.rows(state)[-1])
    return t.zero(state)[-1]


def _side_by_side(row: Row, times: int) -> Row:
    return row if row is None or times == 1 else np.tile(row, times)


def _label(t: Tracer, x: Tensor, results: Sequence[Tensor], made: Sequence[Factor]) -> None:
    """Set the rows of results; what is not a unit is a place in a sequence, an example, a layer or a direction."""
    for row in t.rows(x)[:-1]:
        t.freeze(row, "a recurrent layer runs along it")
    for tensor, factor in zip(results, made, strict=False):
        lead = tensor.dim() - 1
        t.set(tensor, (*(None,) * lead, factor.row), (*(False,) * lead, factor.zero))


# ---------------------------------------------------------------- arguments and results


def _stand_ins(t: Tracer, args: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(
        t.stand_in(arg)
        if isinstance(arg, Tensor)
        else list(_stand_ins(t, arg))
        if isinstance(arg, list | tuple)
        else arg
        for arg in args
    )


def _as_list(states: Any) -> list[Tensor]:
    return list(states) if isinstance(states, list | tuple) else [states]


def _cells(params: Sequence[Tensor], biases: int, count: int) -> list[_Cell]:
    """The parameters as PyTorch lays them out: input, hidden, biases, projection, for each layer and direction."""
    size = len(params) // count
    groups = [params[start : start + size] for start in range(0, len(params), size)]
    return [_Cell(one[0], one[1], one[2 : 2 + biases], one[-1] if size > 2 + biases else None) for one in groups]


def _values(t: Tracer, function: Any, args: tuple[Any, ...]) -> list[Tensor] | None:
    """The results, where the operands have values."""
    if not t.real and any(tensor.is_meta for tensor in tensors_in(args)):
        return None
    with torch._C._DisableTorchDispatch():
        return list(tensors_in((function(*args),)))


def _empty(x: Tensor, shape: Sequence[int], *, swapped: bool = False) -> Tensor:
    """A result without values; PyTorch lays out sequences by time, also where the batch is the first axis."""
    if not swapped:
        return torch.empty(shape, dtype=x.dtype, device="meta")
    batch, time, width = shape
    return torch.empty((time, batch, width), dtype=x.dtype, device="meta").transpose(0, 1)
