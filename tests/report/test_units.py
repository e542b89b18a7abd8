"""Rows and tables of units: counts, medians, who memorizes most, and ties."""

from __future__ import annotations

import pytest

from sparsewood.errors import SparsewoodError
from sparsewood.report.units import LayerRow, UnitRow, layer_rows, layer_table, most_memorizing, unit_table


def unit(layer: str, number: int, unitmem: float | None, state: str | None = "") -> UnitRow:
    return UnitRow(layer, number, state, 0.5, unitmem, None if unitmem is None else 10 + number, "cat")


ROWS = (
    unit("a", 0, 0.25),
    unit("a", 1, 0.9),
    unit("a", 2, 0.9),
    unit("a", 3, 0.0, "dead"),
    unit("a", 4, 0.0, "constant"),
    unit("a", 5, None, None),
    unit("b", 0, None, "saturated"),
    unit("b", 1, None, "saturated"),
    unit("c", 0, 0.0, "dead"),
)


def test_every_unit_is_counted_once() -> None:
    assert layer_rows(ROWS, 0.9) == [
        LayerRow("a", 6, 1, 1, 0, 2, (0.25 + 0.9) / 2),
        LayerRow("b", 2, 0, 0, 2, None, None),
        LayerRow("c", 1, 1, 0, 0, 0, None),
    ]


def test_the_threshold_itself_counts() -> None:
    assert [layer_rows(ROWS, threshold)[0].memorizing for threshold in (0.25, 0.26, 0.9, 0.91)] == [3, 2, 2, 0]


def test_the_largest_come_first_and_of_equals_the_lower() -> None:
    assert [(row.layer, row.unit) for row in most_memorizing(ROWS, 2)] == [("a", 1), ("a", 2)]
    assert [row.unit for row in most_memorizing(ROWS, 9)] == [1, 2, 0, 4]


def test_tables_say_what_is_not_known() -> None:
    table = layer_table(layer_rows(ROWS, 0.9), "Units", 0.9)
    assert table.headers[5] == "UnitMem >= 0.9"
    assert table.rows == (
        ("a", "6", "1", "1", "0", "2", "0.575"),
        ("b", "2", "0", "0", "2", "-", "-"),
        ("c", "1", "1", "0", "0", "0", "-"),
        ("all", "9", "2", "1", "2", "2", ""),
    )
    assert layer_table(layer_rows(ROWS[6:8], 0.9), "", 0.9).rows == (("b", "2", "0", "0", "2", "-", "-"),)
    assert unit_table([ROWS[1]], "").rows == (("a", "1", "0.900", "11", "cat"),)


def test_states_are_known_ones() -> None:
    with pytest.raises(SparsewoodError, match=r"dead, constant, saturated or none of these. Got 'alive'"):
        unit("a", 0, None, "alive")
