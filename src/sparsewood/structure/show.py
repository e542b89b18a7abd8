"""A structure as a table: what can go, what stays, and why."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from sparsewood.structure.counts import (
    macs_of_units,
    parameters_of_units,
    share_prunable,
    total_macs,
    total_parameters,
)
from sparsewood.structure.names import (
    bundled,
    counted,
    fitted,
    general,
    middle,
    pattern,
    percent,
    reason_text,
    relative,
    short,
)
from sparsewood.structure.structure import Barrier, Group, Role, Structure

__all__ = ["summary"]

_ALIKE = 3
"""From so many on, groups that differ only in the numbers of their layers share a line."""

_LEGEND = "params, MACs: what goes with one unit alone; +3: 3 more axes; a leading dot: the module of the group's name"


def summary(structure: Structure, *, width: int = 120, groups: int = 40, reasons: int = 12) -> str:
    """The structure in plain text, at most `width` wide: a line for each group that can be removed from, then what
    stays and why, most parameters first. `groups` and `reasons` are how many lines there are of each.

    A line stands for several groups where layers are alike: `h.*.mlp.c_fc` with x12 in the column `times`. The numbers
    of parameters and MACs are of what goes with one unit alone. In the last column are the axes where units are made,
    and those where they are read (`+3`: and 3 more); a leading dot stands for the module that the group's name begins
    with. `explain` has the details of one group.
    """
    return "\n".join(
        [
            _header(structure),
            *_table(structure, width, groups),
            *_stays(structure, width, reasons),
            *_notes(structure, width),
        ]
    )


def _header(structure: Structure) -> str:
    units = sum(group.units for group in structure.prunable)
    macs = total_macs(structure)
    return (
        f"{total_parameters(structure):,} parameters, {percent(share_prunable(structure))} of them in units that "
        f"can be removed: {counted(len(structure.prunable), 'group')}, {counted(units, 'unit')}"
        + (f"; {short(macs)} multiply-adds" if macs else "")
    )


# ---------------------------------------------------------------- what can go


@dataclass(frozen=True)
class _Line:
    """Groups that are alike: how many, and what holds for each of them."""

    groups: tuple[Group, ...]
    parameters: str
    macs: str

    def name(self) -> str:
        return general([group.name for group in self.groups])

    def places(self, width: int) -> str:
        """Where units are made -> where they are read."""
        made, read = self._places("in"), self._places("out")
        if not made or not read:
            return fitted(made, width) if made else f"-> {fitted(read, width - 3)}"
        right = fitted(read, max(width // 2 - 2, width - 4 - len(", ".join(name for name, _ in made))))
        return f"{fitted(made, width - 4 - len(right))} -> {right}"

    def _places(self, other: Role) -> list[tuple[str, int]]:
        """The places whose role is not `other`, as they are in all of the groups."""
        each = [bundled(one for one in group.slices if one.role != other) for group in self.groups]
        names = [general([name for name, _ in ones]) for ones in zip(*each, strict=True)]
        return [(relative(name, self.name()), count) for name, (_, count) in zip(names, each[0], strict=True)]


def _table(structure: Structure, width: int, most: int) -> list[str]:
    lines = _lines(structure)
    if not lines:
        return ["", "Nothing can be removed."]
    shown = lines[:most]
    exact = all(group.exact for group in structure.prunable)
    headers = ["group", "times", "units", "params", "MACs", "exact", "made at -> read at"]
    rows = [headers]
    for line in shown:
        group = line.groups[0]
        count = f"x{len(line.groups)}" if len(line.groups) > 1 else ""
        rows.append(
            [line.name(), count, f"{group.units:,}", line.parameters, line.macs, "yes" if group.exact else "no"]
        )
    left = [index for index, name in enumerate(headers[:-1]) if not (name == "exact" and exact)]
    left = [index for index in left if any(row[index] for row in rows[1:])]
    widths = {index: max(len(row[index]) for row in rows) for index in left}
    widths[0] = min(widths[0], 40)
    room = max(30, width - sum(widths.values()) - 2 * len(left))
    texts = [headers[-1], *(line.places(room) for line in shown)]
    out = [""]
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        cells = [middle(row[i], widths[i]).ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in left]
        out.append("  ".join([*cells, text]).rstrip())
        if number == 0:
            out.append("  ".join("-" * widths[i] for i in left) + "  " + "-" * len(text))
    hidden = [group for line in lines[most:] for group in line.groups]
    if hidden:
        out.append(
            f"and {counted(len(hidden), 'more group')} with {counted(sum(group.units for group in hidden), 'unit')}"
        )
    return [*out, *wrap(_LEGEND, width)]


def _lines(structure: Structure) -> list[_Line]:
    """One line for groups that are alike, where the first of them stands."""
    parameters, macs = parameters_of_units(structure), macs_of_units(structure)
    alike: dict[tuple[object, ...], list[Group]] = {}
    for group in structure.prunable:
        slices = tuple((pattern(one.param), one.axis, one.role) for one in group.slices)
        numbers = (_range(parameters[group.name]), _range(macs[group.name]))
        alike.setdefault((pattern(group.name), group.units, *numbers, group.inexact, slices), []).append(group)
    lines = []
    for (_, _, entries, products, *_), groups in alike.items():
        together = [tuple(groups)] if len(groups) >= _ALIKE else [(group,) for group in groups]
        lines += [_Line(one, str(entries), str(products)) for one in together]
    order = {group.name: number for number, group in enumerate(structure.prunable)}
    return sorted(lines, key=lambda line: order[line.groups[0].name])


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return _number(low) if low == high else f"{_number(low)}..{_number(high)}"


def _number(count: int) -> str:
    return f"{count:,}" if count < 100_000 else short(count)


# ---------------------------------------------------------------- what stays


def _stays(structure: Structure, width: int, most: int) -> list[str]:
    alike: dict[str, list[Barrier]] = {}
    for barrier in structure.barriers:
        alike.setdefault(pattern(reason_text(barrier)), []).append(barrier)
    totals = {text: sum(barrier.parameters for barrier in barriers) for text, barriers in alike.items()}
    held = sorted((text for text, total in totals.items() if total), key=lambda text: -totals[text])
    if not held:
        return []
    digits = max(len(f"{totals[held[0]]:,}"), 1)
    out = ["", "What stays, by number of parameters, and why:"]
    for text in held[:most]:
        barriers = alike[text]
        places = {(barrier.op, barrier.module) for barrier in barriers}
        line = general([reason_text(barrier) for barrier in barriers])
        line += f"  x{len(places)}" if len(places) > 1 else ""
        out.append(f"  {totals[text]:>{digits},}  {middle(line, width - digits - 4)}")
    if len(held) > most:
        rest = sum(totals[text] for text in held[most:])
        out.append(f"  {rest:>{digits},}  for {counted(len(held) - most, 'more reason')}")
    return out


def _notes(structure: Structure, width: int) -> list[str]:
    """What a reader should know before relying on it."""
    notes = []
    kinds: dict[str, list[str]] = {}
    for group in structure.prunable:
        for kind in group.inexact:
            kinds.setdefault(kind, []).append(group.name)
    for kind, names in kinds.items():
        notes.append(
            f"Not exact: in {fitted([(name, 1) for name in names], 60)}, removing a unit is not the same as "
            f"setting it to zero: {kind}."
        )
    record = structure.record
    if record.branches:
        where = fitted([(name or "the network itself", 1) for name in record.branches], 60)
        notes.append(f"Both ways were taken where a value decides how the forward goes on, in {where}.")
    if record.fallback:
        notes.append(f"Ran with values, because without them it failed: {record.fallback}")
    if record.training_error:
        notes.append(f"What is used in training only could not be seen: {record.training_error}")
    return ["", *(line for note in notes for line in wrap(note, width))] if notes else []
