"""A network's outputs while the weights of units are 0, random, or gone: in eval and train mode, on two inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood import inputs
from sparsewood.structure import Group, Slice, Structure
from sparsewood.structure.expressions import Attribute, evaluate, text
from sparsewood.structure.sizes import COMPARISONS, Comparison, SizeUse
from sparsewood.testing.checks.shared import expect
from sparsewood.testing.duplicates import Coarsest, duplicate
from sparsewood.testing.readers import parameter_slices
from sparsewood.testing.resizing import Insisting, assign, insists, integer_sizes, put, sizes_follow, swapped
from sparsewood.testing.running import always_alike, difference, finite, others, shuffled, tensors_in

__all__ = ["Gone", "Numbers"]

_MAX_TRIES = 2
_HALF_PRECISION = 1e-4
"""What is computed in a dtype with a larger step than this is so coarse that float64 around it does not help."""

_NOTHING = (0.0, 1e-15)
"""What stands for 0: the second where the first is divided by itself, as in weight normalisation."""

_STILL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Modules that stay in eval mode: one batch's statistics depend on what is masked, and random masks on shapes."""

Gone = Mapping[str, Sequence[int]]
"""Units by the names of their groups."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Condition:
    """How the network is run."""

    name: str
    inputs: Any
    training: bool


class Numbers:
    """A copy of a network, in float64 where it runs so, and what it computes when some of its weights are changed.

    `tried` names the conditions that it is run under, `notes` say what could not be tried; `leak` and `removed` are how
    much outputs may differ.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        structure: Structure,
        generator: torch.Generator,
        insisting: Sequence[Insisting],
    ) -> None:
        self.structure = structure
        self.generator = generator
        self.insisting = insisting
        self.notes: list[str] = []
        self.leak, self.removed = 1e-8, 1e-5
        self.model, self.inputs = self._copied(model, example_inputs)
        self.tensors = dict([*self._named(nn.Module.named_parameters), *self._named(nn.Module.named_buffers)])
        self.conditions = self._conditions()

    # ------------------------------------------------------------ the copy, and how it is run

    def _named(self, of: Any) -> Iterator[tuple[str, Tensor]]:
        return of(self.model, remove_duplicate=False)

    def _copied(self, model: nn.Module, example_inputs: Any) -> tuple[nn.Module, Any]:
        """The network and its inputs in float64; in their own dtypes if it does not run so."""
        for double in (True, False):
            self.model = duplicate(model, double=double)
            prepared = inputs.map_tensors(_double, example_inputs) if double else example_inputs
            coarsest = Coarsest()
            try:
                outputs = self._run(_Condition("", prepared, training=False), within=coarsest)
            except Exception as error:  # whatever a forward raises that asks for a dtype
                if not double:
                    raise
                self.notes.append(f"not in float64: {type(error).__name__}: {error}")
                continue
            expect(bool(outputs), f"{type(model).__name__} returns no tensor, so that nothing can be compared")
            if not double or coarsest.eps > _HALF_PRECISION:
                self.leak, self.removed = 16 * coarsest.eps, math.sqrt(coarsest.eps)
                self.notes.append(f"compared with a tolerance of {self.removed:.1g}, for it computes in a coarse dtype")
            return self.model, prepared
        raise AssertionError

    def _conditions(self) -> tuple[_Condition, ...]:
        eval_mode = _Condition("eval mode", self.inputs, training=False)
        found = [eval_mode]
        for kind in (others, shuffled):
            other = inputs.map_tensors(lambda tensor, kind=kind: kind(tensor, self.generator), self.inputs)
            condition = _Condition("eval mode, random inputs", other, training=False)
            why = self._unusable(condition)
            if not why:
                found.append(condition)
                break
        else:
            self.notes.append(f"not on random inputs: {why}")
        for one in tuple(found):
            condition = dataclasses.replace(one, name=one.name.replace("eval", "train"), training=True)
            why = self._unusable(condition)
            if why:
                self.notes.append(f"not in {condition.name}: {why}")
            else:
                found.append(condition)
        return tuple(found)

    def _unusable(self, condition: _Condition) -> str:
        try:
            outputs = self._run(condition)
            again = self._run(condition, seed=1) if condition.training else outputs
        except Exception as error:  # a forward may refuse values, or want labels in train mode
            return f"{type(error).__name__}: {error}"
        if not outputs:
            return "no tensor is returned"
        if not finite(outputs):
            return "the outputs are not finite"
        same = [x.shape for x in outputs] == [x.shape for x in again] and difference(outputs, again) == 0
        return "" if same else "the outputs are random"

    def _run(self, condition: _Condition, *, seed: int = 0, within: Any = None) -> list[Tensor]:
        self.model.train(condition.training)
        for module in self.model.modules():
            if isinstance(module, _STILL):
                module.eval()
        positional, keywords = inputs.arguments(inputs.map_tensors(torch.clone, condition.inputs))
        with always_alike(self.model, seed), within or nullcontext():
            result = self.model(*positional, **keywords)
            return [x.detach().clone() for x in tensors_in(result, set())]

    def _outputs(self, conditions: Sequence[_Condition]) -> list[list[Tensor]]:
        return [self._run(one) for one in conditions]

    @property
    def tried(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.conditions)

    # ------------------------------------------------------------ the checks: differences, or why there is none

    def spread(self, *, zero: Sequence[Slice], random: Sequence[Slice], unit: int) -> float | str:
        """How far outputs differ between two random fillings of the unit's `random` slices, `zero` ones being 0."""
        conditions = [one for one in self.conditions if not one.training]
        with self._kept([*zero, *random]):
            conditions, references = self._without_units(conditions, [(zero, [unit])])
            if not conditions:
                return "the outputs are not finite while it is 0"
            largest = 0.0
            for _ in range(_MAX_TRIES):
                self._fill(random, [unit], None)
                for reference, outputs in zip(references, self._outputs(conditions), strict=True):
                    largest = max(largest, difference(reference, outputs))
        return largest

    def removal(self, gone: Gone) -> float | str:
        """How far outputs differ between the network without these units and with their parameters set to 0.

        Text says why that does not apply. Raises `AssertionError` if the network does not run without them.
        """
        record = self.structure.record
        groups = {name: self.structure.group(name) for name in gone}
        slices = {name: parameter_slices(group, record) for name, group in groups.items()}
        without = self._components(groups, gone)
        why_not = self._decided_otherwise(without)
        if why_not:
            return why_not
        with self._kept([one for ones in slices.values() for one in ones]):
            filled = [(slices[name], units) for name, units in gone.items()]
            conditions, references = self._without_units(self.conditions, filled)
        if not conditions:
            return "the outputs are not finite while it is 0"
        largest = 0.0
        with self._without(groups, gone), self._rewritten(without):
            for condition, reference in zip(conditions, references, strict=True):
                try:
                    outputs = self._run(condition)
                except Exception as error:
                    why_not = insists(error, self.insisting)
                    if why_not:
                        return why_not
                    where = f"{_said(gone)} in {condition.name}"
                    raise AssertionError(f"Removal: {where} raises {type(error).__name__}: {error}") from error
                shapes = [[tuple(x.shape) for x in found] for found in (reference, outputs)]
                where = f"{_said(gone)} in {condition.name}"
                expect(shapes[0] == shapes[1], f"Removal: {where} changes the outputs' shapes, {shapes}")
                largest = max(largest, difference(reference, outputs))
        return largest

    def _without_units(
        self, conditions: Sequence[_Condition], filled: Sequence[tuple[Sequence[Slice], Sequence[int]]]
    ) -> tuple[list[_Condition], list[list[Tensor]]]:
        """Set units to 0. The conditions under which outputs are finite then, and the outputs."""
        found: list[tuple[_Condition, list[Tensor]]] = []
        for value in _NOTHING:
            for slices, units in filled:
                self._fill(slices, units, value)
            pairs = zip(conditions, self._outputs(conditions), strict=True)
            found = [(one, outputs) for one, outputs in pairs if finite(outputs)]
            if found:
                break
        return [one for one, _ in found], [outputs for _, outputs in found]

    # ------------------------------------------------------------ changed weights

    def _fill(self, slices: Iterable[Slice], units: Sequence[int], value: float | None) -> None:
        """Set the units' entries to `value`, or to random numbers."""
        with torch.no_grad():
            for one in slices:
                tensor = self.tensors[one.param]
                chosen = torch.from_numpy(np.flatnonzero(np.isin(one.owner, units)))
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
    def _without(self, groups: Mapping[str, Group], gone: Gone) -> Iterator[None]:
        """The network with the units' positions cut out of its parameters and buffers."""
        keep: dict[str, dict[int, np.ndarray]] = {}
        for name, units in gone.items():
            for one in groups[name].slices:
                axes = keep.setdefault(one.param, {})
                axes[one.axis] = axes.get(one.axis, True) & ~np.isin(one.owner, units)
        replaced: dict[int, Tensor] = {}
        for name, axes in keep.items():
            tensor = self.tensors[name].detach()
            for axis, kept in axes.items():
                tensor = tensor.index_select(axis, torch.from_numpy(np.flatnonzero(kept)))
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

    # ------------------------------------------------------------ changed sizes

    def _components(self, groups: Mapping[str, Group], gone: Gone) -> np.ndarray:
        """Which components go with the units."""
        record = self.structure.record
        numbers = {id(group): number for number, group in enumerate(self.structure.groups)}
        found = np.zeros(len(record.group_of), bool)
        for name, units in gone.items():
            found |= (record.group_of == numbers[id(groups[name])]) & np.isin(record.unit_of, units)
        return found

    def _left(self, row: np.ndarray, without: np.ndarray) -> int:
        return len(row) - int(without[self.structure.record.component[row[row > 0]]].sum())

    def _sizes(self, without: np.ndarray) -> dict[Attribute, int]:
        """What the attributes that say how long an axis is say without these components."""
        sizes: dict[Attribute, int] = {}
        for use in self.structure.record.sizes:
            if isinstance(use, SizeUse) and isinstance(use.expression, Attribute) and use.row is not None:
                left = use.count - (len(use.row) - self._left(use.row, without))
                sizes[use.expression] = min(left, sizes.get(use.expression, left))
        return sizes

    def _decided_otherwise(self, without: np.ndarray) -> str:
        """The comparison of sizes that the forward made and that would now go the other way."""
        sizes = self._sizes(without)
        for use in self.structure.record.sizes:
            if isinstance(use, Comparison):
                left, right = (
                    evaluate(side, lambda one: sizes.get(one, one.value), lambda row: self._left(row, without))
                    for side in (use.left, use.right)
                )
                if COMPARISONS[use.symbol](left, right) != use.outcome:
                    return f"the forward depends on whether {text(use.left)} {use.symbol} {text(use.right)}"
        return ""

    @contextmanager
    def _rewritten(self, without: np.ndarray) -> Iterator[None]:
        """The network with the attributes that say how long an axis is counting the units no more."""
        sizes = self._sizes(without)
        try:
            for attribute, value in sizes.items():
                assign(vars(self.model.get_submodule(attribute.module)), (attribute.name, *attribute.path), value)
            yield
        finally:
            for attribute in sizes:
                place = (attribute.name, *attribute.path)
                assign(vars(self.model.get_submodule(attribute.module)), place, attribute.value)


def _said(gone: Gone) -> str:
    """Which units are gone, in words."""
    parts = [
        f"unit{'s' * (len(units) > 1)} {', '.join(map(str, units))} of group {name!r}" for name, units in gone.items()
    ]
    return f"the forward without {' and '.join(parts)}"


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
