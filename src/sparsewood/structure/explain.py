"""Why units hang together, and why some stay: the couplings of one group, or what owns one parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np

from sparsewood.errors import UnknownName
from sparsewood.structure.counts import buffers_of_units
from sparsewood.structure.labels import Reason
from sparsewood.structure.names import Places, braced, collapsed, counted, place, ranged
from sparsewood.structure.reasons import short_op
from sparsewood.structure.structure import Barrier, Group, Slice, Structure

__all__ = ["explain"]

_MANY = 40
"""Lines of one kind that are shown of a group."""


def explain(structure: Structure, name: str | Group) -> str:
    """What is known of a group, of a parameter or of a module's parameters, in plain text.

    Of a group: where its units are made and read, which operations couple these places, in the order in which they
    ran, which axes were seen as rectangles and which of their sides shrinks, and why it is not exact or why it stays.
    Of a parameter: to which groups its positions belong, axis by axis, and why the others stay.

    Raises `UnknownName` if there is nothing of that name.
    """
    if isinstance(name, Group):
        return _group(structure, name)
    for group in structure.groups:
        if group.name == name:
            return _group(structure, group)
    tensors = [one for one in structure.shapes if one == name or one.startswith(f"{name}.")]
    if not tensors:
        frozen = [group.name for group in structure.groups if group.frozen_by is not None]
        known = [*(group.name for group in structure.prunable), *structure.shapes, *frozen]
        raise UnknownName.among("group, parameter or module", name, known)
    return "\n\n".join(_tensor(structure, one) for one in tensors)


# ---------------------------------------------------------------- groups


def _group(structure: Structure, group: Group) -> str:
    components = _components(structure, group)
    lines = _frozen_head(structure, group, components) if group.frozen_by else _removable_head(structure, group)
    lines += _section("Coupled by, in the order in which it ran", _couplings(structure, components))
    lines += _section("Rectangles", _rectangles(structure, components))
    return "\n".join(lines)


def _removable_head(structure: Structure, group: Group) -> list[str]:
    goes = [f"{ranged(structure.unit_parameters[group.name])} parameters"]
    goes += _if_any(buffers_of_units(structure)[group.name], "entries of buffers")
    goes += _if_any(structure.unit_macs[group.name], "multiply-adds")
    lines = [f"{group.name}: {counted(group.units, 'unit')}; with one alone go {', '.join(goes)}"]
    titles = {"out": "Made at", "in": "Read at", "both": "Made and read at (tied)"}
    for role, title in titles.items():
        lines += _section(title, _with_counts([one for one in group.slices if one.role == role], group))
    lines += _section("Removing a unit is not the same as setting it to zero", group.inexact)
    lines += _section("Seen at", (f"{tap.at} of {tap.module or 'the network'}, axis {tap.axis}" for tap in group.taps))
    return lines


def _frozen_head(structure: Structure, group: Group, components: np.ndarray) -> list[str]:
    lines = [f"{group.name}: {counted(group.units, 'unit')} that stay{'s' if group.units == 1 else ''}"]
    lines += _section("Held by", _reasons(structure, components))
    lines += _section("What it would take", _advice(structure, components))
    lines += _section("Places", braced(map(place, group.slices)))
    return lines


def _with_counts(slices: Iterable[Slice], group: Group) -> Iterator[str]:
    """Places, and how much of them is the group's where it is not all of it by one position for each unit."""
    alike: dict[str, list[str]] = {}
    for one in slices:
        owned = int((one.owner >= 0).sum())
        each = owned // max(group.units, 1)
        notes = [f"{each} positions for each unit"] if each != 1 else []
        notes += [f"{owned} of {len(one.owner)} positions"] if owned < len(one.owner) else []
        alike.setdefault(f" ({', '.join(notes)})" if notes else "", []).append(place(one))
    for note, places in alike.items():
        yield from (f"{one}{note}" for one in braced(places))


def _section(title: str, lines: Iterable[str]) -> list[str]:
    lines = collapsed(lines, "  ")
    more = [f"  and {len(lines) - _MANY} more"] if len(lines) > _MANY else []
    return [f"{title}:", *lines[:_MANY], *more] if lines else []


def _if_any(counts: np.ndarray, what: str) -> list[str]:
    return [f"{ranged(counts)} {what}"] if counts.any() else []


# ---------------------------------------------------------------- couplings


def _components(structure: Structure, group: Group) -> np.ndarray:
    """The components that make up a group; of a frozen one those in its places that its reason held first."""
    record = structure.record
    if group.frozen_by is None:
        names = [one.name for one in structure.groups]
        return np.flatnonzero(record.group_of == names.index(group.name))
    places = {(one.param, one.axis) for one in group.slices}
    rows = [_row(structure, *one) for one in places]
    components = np.unique(record.component[np.concatenate(rows)]) if rows else np.zeros(0, np.int64)
    held = [one for one in components.tolist() if _first_reason(structure, one) == group.frozen_by]
    return np.array(held, np.int64)


def _first_reason(structure: Structure, component: int) -> str | None:
    numbers = structure.record.reasons_of.get(component)
    return str(_barrier(structure.record.reasons[numbers[0]])) if numbers else None


def _row(structure: Structure, name: str, axis: int) -> np.ndarray:
    """The labels of one axis."""
    for span in structure.record.spans:
        if (span.param, span.axis) == (name, axis):
            return np.arange(span.start, span.start + span.size)
    return np.zeros(0, np.int64)


def _members(structure: Structure, components: np.ndarray) -> np.ndarray:
    """For every label, whether it belongs to one of the components."""
    chosen = np.zeros(int(structure.record.component.max(initial=0)) + 1, bool)
    chosen[components] = True
    return chosen[structure.record.component]


def _couplings(structure: Structure, components: np.ndarray) -> Iterator[str]:
    record, places = structure.record, Places(structure.record)
    member = _members(structure, components)
    found: dict[tuple[int, str], list[str]] = {}
    for first, second, step in sorted(record.edges, key=lambda edge: edge[2]):
        mine = member[first]
        if mine.any():
            one, other = places.of(first[mine]), places.of(second[mine])
            if one != other:
                found.setdefault((step, one), []).append(other)
    for (step, one), others in found.items():
        yield f"{_ran(structure, step)}: {one} = {', '.join(braced(others))}"


def _ran(structure: Structure, step: int) -> str:
    if not 0 <= step < len(structure.record.steps):
        return "the network"
    ran = structure.record.steps[step]
    return short_op(ran.op) + (f" in {ran.module}" if ran.module else "")


def _rectangles(structure: Structure, components: np.ndarray) -> Iterator[str]:
    places, member = Places(structure.record), _members(structure, components)
    for split, side in structure.record.splits:
        labels = np.concatenate([split.parent, split.left, split.right])
        if member[labels[labels > 0]].any():
            a, b = len(split.left), len(split.right)
            goes = {"left": f"whole blocks go (of {a})", "right": f"places in all blocks go (of {b})"}.get(side)
            if goes is None:
                blocks, inside = _first_of(structure, split.left), _first_of(structure, split.right)
                goes = f"neither can go; the blocks: {blocks}; the places in a block: {inside}"
            yield f"{_ran(structure, split.op)}: {places.of(split.parent, 1)} as {a} blocks of {b}: {goes}"


def _first_of(structure: Structure, row: np.ndarray) -> str:
    """The first reason why one of the labels stays."""
    record = structure.record
    numbers = [record.reasons_of.get(one, ()) for one in np.unique(record.component[row[row > 0]]).tolist()]
    first = min((min(one) for one in numbers if one), default=None)
    return "no parameter owns all of them" if first is None else str(_barrier(record.reasons[first]))


# ---------------------------------------------------------------- reasons


def _reasons(structure: Structure, components: Sequence[int] | np.ndarray) -> list[str]:
    """All reasons that hold components, with how many each, most first."""
    numbers = Counter(number for one in components for number in structure.record.reasons_of.get(int(one), ()))
    return [_reason(structure.record.reasons[number], count) for number, count in numbers.most_common()]


def _advice(structure: Structure, components: np.ndarray) -> list[str]:
    """What it would take, for the reasons of the components in their order."""
    numbers = Counter(number for one in components for number in structure.record.reasons_of.get(int(one), ()))
    advice = [_barrier(structure.record.reasons[number]).advice for number, _ in numbers.most_common()]
    return [one for one in dict.fromkeys(advice) if one]


def _reason(reason: Reason, count: int) -> str:
    shapes = f", shapes {reason.shapes}" if reason.shapes else ""
    return f"{counted(count, 'unit')}: {_barrier(reason)}{shapes}"


def _barrier(reason: Reason) -> Barrier:
    return Barrier(reason.op, reason.module, reason.shapes, reason.why)


# ---------------------------------------------------------------- parameters


def _tensor(structure: Structure, name: str) -> str:
    shape = structure.shapes[name]
    kind = "parameter" if name in structure.record.parameters else "buffer"
    lines = [f"{name}: {kind} {list(shape)}, {prod(shape):,} entries"]
    for axis, size in enumerate(shape):
        lines += [f"axis {axis} ({size}):", *_axis(structure, name, axis, size)]
    return "\n".join(lines)


def _axis(structure: Structure, name: str, axis: int, size: int) -> list[str]:
    lines = []
    owned = np.zeros(size, bool)
    for group in structure.prunable:
        for one in group.slices:
            if (one.param, one.axis) == (name, axis):
                mine = one.owner >= 0
                owned |= mine
                made = {"out": "made here", "in": "read here", "both": "made and read here"}[one.role]
                lines.append(f"  {counted(int(mine.sum()), 'position')}: units of {group.name}, {made}")
    row = _row(structure, name, axis)
    if len(row) and not owned.all():
        components = np.unique(structure.record.component[row[~owned]])
        lines.append(f"  {counted(int((~owned).sum()), 'position')} that stay:")
        lines += [f"    {line}" for line in _reasons(structure, components)[:_MANY]]
        lines += [f"    {line}" for line in _rectangles(structure, components)]
    return lines
