"""A structure for other programs: as JSON, and as a graph for Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sparsewood.structure.counts import (
    entries_of_groups,
    share_prunable,
    total_macs,
    total_parameters,
)
from sparsewood.structure.structure import Group, Structure

__all__ = ["COLOURS", "VERSION", "modules_of", "owner_of", "to_dot", "to_json"]

VERSION = 1
COLOURS = ("#4269d0", "#d98c00", "#e4572e", "#2a9d8f", "#3ca951", "#d6548e", "#8e5bd6", "#4f9bd9", "#9c6b4e", "#6b7280")
"""Colours of groups, in turn; told apart on white, by most people who are colour-blind too."""


# ---------------------------------------------------------------- JSON


def to_json(structure: Structure) -> dict[str, Any]:
    """The structure as plain dicts, lists and numbers, the same for the same structure; `json.dumps` takes it.

    `owner` of a slice is a list of runs [first, length, step]: `length` positions whose owners are first, first + step,
    ...; `owner_of` makes the array of it. -1 owns what is not the group's. Numbers of parameters and multiply-adds are
    of one unit alone: one number where they are the same for all units, else a list. Barriers that hold no parameter
    because they are places in a kernel are left out.
    """
    parameters, macs, entries = structure.unit_parameters, structure.unit_macs, entries_of_groups(structure)
    groups = []
    for group in structure.groups:
        counts: dict[str, Any] = {}
        if group.frozen_by is None:
            counts = {
                "parameters": _counts(parameters[group.name]),
                "macs": _counts(macs[group.name]),
                "entries": entries[group.name],
            }
        groups.append(_group(group) | counts)
    record = structure.record
    return {
        "format": "sparsewood structure",
        "version": VERSION,
        "parameters": total_parameters(structure),
        "prunable": share_prunable(structure),
        "macs": total_macs(structure),
        "shapes": {name: list(shape) for name, shape in structure.shapes.items()},
        "buffers": sorted(structure.shapes.keys() - record.parameters),
        "groups": groups,
        "barriers": [
            {"why": one.why, "op": one.op, "module": one.module, "shapes": one.shapes, "parameters": one.parameters}
            | {"advice": one.advice}
            for one in structure.barriers
            if not one.inherent
        ],
        "notes": {
            "branches": list(record.branches),
            "fallback": record.fallback,
            "training_error": record.training_error,
        },
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "units": group.units,
        "exact": group.exact,
        "inexact": list(group.inexact),
        "frozen_by": group.frozen_by,
        "slices": [
            {"param": one.param, "axis": one.axis, "role": one.role, "owner": _runs(one.owner)} for one in group.slices
        ],
        "taps": [
            {
                "producer": tap.producer,
                "module": tap.module,
                "call": tap.call,
                "at": tap.at,
                "index": tap.index,
                "axis": tap.axis,
                "owner": _runs(tap.owner),
            }
            for tap in group.taps
        ],
    }


def _counts(counts: np.ndarray) -> int | list[int]:
    return int(counts[0]) if (counts == counts[0]).all() else counts.tolist()


def _runs(owner: np.ndarray) -> list[list[int]]:
    """Runs [first, length, step] with steps of 0 or 1, as long as they can be."""
    steps = np.diff(owner)
    runs: list[list[int]] = []
    start = 0
    while start < len(owner):
        step = int(steps[start]) if start < len(steps) and steps[start] in (0, 1) else 0
        differs = np.flatnonzero(steps[start:] != step)
        end = start + 1 + (int(differs[0]) if len(differs) else len(steps) - start)
        runs.append([int(owner[start]), end - start, step])
        start = end
    return runs


def owner_of(runs: Iterable[Sequence[int]]) -> np.ndarray:
    """The owners that runs [first, length, step] stand for.

    >>> owner_of([[-1, 2, 0], [0, 3, 1]])
    array([-1, -1,  0,  1,  2])
    """
    parts = [first + step * np.arange(length) for first, length, step in runs]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


# ---------------------------------------------------------------- Graphviz


def to_dot(structure: Structure) -> str:
    """The structure in the language of Graphviz: `dot -Tsvg structure.dot` draws it.

    A box for every parameter and buffer, those of a module in a frame; an ellipse for every group that can be removed
    from. Arrows go from where units are made to the group, and from it to where they are read; dashed ones where
    removing is not the same as setting to zero. What has no unit in any group is grey.
    """
    lines = ["digraph structure {", "  rankdir=LR;", '  node [fontname="Helvetica", fontsize=10];']
    owned = {one.param for group in structure.prunable for one in group.slices}
    for number, (module, names) in enumerate(modules_of(structure).items()):
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(module or 'network')};", "    color=gray80;"]
        for name in names:
            label = f"{name.rpartition('.')[2]} {list(structure.shapes[name])}"
            fill = "" if name in owned else ', style=filled, fillcolor=gray90, tooltip="nothing of it can be removed"'
            lines.append(f"    {_quoted(name)} [shape=box, label={_quoted(label)}{fill}];")
        lines.append("  }")
    for number, group in enumerate(structure.prunable):
        lines += _group_in_dot(group, COLOURS[number % len(COLOURS)])
    return "\n".join([*lines, "}"]) + "\n"


def modules_of(structure: Structure) -> dict[str, list[str]]:
    """The parameters and buffers of each module, in the order of the model."""
    found: dict[str, list[str]] = {}
    for name in structure.shapes:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _group_in_dot(group: Group, colour: str) -> list[str]:
    node = _quoted(f"group {group.name}")
    style = "solid" if group.exact else "dashed"
    label = _quoted(f"{group.name}\n{group.units} units")
    lines = [f'  {node} [label={label}, color="{colour}", style={style}, penwidth=2];']
    for one in group.slices:
        ends = {"out": (one.param, f"group {group.name}"), "in": (f"group {group.name}", one.param)}
        first, second = ends.get(one.role, ends["out"])
        both = ", dir=both" if one.role == "both" else ""
        lines.append(
            f"  {_quoted(first)} -> {_quoted(second)} "
            f'[color="{colour}", style={style}, label="{one.axis}", fontsize=8{both}];'
        )
    return lines


def _quoted(text: str) -> str:
    """A text as Graphviz reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
