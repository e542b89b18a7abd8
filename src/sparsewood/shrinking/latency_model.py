"""How long a network takes once units are gone, predicted from times of its layers at other widths."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sparsewood.inputs import Inputs
from sparsewood.measurement.layer_times import (
    Convolution,
    Layer,
    Product,
    TimeFile,
    TimeTable,
    fitting_step,
)
from sparsewood.measurement.module_times import ModuleTimes
from sparsewood.shrinking.engines import Eager, Engine
from sparsewood.shrinking.plan import Keep
from sparsewood.structure import Structure
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Cost

__all__ = ["LatencyModel"]

_NO_TIME = 1e-9
"""Seconds that stand for none, where one divides."""


@dataclass(frozen=True, slots=True)
class _Work:
    """An operation that multiplies: the table of its times, and which row each of its sizes is."""

    table: TimeTable
    rows: tuple[int, ...]


class LatencyModel:
    """Predicts the latency of what is left of a network, on this machine, for inputs like the example inputs.

    The whole network is timed once, module by module. An operation that multiplies takes that share of its time that it
    takes alone at its new widths (see `layer_times.TimeTable`); what modules do beside shrinks with their outputs, down
    to what any call of a module costs. Where the engine knows nothing of modules, operations share all of the time. The
    sum is scaled so that the whole network takes as long as was measured: `predict({}) == dense`.

    Widths are tried at multiples of `step`, or of a fraction of it where there are few (`layer_times.fitting_step`).
    Times of layers are kept in the directory `cache` for the next time, or, if it is `None`, in memory. `engine` runs
    the network, by default PyTorch. Not modelled: what of the time depends on values, and on units that own unequally
    many positions, of which a mean is taken.

    >>> import sparsewood as sw
    >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    >>> x = torch.zeros(32, 64)
    >>> times = LatencyModel(model, x, sw.trace(model, x))
    >>> half = times.predict({"0": np.arange(256) < 128})
    >>> 0 < half, abs(times.predict({}) / times.dense - 1) < 1e-9
    (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Inputs,
        structure: Structure,
        *,
        step: int = 16,
        engine: Engine | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        engine = engine or Eager()
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        self.step = step
        self.names = tuple(group.name for group in structure.prunable)
        self.units = np.array([group.units for group in structure.prunable], np.int64)
        self._rows = _Rows(structure)
        self._file = TimeFile(engine.layer, engine.machine(device), cache)
        measured = engine.modules(model, example_inputs)
        self.dense = measured.total
        """Seconds of the whole network, as measured."""
        self._works = list(self._tables(model, structure.record.costs, measured))
        self._scales, self._rest = self._shared_out(model, structure, measured, engine.overhead())
        self._rows.close()
        self._factor = 1.0
        self._factor = self.dense / max(self.predict_units(self.units), _NO_TIME)
        self._file.save()

    def predict(self, keep: Keep) -> float:
        """Seconds of a forward pass if these units stay; groups that are not named stay whole."""
        kept = [int(np.count_nonzero(keep[name])) if name in keep else units for name, units in self._known]
        return self.predict_units(np.array(kept, np.int64))

    def predict_units(self, kept: np.ndarray) -> float:
        """Seconds of a forward pass if so many units of each group in `names` stay: int64[groups]."""
        widths = self._rows.widths(kept)
        total = self._rest.seconds(widths / self._rows.sizes)
        whole = np.rint(widths).astype(np.int64).tolist()
        for work, scale in zip(self._works, self._scales, strict=True):
            sizes = tuple(
                whole[row] if row >= 0 else size for row, size in zip(work.rows, work.table.sizes, strict=True)
            )
            total += scale * work.table.seconds(sizes)
        return self._factor * total

    def unit_steps(self) -> np.ndarray:
        """Of how many units the number that stays is best a multiple, in each group: int64[groups]."""
        each = self._rows.most_positions()
        steps = [
            (fit := fitting_step(int(units * share), self.step)) // math.gcd(fit, int(share))
            for units, share in zip(self.units, each, strict=True)
        ]
        return np.array(steps, np.int64)

    def save(self) -> None:
        """Keep on disk what was measured, if there is a `cache`."""
        self._file.save()

    @property
    def _known(self) -> Iterator[tuple[str, int]]:
        return zip(self.names, self.units.tolist(), strict=True)

    # ------------------------------------------------------------ tables

    def _tables(self, model: nn.Module, costs: Sequence[Cost], measured: ModuleTimes) -> Iterator[_Work]:
        """One for each operation that multiplies; equal layers share a table."""
        modules, calls = dict(model.named_modules()), Counter[str]()
        total = Counter(cost.module for cost in costs)
        known: dict[object, TimeTable] = {}
        for cost in costs:
            inputs = measured.inputs.get(cost.module, ())
            one_each = len(inputs) == total[cost.module]
            entered = inputs[calls[cost.module]] if one_each else None
            calls[cost.module] += 1
            layer = _layer(modules.get(cost.module), cost, entered, _place(modules.get(cost.module), model))
            rows = tuple(self._rows.number(row) for row in cost.rows)
            steps = self._steps(layer, cost.sizes, rows)
            key = (layer, cost.sizes, tuple(steps.items()))
            if key not in known:
                known[key] = TimeTable(layer, cost.sizes, steps, self._file)
            yield _Work(known[key], rows)

    def _steps(self, layer: Layer, sizes: tuple[int, ...], rows: tuple[int, ...]) -> dict[int, int]:
        """The factors along which a table is measured, at most two, and the step of each."""
        widths = (2, 3) if isinstance(layer, Convolution) else range(len(sizes))
        varying = [axis for axis in widths if self._rows.shrinks(rows[axis])][-2:]
        batch = range(0 if isinstance(layer, Convolution) else len(sizes) - 3)
        return {axis: 1 if axis in batch else fitting_step(sizes[axis], self.step) for axis in varying}

    # ------------------------------------------------------------ what takes the rest of the time

    def _shared_out(
        self, model: nn.Module, structure: Structure, measured: ModuleTimes, overhead: float
    ) -> tuple[list[float], _Rest]:
        """For each operation how much longer it takes in the network than alone, and all other time."""
        own = {"": 0.0, **measured.own} if measured.own else {"": measured.total}
        where = [cost.module if cost.module in own else "" for cost in structure.record.costs]
        alone = dict.fromkeys(own, 0.0)
        for name, work in zip(where, self._works, strict=True):
            alone[name] += work.table.dense
        inside = {name for name, module in model.named_modules() if any(module.children())} | {""}
        outputs = self._outputs(structure)
        rest, slower = _Rest(), dict[str, float]()
        for name, seconds in own.items():
            # A layer alone pays for its call too, so that only what it takes longer can be a call's.
            calls = overhead * max(len(measured.inputs.get(name, ())), 1)
            calls = min(calls, max(seconds - alone[name], 0.0))
            at_most = 1.0 if name in inside and measured.own else math.inf
            slower[name] = min((seconds - calls) / max(alone[name], _NO_TIME), at_most) if alone[name] else 0.0
            rest.add(calls, [])
            beside = outputs.get(name, []) if name else [rows for each in outputs.values() for rows in each]
            rest.add(seconds - calls - slower[name] * alone[name], beside)
        return [slower[name] for name in where], rest

    def _outputs(self, structure: Structure) -> dict[str, list[tuple[int, ...]]]:
        """The rows of the tensors that leave each module."""
        found: dict[str, list[tuple[int, ...]]] = {}
        for event in structure.record.events:
            if event.at == "output":
                numbers = tuple(self._rows.number(row) for row in event.rows)
                found.setdefault(event.module, []).append(tuple(number for number in numbers if number >= 0))
        return found


class _Rows:
    """Rows by number, and how long they are if so many units of each group stay."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        groups = structure.groups
        self._column = np.full(len(groups) + 1, -1, np.int64)  # the last is for components without a group
        self._column[[i for i, group in enumerate(groups) if group.frozen_by is None]] = np.arange(
            len(structure.prunable)
        )
        self._units = np.array([group.units for group in structure.prunable], np.int64)
        self._numbers: dict[int, int] = {}
        self._shares: list[np.ndarray] = []
        self._sizes: list[int] = []

    def number(self, row: Row) -> int:
        """The number of a row; -1 for those along which nothing shrinks."""
        if row is None or not len(row):
            return -1
        if id(row) not in self._numbers:
            counts = self._counts(row)
            number = -1
            if counts.any():
                number = len(self._sizes)
                self._shares.append(counts / self._units)
                self._sizes.append(len(row))
            self._numbers[id(row)] = number
        return self._numbers[id(row)]

    def _counts(self, row: np.ndarray) -> np.ndarray:
        record = self._structure.record
        columns = self._column[record.group_of[record.component[row[row > 0]]]]
        return np.bincount(columns[columns >= 0], minlength=len(self._units))

    def shrinks(self, number: int) -> bool:
        """Whether the row of this number can get shorter."""
        return number >= 0

    def close(self) -> None:
        """No more rows: from now on they have `widths`."""
        self.sizes = np.array(self._sizes, np.float64)
        self._matrix = np.array(self._shares).reshape(len(self._sizes), len(self._units))

    def widths(self, kept: np.ndarray) -> np.ndarray:
        """How many positions of every row stay, if so many units of each group do."""
        return self.sizes - self._matrix @ (self._units - kept)

    def most_positions(self) -> np.ndarray:
        """How many positions of a row a unit of each group owns at most, at least 1: int64[groups]."""
        most = self._matrix.max(axis=0, initial=1.0)
        return np.maximum(np.rint(most), 1).astype(np.int64)


class _Rest:
    """Seconds that are proportional to sizes of tensors: the products of the shares of some rows that stay."""

    def __init__(self) -> None:
        self._fixed = 0.0
        self._seconds: list[float] = []
        self._rows: list[tuple[int, ...]] = []

    def add(self, seconds: float, tensors: Sequence[tuple[int, ...]]) -> None:
        """`seconds` that are spent on these tensors, given by their rows; without any they stay."""
        shrinking = [rows for rows in tensors if rows]
        self._fixed += seconds * (1 - len(shrinking) / len(tensors) if tensors else 1.0)
        for rows in shrinking:
            self._seconds.append(seconds / len(tensors))
            self._rows.append(rows)

    def seconds(self, shares: np.ndarray) -> float:
        """Seconds if these shares of the rows stay."""
        if not self._rows:
            return self._fixed
        return self._fixed + float(shares_of(shares, self._rows) @ np.array(self._seconds))


def shares_of(shares: np.ndarray, rows: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The product of the shares of the rows of each tensor."""
    starts = np.cumsum([0, *map(len, rows[:-1])])
    return np.multiply.reduceat(shares[np.concatenate(rows)], starts)


def _place(module: nn.Module | None, model: nn.Module) -> tuple[torch.dtype, str]:
    """Data type and device of what a module multiplies."""
    for one in (module, model):
        for tensor in one.parameters() if one is not None else ():
            if tensor.is_floating_point():
                return tensor.dtype, tensor.device.type
    return torch.float32, "cpu"


def _layer(
    module: nn.Module | None,
    cost: Cost,
    entered: tuple[tuple[int, ...], bool] | None,
    place: tuple[torch.dtype, str],
) -> Layer:
    """What an operation that multiplies is: a module's, or as much of it as its sizes tell."""
    dtype, device = place
    if isinstance(module, nn.modules.conv._ConvNd) and entered is not None:
        shape, channels_last = entered
        space = len(module.kernel_size)
        return Convolution(
            shape[len(shape) - space :], tuple(module.kernel_size), tuple(module.stride),
            _padding(module), tuple(module.dilation), module.groups, cost.sizes[2], cost.sizes[3],
            module.transposed, module.bias is not None, channels_last, dtype, device,
        )  # fmt: skip
    if "conv" in cost.op and len(cost.sizes) == 5:
        _, places, channels, inner, kernel = cost.sizes
        plain = ((places,), (kernel,), (1,), (kernel // 2,), (1,))
        return Convolution(*plain, 1, channels, inner, False, False, False, dtype, device)
    linear = isinstance(module, nn.Linear)
    return Product(linear, linear and module.bias is not None, dtype, device)


def _padding(module: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    if not isinstance(module.padding, str):
        return tuple(int(value) for value in module.padding)
    wide = [(kernel - 1) * apart // 2 for kernel, apart in zip(module.kernel_size, module.dilation, strict=True)]
    return tuple(wide) if module.padding == "same" else (0,) * len(wide)
