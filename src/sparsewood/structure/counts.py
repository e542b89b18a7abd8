"""What goes when one unit is removed, counted exactly: entries of parameters and buffers, multiply-adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import numpy as np

from sparsewood.structure.log import Cost
from sparsewood.structure.record import Record
from sparsewood.structure.structure import Slice, Structure

__all__ = [
    "buffers_of_units",
    "entries_of_groups",
    "entries_removed",
    "macs_of_units",
    "parameters_of_units",
    "share_prunable",
    "slices_by_tensor",
    "total_macs",
    "total_parameters",
]

# ---------------------------------------------------------------- entries


def parameters_of_units(structure: Structure) -> dict[str, np.ndarray]:
    """For every removable group, how many entries of parameters go with each unit alone: int64[units].

    Of a parameter with N entries and axes of sizes s_k, of which the unit owns n_k positions, N - prod(s_k - n_k) go:
    an entry that lies on two axes of the unit is counted once. The parts of several units overlap where the axes of one
    parameter belong to them, so these numbers do not add up to what several units remove.
    """
    return _entries_of_units(structure, structure.record.parameters)


def buffers_of_units(structure: Structure) -> dict[str, np.ndarray]:
    """For every removable group, how many entries of buffers go with each unit alone: int64[units]."""
    return _entries_of_units(structure, structure.shapes.keys() - structure.record.parameters)


def _entries_of_units(structure: Structure, names: Iterable[str]) -> dict[str, np.ndarray]:
    names = frozenset(names)
    found = {}
    for group in structure.prunable:
        total = np.zeros(group.units, np.int64)
        for name, slices in slices_by_tensor(group.slices).items():
            if name in names:
                total += entries_removed(structure.shapes[name], slices, group.units)
        found[group.name] = total
    return found


def entries_removed(shape: Sequence[int], slices: Iterable[Slice], units: int) -> np.ndarray:
    """How many entries of a tensor go with each unit alone: int64[units]; `slices` are the group's of this tensor.

    >>> both = [Slice("w", 0, np.array([0, 1, -1])), Slice("w", 1, np.array([0, 1, -1]))]
    >>> entries_removed((3, 3), both, 2)
    array([5, 5])
    """
    left = np.full(units, prod(shape), np.int64)
    for one in slices:
        size = shape[one.axis]
        if size:
            left = left // size * (size - np.bincount(one.owner[one.owner >= 0], minlength=units))
    return prod(shape) - left


def slices_by_tensor(slices: Iterable[Slice]) -> dict[str, list[Slice]]:
    """The slices of each parameter or buffer, in their order."""
    found: dict[str, list[Slice]] = {}
    for one in slices:
        found.setdefault(one.param, []).append(one)
    return found


def entries_of_groups(structure: Structure) -> dict[str, int]:
    """For every removable group, how many entries of parameters lie in one of its units or more.

    An entry may lie in units of two groups, one for each of its axes; it is then counted for both.
    """
    found = {}
    for group in structure.prunable:
        count = 0
        for name, slices in slices_by_tensor(group.slices).items():
            if name in structure.record.parameters:
                held = {one.axis: int((one.owner < 0).sum()) for one in slices}
                count += _entries_outside(structure.shapes[name], held)
        found[group.name] = count
    return found


def share_prunable(structure: Structure) -> float:
    """The share of parameters that lie in at least one removable unit; 0 if there are none."""
    total = total_parameters(structure)
    return sum(entries_prunable(structure).values()) / total if total else 0.0


def entries_prunable(structure: Structure) -> dict[str, int]:
    """For every parameter, how many of its entries lie in at least one removable unit."""
    owned: dict[str, dict[int, np.ndarray]] = {}
    for group in structure.prunable:
        for one in group.slices:
            axes = owned.setdefault(one.param, {})
            axes[one.axis] = axes.get(one.axis, False) | (one.owner >= 0)
    held = {name: {axis: int((~flags).sum()) for axis, flags in axes.items()} for name, axes in owned.items()}
    shapes = structure.shapes
    return {
        name: _entries_outside(shapes[name], held.get(name, {}))
        for name in shapes
        if name in structure.record.parameters
    }


def _entries_outside(shape: Sequence[int], held: Mapping[int, int]) -> int:
    """How many entries do not lie in the block of `held[axis]` positions along each axis (all of them by default)."""
    return prod(shape) - prod(held.get(axis, size) for axis, size in enumerate(shape))


def total_parameters(structure: Structure) -> int:
    """The number of entries of all parameters; tied ones count once."""
    return sum(prod(shape) for name, shape in structure.shapes.items() if name in structure.record.parameters)


# ---------------------------------------------------------------- multiply-adds


def total_macs(structure: Structure) -> int:
    """Multiply-adds of one forward on the example inputs: products in convolutions, matrix products, attention."""
    return sum(prod(cost.sizes) for cost in structure.record.costs)


def macs_of_units(structure: Structure) -> dict[str, np.ndarray]:
    """For every removable group, how many multiply-adds go with each unit alone: int64[units].

    An operation multiplies prod(s_k) times; without a unit that owns n_k positions along its factors, prod(s_k - n_k)
    times. As of parameters, the numbers of several units do not add up.
    """
    record = structure.record
    of_component = np.zeros(len(record.group_of), np.int64)
    for cost in record.costs:
        for components, removed in _removed(cost, record):
            np.add.at(of_component, components, removed)
    found = {}
    for number, group in enumerate(structure.groups):
        if group.frozen_by is None:
            components = np.flatnonzero(record.group_of == number)
            counts = np.zeros(group.units, np.int64)
            counts[record.unit_of[components]] = of_component[components]
            found[group.name] = counts
    return found


def _removed(cost: Cost, record: Record) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The components that own positions of an operation's factors, and how many products each takes with it."""
    factors = []
    for row in cost.rows:
        owned = record.component[row[row > 0]] if row is not None else np.zeros(0, np.int64)
        factors.append(np.unique(owned, return_counts=True))
    components = np.unique(np.concatenate([one for one, _ in factors])) if factors else np.zeros(0, np.int64)
    components = components[record.group_of[components] >= 0]
    if not len(components):
        return
    left = np.ones(len(components), np.int64)
    for size, (one, counts) in zip(cost.sizes, factors, strict=True):
        place = np.searchsorted(one, components)
        place[place == len(one)] = 0
        mine = one[place] == components if len(one) else np.zeros(len(components), bool)
        left *= size - np.where(mine, counts[place] if len(one) else 0, 0)
    yield components, prod(cost.sizes) - left
