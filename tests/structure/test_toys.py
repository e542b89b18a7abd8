"""Every toy: the groups that mental arithmetic gives, and the contract of a structure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from sparsewood.structure import Structure, trace
from sparsewood.testing import TOYS, Coupled, check_structure
from sparsewood.testing.toys.toy import ANY

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch.compile, when first called
]

_STATED = [name for name, toy in TOYS.items() if toy.groups is not None]
_FROZEN = [(name, axis, word) for name, toy in TOYS.items() for axis, word in toy.frozen.items()]

Footprint = tuple[int, frozenset[tuple[str, int, int]]]


def _footprints(structure: Structure) -> Counter[Footprint]:
    """(units, {(name, axis, positions of a unit)}) of every removable group."""
    return Counter(
        (
            group.units,
            frozenset((one.param, one.axis, int((one.owner == 0).sum())) for one in group.slices),
        )
        for group in structure.prunable
    )


def _kinds(structure: Structure, coupled: Coupled) -> str:
    """Why the group with this footprint is inexact."""
    wanted = coupled.footprint(structure.shapes)
    for group in structure.prunable:
        if wanted == {(one.param, one.axis, int((one.owner == 0).sum())) for one in group.slices}:
            return ", ".join(group.inexact)
    raise AssertionError(f"no group has the footprint of {coupled}")


def _reasons(structure: Structure, name: str, axis: int) -> str:
    """Every reason that freezes a position of an axis."""
    record = structure.record
    span = next(one for one in record.spans if (one.param, one.axis) == (name, axis))
    components = np.unique(record.component[span.start : span.start + span.size]).tolist()
    found = {number for one in components for number in record.reasons_of.get(one, ())}
    return "; ".join(record.reasons[number].why for number in sorted(found))


def _show(footprints: Counter[Footprint]) -> str:
    lines = []
    for (units, axes), times in sorted(footprints.items(), key=str):
        parts = (f"{name}:{axis}" + (f"*{count}" if count > 1 else "") for name, axis, count in sorted(axes))
        lines.append(f"  {times} x {units}: {' '.join(parts)}")
    return "\n".join(lines) or "  none"


@pytest.fixture(scope="module")
def structures() -> dict[str, Any]:
    """Every toy is built and traced once."""
    return {}


def _traced(structures: dict[str, Any], name: str) -> Structure:
    if name not in structures:
        structures[name] = trace(TOYS[name].build(), TOYS[name].inputs())
    return structures[name]


@pytest.mark.parametrize("name", _STATED)
def test_groups_are_those_of_mental_arithmetic(structures: dict[str, Any], name: str) -> None:
    structure = _traced(structures, name)
    stated = TOYS[name].groups or ()
    expected = Counter((one.units, one.footprint(structure.shapes)) for one in stated)
    found = _footprints(structure)
    held = "\n".join(f"  {barrier.parameters}: {barrier}" for barrier in structure.barriers)
    assert found == expected, f"found\n{_show(found)}\nexpected\n{_show(expected)}\nbarriers\n{held}"
    for one in stated:
        kinds = _kinds(structure, one)
        assert one.inexact == ANY or (one.inexact in kinds if one.inexact else not kinds), f"{one}: {kinds!r}"


@pytest.mark.parametrize(("name", "axis", "word"), _FROZEN, ids=str)
def test_what_stays_says_why(structures: dict[str, Any], name: str, axis: str, word: str) -> None:
    param, _, number = axis.rpartition(":")
    reasons = _reasons(_traced(structures, name), param, int(number))
    assert reasons
    assert word in reasons


@pytest.mark.parametrize("name", TOYS)
def test_structure_holds(structures: dict[str, Any], name: str) -> None:
    toy = TOYS[name]
    report = check_structure(toy.build(), toy.inputs(), _traced(structures, name))
    assert "eval mode" in report.tried


def test_toys_are_many_and_say_much() -> None:
    assert len(TOYS) >= 100
    assert len(_STATED) >= 100
    assert all(toy.name == name for name, toy in TOYS.items())
