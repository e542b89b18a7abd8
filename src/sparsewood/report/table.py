"""Tables of results, for the terminal and as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsewood.errors import SparsewoodError
from sparsewood.report.rows import Order, Point, Summary

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Table", "as_rich", "as_text", "compression_table", "order_lines"]


@dataclass(frozen=True)
class Table:
    """Text in rows and columns. The first column is aligned left, the others right."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.headers):
                raise SparsewoodError(
                    f"Table {self.title!r}: row {number} has {len(row)} cells; expected {len(self.headers)}, "
                    "one for each header."
                )


def compression_table(points: Sequence[Point], title: str) -> Table:
    """Accuracy before and after fine-tuning in %, real compression, thousands of non-zero multiply-adds (MACs) for one
    example, and the theoretical speed-up these give, by compression.

    Every cell is mean +- sample standard deviation over seeds.
    """
    headers = ("strategy", "asked", "before [%]", "after [%]", "real compression", "MACs [k]", "speed-up")
    rows = tuple(
        (
            point.strategy,
            f"{point.compression:g}",
            _cell(point.pre_acc1, 100, 1),
            _cell(point.post_acc1, 100, 1),
            _cell(point.real_compression, 1, 2),
            _cell(point.flops_nz, 1e-3, 1),
            _cell(point.speedup, 1, 2),
        )
        for point in sorted(points, key=lambda point: point.compression)
    )
    return Table(title, headers, rows)


def order_lines(orders: Sequence[Order]) -> list[str]:
    """One line for each compression: did the expected order hold?

    >>> order_lines([Order(8.0, ("global", "layerwise"), (0.9, 0.95), False)])
    ['8x: global 90.0 % >= layerwise 95.0 %: NO']
    """
    lines = []
    for order in orders:
        pairs = zip(order.strategies, order.means, strict=True)
        chain = " >= ".join(f"{name} {100 * mean:.1f} %" for name, mean in pairs)
        lines.append(f"{order.compression:g}x: {chain}: {'yes' if order.holds else 'NO'}")
    return lines


def as_rich(table: Table) -> RichTable:
    """The table for a `rich` console; a line separates rows whose second cell differs."""
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(title=Text(table.title), title_justify="left")
    for number, header in enumerate(table.headers):
        rich.add_column(Text(header), justify="left" if number == 0 else "right", no_wrap=True)
    for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
        ends = following is not None and following[1:2] != row[1:2]
        rich.add_row(*map(Text, row), end_section=ends)
    return rich


def as_text(table: Table) -> str:
    """The table in plain ASCII, columns separated by two spaces.

    >>> print(as_text(Table("Sizes", ("layer", "n"), (("fc", "12"), ("conv", "3")))))
    Sizes
    layer   n
    -----  --
    fc     12
    conv    3
    """
    widths = [max(map(len, column)) for column in zip(table.headers, *table.rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    lines = [table.title]
    for row in (table.headers, rule, *table.rows):
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(summary: Summary, factor: float, digits: int) -> str:
    mean = f"{factor * summary.mean:.{digits}f}"
    return mean if summary.std is None else f"{mean} +- {factor * summary.std:.{digits}f}"
