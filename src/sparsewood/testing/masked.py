"""A network's outputs in float64 while the weights of a unit are 0, random, or gone."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood import inputs
from sparsewood.structure import Group, Slice, Structure
from sparsewood.structure.log import Step
from sparsewood.structure.record import Record
from sparsewood.structure.sizes import Attribute, SizeUse
from sparsewood.testing.resizing import assign, integer_sizes, put, sizes_follow, swapped

__all__ = ["Numbers", "parameter_slices", "readers_without_weights"]

_MAX_TRIES = 2


class Numbers:
    """A float64 copy of a network, and what it computes when some of its weights are changed."""

    def __init__(self, model: nn.Module, example_inputs: Any, structure: Structure, generator: torch.Generator) -> None:
        self.structure = structure
        self.model = copy.deepcopy(model).double().eval()
        self.inputs = inputs.map_tensors(_double, example_inputs)
        self.generator = generator
        self.tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])

    def spread(self, *, zero: Sequence[Slice], random: Sequence[Slice], unit: int) -> float | str:
        """How far outputs differ between two random fillings of the unit's `random` slices, `zero` ones being 0."""
        with self._kept([*zero, *random]):
            self._fill(zero, unit, 0.0)
            reference = self._outputs()
            if not _finite(reference):
                return "the outputs are not finite while it is 0"
            difference = 0.0
            for _ in range(_MAX_TRIES):
                self._fill(random, unit, None)
                difference = max(difference, _difference(reference, self._outputs()))
        return difference

    def removal(self, group: Group, parameters: Sequence[Slice], unit: int) -> float | str:
        """How far outputs differ between the network without the unit and with its parameters set to 0."""
        with self._kept(parameters):
            self._fill(parameters, unit, 0.0)
            reference = self._outputs()
        if not _finite(reference):
            return "the outputs are not finite while it is 0"
        with self._without(group, unit), self._rewritten(group, unit):
            try:
                outputs = self._outputs()
            except Exception as error:  # whatever a forward raises whose sizes are attributes
                return f"the forward has sizes of its own: {type(error).__name__}"
        if [x.shape for x in outputs] != [x.shape for x in reference]:
            return "the forward has sizes of its own: the outputs have other shapes"
        return _difference(reference, outputs)

    def _outputs(self) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            torch.default_generator.manual_seed(0)
            positional, keywords = inputs.arguments(self.inputs)
            with without_memory(self.model):
                return [x.detach().clone() for x in _leaves(self.model(*positional, **keywords))]

    def _fill(self, slices: Iterable[Slice], unit: int, value: float | None) -> None:
        """Set the unit's entries to `value`, or to random numbers."""
        with torch.no_grad():
            for one in slices:
                tensor = self.tensors[one.param]
                chosen = torch.from_numpy(np.flatnonzero(one.owner == unit))
                shape = list(tensor.shape)
                shape[one.axis] = len(chosen)
                if value is None:
                    values = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(tensor.dtype)
                else:
                    values = torch.full(shape, value, dtype=tensor.dtype)
                tensor.index_copy_(one.axis, chosen, values)

    @contextmanager
    def _kept(self, slices: Iterable[Slice]) -> Iterator[None]:
        before = {one.param: self.tensors[one.param].detach().clone() for one in slices}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in before.items():
                    self.tensors[name].copy_(values)

    @contextmanager
    def _without(self, group: Group, unit: int) -> Iterator[None]:
        """The network with the unit's positions cut out of its parameters and buffers."""
        cut = dict.fromkeys(one.param for one in group.slices)
        replaced: dict[int, Tensor] = {}
        for name in cut:
            tensor = self.tensors[name].detach()
            for one in group.slices:
                if one.param == name:
                    tensor = tensor.index_select(one.axis, torch.from_numpy(np.flatnonzero(one.owner != unit)))
            is_parameter = isinstance(self.tensors[name], nn.Parameter)
            replaced[id(self.tensors[name])] = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        saved = [(m, dict(m._parameters), dict(m._buffers), integer_sizes(m)) for m in self.model.modules()]
        try:
            for module, parameters, buffers, _ in saved:
                put(module, swapped(parameters, replaced), swapped(buffers, replaced))
            with sizes_follow(self.model):
                yield
        finally:
            for module, parameters, buffers, sizes in saved:
                put(module, parameters, buffers)
                vars(module).update(sizes)

    @contextmanager
    def _rewritten(self, group: Group, unit: int) -> Iterator[None]:
        """The network with the attributes that say how long an axis is counting the unit no more."""
        record = self.structure.record
        number = next(i for i, other in enumerate(self.structure.groups) if other is group)
        gone = (record.group_of == number) & (record.unit_of == unit)
        sizes: dict[Attribute, int] = {}
        for use in record.sizes:
            if isinstance(use, SizeUse) and isinstance(use.expression, Attribute) and use.row is not None:
                left = use.count - int(gone[record.component[use.row[use.row > 0]]].sum())
                sizes[use.expression] = min(left, sizes.get(use.expression, left))
        try:
            for attribute, value in sizes.items():
                assign(vars(self.model.get_submodule(attribute.module)), (attribute.name, *attribute.path), value)
            yield
        finally:
            for attribute in sizes:
                place = (attribute.name, *attribute.path)
                assign(vars(self.model.get_submodule(attribute.module)), place, attribute.value)


@contextmanager
def without_memory(model: nn.Module) -> Iterator[None]:
    """What a forward keeps in attributes of modules, such as a cache, is forgotten behind the block."""
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    containers = [
        (value, copy.copy(value))
        for _, values in attributes
        for name, value in values.items()
        if type(value) in (dict, list) and not name.startswith("_")
    ]
    try:
        yield
    finally:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for value, before in containers:
            value.clear()
            if isinstance(value, dict):
                value.update(before)
            else:
                value.extend(before)


def parameter_slices(group: Group, record: Record) -> list[Slice]:
    """The slices that a mask sets to 0: those of parameters. Statistics in buffers cannot be anything."""
    return [one for one in group.slices if one.param in record.parameters]


def readers_without_weights(record: Record) -> set[int]:
    """Components that an operation without weights of its own adds up: a norm, a product of two activations."""
    own = _weight_steps(record)
    found: set[int] = set()
    for number, step in enumerate(record.steps):
        sources = [row for source in step.sources for row in record.steps[source].rows]
        weights = _components(record, [row for axes in step.weights for row in axes.rows])
        before, after = Counter(_listed(record, sources)), Counter(_listed(record, step.rows))
        lost = (before.keys() | weights) - after.keys()
        found |= lost if number in own else lost - weights
        if step.family == "contraction" and number not in own:
            found |= {one for one, count in before.items() if count - after[one] > 1} - weights
            found |= _inner_axes(record, step)
    return found


def _inner_axes(record: Record, step: Step) -> set[int]:
    """What fused attention adds up: the last axis of its operands, whatever axes its result has."""
    if "attention" not in step.op:
        return set()
    return _components(record, [record.steps[source].rows[-1] for source in step.sources if record.steps[source].rows])


def _weight_steps(record: Record) -> set[int]:
    """The steps that compute with weights alone."""
    todo = [axes.step for step in record.steps for axes in step.weights if axes.step >= 0]
    found: set[int] = set()
    while todo:
        number = todo.pop()
        if number not in found:
            found.add(number)
            todo.extend(record.steps[number].sources)
    return found


def _components(record: Record, rows: Iterable[np.ndarray | None]) -> set[int]:
    return set(_listed(record, rows))


def _listed(record: Record, rows: Iterable[np.ndarray | None]) -> list[int]:
    """The components of rows, once for every row that has them."""
    found: list[int] = []
    for row in rows:
        if row is not None:
            found += np.unique(record.component[row[row > 0]]).tolist()
    return found


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _leaves(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _leaves([getattr(value, one.name) for one in dataclasses.fields(value)])


def _finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in outputs)


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest output."""
    largest = 0.0
    for a, b in zip(first, second, strict=True):
        if a.numel():
            scale = max(1.0, float(a.double().abs().max()))
            found = float((a.double() - b.double()).abs().max()) / scale
            largest = max(largest, float("inf") if math.isnan(found) else found)
    return largest
