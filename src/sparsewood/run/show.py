"""Printing tables where a person or a pipe reads them."""

from __future__ import annotations

import sys

from sparsewood.report.table import Table, as_rich, as_text

__all__ = ["show"]


def show(table: Table) -> None:
    """With lines on a terminal that is wide enough, else as plain text: no number is cut off."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.measure import Measurement

        console, rich = Console(), as_rich(table)
        if Measurement.get(console, console.options.update(max_width=10_000), rich).maximum <= console.width:
            console.print(rich)
            return
    print(as_text(table))
