"""The contract of a structure: what a trace says of a network holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsewood.structure import Group, Structure, trace
from sparsewood.testing.checks.shared import expect, seeded
from sparsewood.testing.leftovers import refuse_leftovers, state_of
from sparsewood.testing.masked import Gone, Numbers
from sparsewood.testing.readers import parameter_slices, readers_without_weights

__all__ = ["StructureReport", "check_structure"]


@dataclass(frozen=True)
class StructureReport:
    """What `check_structure` could try.

    `leaks`, `removals`: the groups for which each check ran. `skipped`: (group, check) -> why not. `differences`:
    (group, check) -> the largest difference of the outputs, for groups that are not exact. `constants`: groups whose
    units are not 0 when what makes them is (a sigmoid gives 0.5), so that only their readers' weights silence them.
    `together`: the exact groups that lost half of their units at once. `tried`: the modes and inputs that the network
    was run with. `notes`: what could not be tried of those, and what was tried in another way, such as in float32.
    """

    leaks: tuple[str, ...]
    removals: tuple[str, ...]
    constants: tuple[str, ...]
    skipped: Mapping[tuple[str, str], str]
    differences: Mapping[tuple[str, str], float]
    together: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_structure(
    model: nn.Module,
    example_inputs: Any,
    structure: Structure,
    *,
    units: int = 4,
    generator: torch.Generator | None = None,
) -> StructureReport:
    """Check `structure = sw.trace(model, example_inputs)` against the network itself.

    Partition: every position of an axis has at most one owner, and all units of a group own equally many positions in
    each of its slices. Determinism: tracing again gives the same, leaves model and random state alone, and nothing of
    its own behind in the attributes of modules.

    In float64, or where the network does not run so in its own dtype and with a tolerance to match, on the example and
    on random inputs, for the first, the last and `units - 2` random units of every removable group:

    * leak: while what reads the unit is 0, its weights may be anything: nothing else reads it;
    * removal: without the unit, and with the attributes that the structure knows as sizes counting it no more, the
      network computes what it does with the unit's parameters set to 0; so it does in train mode, where that is not
      random. The same holds without a random half of the group's units, and without halves of all exact groups.

    Groups that are not exact may differ in both; the report says by how much. A network that does not run without units
    fails. Sizes that are compared, and modules whose rest no class can hold, may keep units from going. Raises
    `AssertionError` with the group and the check that failed.

    >>> from sparsewood.structure import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> check_structure(model, torch.ones(3, 4), trace(model, torch.ones(3, 4))).removals
    ('0',)
    """
    _check_partition(structure)
    _check_determinism(model, example_inputs, structure)
    return _Values(model, example_inputs, structure, generator or seeded()).run(units)


# ---------------------------------------------------------------- partition, determinism


def _check_partition(structure: Structure) -> None:
    owned: dict[tuple[str, int], np.ndarray] = {
        (name, axis): np.zeros(size, np.int64)
        for name, shape in structure.shapes.items()
        for axis, size in enumerate(shape)
    }
    names = Counter(group.name for group in structure.groups)
    expect(max(names.values(), default=0) <= 1, f"Groups share names: {[name for name, n in names.items() if n > 1]}")
    for group in structure.groups:
        for one in group.slices:
            where = f"{group.name}: axis {one.axis} of {one.param}"
            expect((one.param, one.axis) in owned, f"{where} does not exist")
            count = owned[one.param, one.axis]
            expect(one.owner.shape == count.shape, f"{where} has {len(count)} positions. Got {len(one.owner)} owners")
            if group.frozen_by is not None:
                expect(bool((one.owner == -1).all()), f"{where} is frozen but has owners")
                continue
            count += one.owner >= 0
            expect(count.max(initial=0) <= 1, f"{where} has positions of two owners")
            share = np.bincount(one.owner[one.owner >= 0], minlength=group.units)
            expect(
                len(share) == group.units and bool((share == share[0]).all()) and share[0] > 0,
                f"{where}: the {group.units} units own {share.tolist()} positions",
            )


def _check_determinism(model: nn.Module, example_inputs: Any, structure: Structure) -> None:
    refuse_leftovers(model)
    before = state_of(model)
    again = trace(model, example_inputs)
    after = state_of(model)
    refuse_leftovers(model)
    changed = [what for what in before if before[what] != after.get(what)]
    expect(not changed and len(before) == len(after), f"Tracing changed {', '.join(changed)}")
    first, second = _comparable(structure.groups), _comparable(again.groups)
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    expect(not different, f"Tracing twice gives other groups: {', '.join(different)}")


def _comparable(groups: Iterable[Group]) -> dict[str, object]:
    return {
        group.name: (
            group.units,
            group.inexact,
            group.frozen_by,
            [(one.param, one.axis, one.role, one.owner.tolist()) for one in group.slices],
        )
        for group in groups
    }


# ---------------------------------------------------------------- values


class _Values:
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        structure: Structure,
        generator: torch.Generator,
    ) -> None:
        self.numbers = Numbers(model, example_inputs, structure, generator)
        self.structure = structure
        self.generator = generator
        self.readers = readers_without_weights(structure.record)
        self.ran: dict[str, list[str]] = {"leak": [], "removal": [], "constant": []}
        self.skipped: dict[tuple[str, str], str] = {}
        self.differences: dict[tuple[str, str], float] = {}
        self.notes: list[str] = []

    def run(self, units: int) -> StructureReport:
        for group in self.structure.prunable:
            sample = self._sample(group.units, units)
            unread = self._not_read_by_weights(group)
            if unread:
                self.skipped[group.name, "leak"] = unread
            else:
                self._check(group, "leak", [self._leak(group, unit) for unit in sample])
                if self._is_constant(group, sample[0]):
                    self.ran["constant"].append(group.name)
            self._check_removals(group, sample)
        together = self._check_together()
        ran = {check: tuple(names) for check, names in self.ran.items()}
        return StructureReport(
            ran["leak"],
            ran["removal"],
            ran["constant"],
            self.skipped,
            self.differences,
            together,
            self.numbers.tried,
            (*self.numbers.notes, *self.notes),
        )

    def _sample(self, size: int, count: int) -> list[int]:
        inner = torch.randperm(max(size - 2, 0), generator=self.generator)[: max(count - 2, 0)] + 1
        return sorted({0, size - 1, *inner.tolist()})

    def _half(self, size: int) -> list[int]:
        return sorted(torch.randperm(size, generator=self.generator)[: size // 2].tolist())

    def _check_removals(self, group: Group, sample: Sequence[int]) -> None:
        if group.units == 1:
            self.skipped[group.name, "removal"] = "it is the only unit"
            return
        found = [self.numbers.removal({group.name: [unit]}) for unit in sample]
        if group.units > 3:
            half = self.numbers.removal({group.name: self._half(group.units)})
            if isinstance(half, str) and not any(isinstance(one, str) for one in found):
                self.notes.append(f"not half of group {group.name!r}: {half}")
            else:
                found.append(half)
        self._check(group, "removal", found)

    def _check_together(self) -> tuple[str, ...]:
        """Half of the units of all exact groups that can lose one go at once."""
        ran = set(self.ran["removal"])
        gone: Gone = {
            one.name: self._half(one.units) for one in self.structure.prunable if one.exact and one.name in ran
        }
        if len(gone) < 2:
            return ()
        found = self.numbers.removal(gone)
        if isinstance(found, str):
            self.notes.append(f"not half of all exact groups: {found}")
            return ()
        expect(
            found <= self.numbers.removed,
            f"Groups {', '.join(map(repr, gone))} fail the removal check together by {found:.2g}: "
            "removing half of their units is not the same as setting these to 0",
        )
        return tuple(gone)

    def _check(self, group: Group, check: str, found: list[float | str]) -> None:
        reasons = [one for one in found if isinstance(one, str)]
        if reasons:
            self.skipped[group.name, check] = reasons[0]
            return
        self.ran[check].append(group.name)
        largest = max(one for one in found if isinstance(one, float))
        if not group.exact:
            self.differences[group.name, check] = largest
            return
        meaning = {
            "leak": "something outside of the group reads it",
            "removal": "removing units is not the same as setting them to 0",
        }[check]
        limit = self.numbers.removed if check == "removal" else self.numbers.leak
        expect(
            largest <= limit,
            f"Group {group.name!r} of {group.units} units fails the {check} check by {largest:.2g}: "
            f"{meaning} ({', '.join(f'{one.param}:{one.axis} {one.role}' for one in group.slices)})",
        )

    # ------------------------------------------------------------ why a check does not apply

    def _components(self, group: Group) -> set[int]:
        number = next(i for i, other in enumerate(self.structure.groups) if other is group)
        return set(np.flatnonzero(self.structure.record.group_of == number).tolist())

    def _not_read_by_weights(self, group: Group) -> str:
        roles = {one.role for one in parameter_slices(group, self.structure.record)}
        if "both" in roles:
            return "a weight makes its units and reads them"
        if "in" not in roles:
            return "no weight reads it"
        if "out" not in roles:
            return "no weight makes it"
        return "a sum without weights reads it" if self.readers & self._components(group) else ""

    # ------------------------------------------------------------ the checks: differences, or why there is none

    def _leak(self, group: Group, unit: int) -> float | str:
        slices = parameter_slices(group, self.structure.record)
        made, read = [one for one in slices if one.role == "out"], [one for one in slices if one.role == "in"]
        return self.numbers.spread(zero=read, random=made, unit=unit)

    def _is_constant(self, group: Group, unit: int) -> bool:
        slices = parameter_slices(group, self.structure.record)
        made, read = [one for one in slices if one.role == "out"], [one for one in slices if one.role == "in"]
        found = self.numbers.spread(zero=made, random=read, unit=unit)
        return isinstance(found, float) and found > self.numbers.leak
