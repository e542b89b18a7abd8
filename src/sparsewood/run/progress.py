"""Showing how far a long run is: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "no_progress", "progress"]

Advance = Callable[[str], None]
"""Called once for each step that is done, with what is being done."""

SECONDS_BETWEEN_LINES = 15.0


def no_progress(doing: str) -> None:
    """Show nothing."""


@contextmanager
def progress(total: int, *, quiet: bool = False) -> Iterator[Advance]:
    """Yield what is to be called after each of `total` steps. All that is shown goes to standard error."""
    if quiet:
        yield no_progress
    elif sys.stderr.isatty():
        with _bar(total) as advance:
            yield advance
    else:
        yield _lines(total)


@contextmanager
def _bar(total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<40}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("time"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda doing: bar.update(task, advance=1, description=doing)


def _lines(total: int) -> Advance:
    start = shown = time.monotonic()
    done = 0

    def advance(doing: str) -> None:
        nonlocal shown, done
        done += 1
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES:
            shown = now
            left = (now - start) / done * (total - done)
            print(f"{100 * done / total:3.0f} %, about {left:.0f} s left: {doing}", file=sys.stderr, flush=True)

    return advance
