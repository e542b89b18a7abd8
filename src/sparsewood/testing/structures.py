"""The contract of a structure: what a trace says of a network holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsewood.structure import Group, Structure, trace
from sparsewood.testing.checks.shared import expect, fingerprint, seeded
from sparsewood.testing.masked import Numbers, parameter_slices, readers_without_weights

__all__ = ["StructureReport", "check_structure"]

_LEAK = 1e-8
_REMOVED = 1e-5


@dataclass(frozen=True)
class StructureReport:
    """What `check_structure` could try.

    `leaks`, `removals`: the groups for which each check ran. `skipped`: (group, check) -> why not. `differences`:
    (group, check) -> the largest difference of the outputs, for groups that are not exact. `constants`: groups whose
    units are not 0 when what makes them is (a sigmoid gives 0.5), so that only their readers' weights silence them.
    """

    leaks: tuple[str, ...]
    removals: tuple[str, ...]
    constants: tuple[str, ...]
    skipped: Mapping[tuple[str, str], str]
    differences: Mapping[tuple[str, str], float]


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
    each of its slices. Determinism: tracing again gives the same, and leaves model and random state alone.

    In float64, for the first, the last and `units - 2` random units of every removable group:

    * leak: while what reads the unit is 0, its weights may be anything: nothing else reads it;
    * removal: without the unit, and with the attributes that the structure knows as sizes counting it no more, the
      network computes what it does with the unit's parameters set to 0. Where that does not run, the report says so.

    Groups that are not exact may fail both; the report says by how much. Raises `AssertionError` with the group
    and the check that failed.

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
    before = _state(model)
    again = trace(model, example_inputs)
    after = _state(model)
    changed = [what for what in before if before[what] != after.get(what)]
    expect(not changed and len(before) == len(after), f"Tracing changed {', '.join(changed)}")
    first, second = _comparable(structure.groups), _comparable(again.groups)
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    expect(not different, f"Tracing twice gives other groups: {', '.join(different)}")


def _state(model: nn.Module) -> dict[str, object]:
    values = fingerprint(model)
    values["grad mode"] = torch.is_grad_enabled()
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            values[f"{name}.{key}" if name else key] = (type(value), _contents(value))
    return values


def _contents(value: object) -> object:
    """What is compared of an attribute: plain values, and which objects are in a container, such as a cache."""
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): _contents(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_contents(item) for item in value]
    return id(value)


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
    def __init__(self, model: nn.Module, example_inputs: Any, structure: Structure, generator: torch.Generator) -> None:
        self.numbers = Numbers(model, example_inputs, structure, generator)
        self.structure = structure
        self.generator = generator
        self.readers = readers_without_weights(structure.record)
        self.ran: dict[str, list[str]] = {"leak": [], "removal": [], "constant": []}
        self.skipped: dict[tuple[str, str], str] = {}
        self.differences: dict[tuple[str, str], float] = {}

    def run(self, units: int) -> StructureReport:
        for group in self.structure.prunable:
            sample = self._sample(group.units, units)
            for check, difference, why_not in (
                ("leak", self._leak, self._not_read_by_weights(group)),
                ("removal", self._removal, "" if group.units > 1 else "it is the only unit"),
            ):
                if why_not:
                    self.skipped[group.name, check] = why_not
                else:
                    self._check(group, check, [difference(group, unit) for unit in sample])
            if not self._not_read_by_weights(group) and self._is_constant(group, sample[0]):
                self.ran["constant"].append(group.name)
        ran = {check: tuple(names) for check, names in self.ran.items()}
        return StructureReport(ran["leak"], ran["removal"], ran["constant"], self.skipped, self.differences)

    def _sample(self, size: int, count: int) -> list[int]:
        inner = torch.randperm(max(size - 2, 0), generator=self.generator)[: max(count - 2, 0)] + 1
        return sorted({0, size - 1, *inner.tolist()})

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
            "removal": "removing a unit is not the same as setting it to 0",
        }[check]
        limit = _REMOVED if check == "removal" else _LEAK
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
        return isinstance(found, float) and found > _LEAK

    def _removal(self, group: Group, unit: int) -> float | str:
        return self.numbers.removal(group, parameter_slices(group, self.structure.record), unit)
