"""Tables."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sparsewood.errors import SparsewoodError
from sparsewood.report.rows import Order, Point, Summary
from sparsewood.report.table import Table, as_rich, as_text, compression_table, order_lines


def point(strategy: str, compression: float, std: float | None = 0.01) -> Point:
    half = Summary(0.5, std)
    work = Summary(12_340.0, None if std is None else 100.0)
    ratio, speedup = Summary(compression, std), Summary(2.0, std)
    return Point(strategy, compression, 3, ratio, work, speedup, half, half, half, half)


def test_plain_text_is_aligned() -> None:
    text = as_text(compression_table([point("random", 2.0), point("global magnitude", 2.0, None)], "Title"))
    assert text == "\n".join(
        [
            "Title",
            "strategy          asked   before [%]    after [%]  real compression     MACs [k]      speed-up",
            "----------------  -----  -----------  -----------  ----------------  -----------  ------------",
            "random                2  50.0 +- 1.0  50.0 +- 1.0      2.00 +- 0.01  12.3 +- 0.1  2.00 +- 0.01",
            "global magnitude      2         50.0         50.0              2.00         12.3          2.00",
        ]
    )


def test_rows_go_by_compression_then_as_given() -> None:
    points = [point("a", 8.0), point("a", 2.0), point("b", 8.0), point("b", 2.0)]
    assert [row[:2] for row in compression_table(points, "").rows] == [("a", "2"), ("b", "2"), ("a", "8"), ("b", "8")]


def test_rich_shows_every_cell_as_it_is() -> None:
    table = Table("[bold]x", ("name", "n [%]"), (("[red]", "1"), ("b", "2")))
    stream = io.StringIO()
    Console(file=stream, width=60).print(as_rich(table))
    for cell in ("[bold]x", "name", "n [%]", "[red]"):
        assert cell in stream.getvalue()


def test_an_empty_table_has_its_headers() -> None:
    assert as_text(Table("T", ("a", "b"), ())).splitlines() == ["T", "a  b", "-  -"]


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(SparsewoodError, match="row 0 has 1 cells; expected 2"):
        Table("T", ("a", "b"), (("x",),))


def test_order_says_yes_or_no() -> None:
    orders = [Order(8.0, ("a", "b"), (0.9, 0.8), True), Order(16.0, ("a", "b"), (0.7, 0.8), False)]
    assert order_lines(orders) == ["8x: a 90.0 % >= b 80.0 %: yes", "16x: a 70.0 % >= b 80.0 %: NO"]
