"""Printing tables where a person or a pipe reads them."""

from __future__ import annotations

import sys

from sparsewood.report.table import Table, as_rich, as_text

__all__ = ["show"]


def show(table: Table) -> None:
    """With lines on a terminal, as plain text where a pipe or a file takes it."""
    if not sys.stdout.isatty():
        print(as_text(table))
        return
    from rich.console import Console

    Console().print(as_rich(table))
