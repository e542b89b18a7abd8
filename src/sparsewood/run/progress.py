"""Showing how far a long run is: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Advance", "no_progress", "progress"]


class Advance(Protocol):
    """Called for each step that is done, or for several together, with what is being done."""

    def __call__(self, doing: str, steps: int = 1, /) -> None: ...


SECONDS_BETWEEN_LINES = 15.0


def no_progress(doing: str, steps: int = 1, /) -> None:
    """Show nothing."""


@contextmanager
def progress(total: int | None, *, quiet: bool = False, seconds: float = SECONDS_BETWEEN_LINES) -> Iterator[Advance]:
    """Yield what is to be called after each of `total` steps. All that is shown goes to standard error.

    A `total` of None says that nobody knows how many there are: then neither a share nor the time left is shown.
    """
    if quiet:
        yield no_progress
    elif sys.stderr.isatty():
        with _bar(total) as advance:
            yield advance
    else:
        yield _lines(total, seconds)


@contextmanager
def _bar(total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description:<40}"), BarColumn()]
    columns += [TaskProgressColumn()] if total is not None else []
    columns += [TextColumn("time"), TimeElapsedColumn()]
    columns += [TextColumn("left"), TimeRemainingColumn()] if total is not None else []
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda doing, steps=1, /: bar.update(task, advance=steps, description=doing)


def _lines(total: int | None, seconds: float) -> Advance:
    start = shown = time.monotonic()
    done = 0

    def advance(doing: str, steps: int = 1, /) -> None:
        nonlocal shown, done
        done += steps
        now = time.monotonic()
        if now - shown >= seconds:
            shown = now
            if total is None:
                print(f"{now - start:.0f} s: {doing}", file=sys.stderr, flush=True)
                return
            left = max((now - start) / max(done, 1) * (total - done), 0.0)
            share = 100 * done / max(total, done, 1)
            # The first steps are no measure: they wait for data, and for other processes to start.
            when = f", about {left:.0f} s left" if share >= 1 else ""
            print(f"{share:3.0f} %{when}: {doing}", file=sys.stderr, flush=True)

    return advance
