"""A network's outputs while the weights of units are 0, random, or gone: in eval and train mode, on two inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.build import build, refused
from sparsewood.shrinking.cut import named_tensors
from sparsewood.shrinking.proof import NOTHING, Condition, Probe
from sparsewood.shrinking.running import difference, finite
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Slice, Structure
from sparsewood.testing.checks.shared import expect
from sparsewood.testing.readers import parameter_slices

__all__ = ["Gone", "Numbers"]

_MAX_TRIES = 2

Gone = Mapping[str, Sequence[int]]
"""Units by the names of their groups."""


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
    ) -> None:
        self.structure = structure
        self.generator = generator
        try:
            self.probe = Probe(model, example_inputs, generator)
        except SparsewoodError as error:
            raise AssertionError(str(error)) from error
        self.model, self.conditions = self.probe.model, self.probe.conditions
        self.notes: list[str] = self.probe.notes
        self.leak, self.removed = 1e-8, 1e-5
        if self.probe.coarse:
            self.leak, self.removed = 16 * self.probe.eps, math.sqrt(self.probe.eps)
            self.notes.append(f"compared with a tolerance of {self.removed:.1g}, for it computes in a coarse dtype")
        self.tensors = named_tensors(self.model)

    def _outputs(self, conditions: Sequence[Condition]) -> list[list[Tensor]]:
        return [self.probe.run(one) for one in conditions]

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
        groups = {name: self.structure.group(name) for name in gone}
        slices = {name: parameter_slices(group, self.structure.record) for name, group in groups.items()}
        keep = {name: ~np.isin(np.arange(group.units), gone[name]) for name, group in groups.items()}
        failures = Sizes(self.structure, keep).failures() | refused(self.model, self.structure, keep)
        if failures:
            return next(iter(failures.values()))
        with self._kept([one for ones in slices.values() for one in ones]):
            filled = [(slices[name], units) for name, units in gone.items()]
            conditions, references = self._without_units(self.conditions, filled)
        if not conditions:
            return "the outputs are not finite while it is 0"
        small = build(self.model, self.structure, keep).model
        largest = 0.0
        for condition, reference in zip(conditions, references, strict=True):
            try:
                outputs = self.probe.run(condition, small)
            except Exception as error:
                where = f"{_said(gone)} in {condition.name}"
                raise AssertionError(f"Removal: {where} raises {type(error).__name__}: {error}") from error
            shapes = [[tuple(x.shape) for x in found] for found in (reference, outputs)]
            where = f"{_said(gone)} in {condition.name}"
            expect(shapes[0] == shapes[1], f"Removal: {where} changes the outputs' shapes, {shapes}")
            largest = max(largest, difference(reference, outputs))
        return largest

    def _without_units(
        self, conditions: Sequence[Condition], filled: Sequence[tuple[Sequence[Slice], Sequence[int]]]
    ) -> tuple[list[Condition], list[list[Tensor]]]:
        """Set units to 0. The conditions under which outputs are finite then, and the outputs."""
        found: list[tuple[Condition, list[Tensor]]] = []
        for value in NOTHING:
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


def _said(gone: Gone) -> str:
    """Which units are gone, in words."""
    parts = [
        f"unit{'s' * (len(units) > 1)} {', '.join(map(str, units))} of group {name!r}" for name, units in gone.items()
    ]
    return f"the forward without {' and '.join(parts)}"
