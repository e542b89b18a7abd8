"""A structure as a table: what can go, what stays, and why."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from sparsewood.structure.counts import (
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
    ranged,
    relative,
    short,
)
from sparsewood.structure.structure import Barrier, Group, Role, Structure

__all__ = ["summary"]

_LEGEND = "params, MACs: what goes with one unit alone; +3: 3 more axes; a leading dot: the module of the group's name"
_COARSE = "; each: so many positions of the first axis go together"
_MUCH = 0.01
"""For reasons that hold more than this share of the parameters the table says what it would take."""


def summary(structure: Structure, *, width: int = 120, groups: int = 40, reasons: int = 12) -> str:
    """The structure in plain text, at most `width` wide: a line for each group that can be removed from, then what
    stays and why, most parameters first. `groups` and `reasons` are how many lines there are of each.

    A line stands for several groups where layers are alike: `h.*.mlp.c_fc` with x12 in the column `times`. The numbers
    of parameters and MACs are of what goes with one unit alone. In the last column are the axes where units are made,
    and those where they are read (`+3`: and 3 more); a leading dot stands for the module that the group's name begins
    with. Where units are coarse there is a column `each`: x32 says that 32 positions of the first axis go together.
    `explain` has the details of one group.
    """
    if not total_parameters(structure):
        return "Nothing to prune: the network has no parameters."
    return "\n".join(
        [
            *wrap(_header(structure), width),
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
    each: str

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
    headers = ["group", "times", "units", "each", "params", "MACs", "exact", "made at -> read at"]
    rows = [headers]
    for line in shown:
        group = line.groups[0]
        count = f"x{len(line.groups)}" if len(line.groups) > 1 else ""
        numbers = [f"{group.units:,}", line.each, line.parameters, line.macs]
        rows.append([line.name(), count, *numbers, "yes" if group.exact else "no"])
    left = [index for index, name in enumerate(headers[:-1]) if not (name == "exact" and exact)]
    left = [index for index in left if any(row[index] for row in rows[1:])]
    widths = {index: max(len(row[index]) for row in rows) for index in left}
    rest = sum(widths.values()) - widths[0] + 2 * len(left)
    widths[0] = min(widths[0], 40, max(16, width - rest - 30))
    room = max(20, width - widths[0] - rest)
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
            f"and {counted(len(hidden), 'more group')} with {counted(sum(group.units for group in hidden), 'unit')}; "
            f"all of them: summary(groups={len(lines)}), or --groups {len(lines)}"
        )
    return [*out, *wrap(_LEGEND + (_COARSE if any(line.each for line in shown) else ""), width)]


def _lines(structure: Structure) -> list[_Line]:
    """One line for groups that are alike, where the first of them stands."""
    parameters, macs = structure.unit_parameters, structure.unit_macs
    alike: dict[tuple[object, ...], list[Group]] = {}
    for group in structure.prunable:
        slices = tuple((pattern(one.param), one.axis, one.role) for one in group.slices)
        numbers = (ranged(parameters[group.name], _number), ranged(macs[group.name], _number), _each(group))
        alike.setdefault((pattern(group.name), group.units, *numbers, group.inexact, slices), []).append(group)
    order = {group.name: number for number, group in enumerate(structure.prunable)}
    lines = [
        _Line(tuple(groups), str(entries), str(products), str(each))
        for (_, _, entries, products, each, *_), groups in alike.items()
    ]
    return sorted(lines, key=lambda line: order[line.groups[0].name])


def _each(group: Group) -> str:
    """How many positions each unit has where it is made first, if it is not one."""
    made = next((one for one in group.slices if one.role != "in"), group.slices[0])
    counts = np.bincount(made.owner[made.owner >= 0], minlength=group.units)
    return f"x{ranged(counts)}" if (counts != 1).any() else ""


def _number(count: int) -> str:
    return f"{count:,}" if count < 100_000 else short(count)


# ---------------------------------------------------------------- what stays


def _stays(structure: Structure, width: int, most: int) -> list[str]:
    alike: dict[str, list[Barrier]] = {}
    for barrier in structure.barriers:
        alike.setdefault(pattern(str(barrier)), []).append(barrier)
    totals = {text: sum(barrier.parameters for barrier in barriers) for text, barriers in alike.items()}
    held = sorted((text for text, total in totals.items() if total), key=lambda text: -totals[text])
    if not held:
        return []
    digits = max(len(f"{totals[held[0]]:,}"), 1)
    out = ["", "What stays, by number of parameters, and why:"]
    for text in held[:most]:
        barriers = alike[text]
        places = {(barrier.op, barrier.module) for barrier in barriers}
        line = general(list(map(str, barriers)))
        line += f"  x{len(places)}" if len(places) > 1 else ""
        out += _hanging(f"  {totals[text]:>{digits},}  ", line, width)
        advice = barriers[0].advice
        if advice and totals[text] > _MUCH * total_parameters(structure):
            out += _hanging(" " * (digits + 4) + "-> ", advice, width)
    if len(held) > most:
        rest = sum(totals[text] for text in held[most:])
        more = f"for {counted(len(held) - most, 'more reason')}; all of them: summary(reasons={len(held)})"
        out += _hanging(f"  {rest:>{digits},}  ", more, width)
    return out


def _hanging(head: str, text: str, width: int) -> list[str]:
    """`head` and a text that goes on below itself."""
    room = max(width - len(head), 20)
    lines = wrap(text, room)
    return [f"{head if not number else ' ' * len(head)}{line}" for number, line in enumerate(lines)]


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
