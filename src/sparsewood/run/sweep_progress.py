"""How far a sweep is: a table that renews itself on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sparsewood.run.sweep import Board

__all__ = ["Quiet", "Shown", "shown_on"]


class Shown(Protocol):
    """Is told how far a sweep is."""

    def begin(self, board: Board, slots: int) -> None: ...
    def update(self, board: Board, slots: int) -> None: ...
    def end(self, board: Board) -> None: ...


class Quiet:
    """Shows nothing."""

    def begin(self, board: Board, slots: int) -> None:
        """Nothing."""

    def update(self, board: Board, slots: int) -> None:
        """Nothing."""

    def end(self, board: Board) -> None:
        """Nothing."""


class Lines:
    """A line on standard error every `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, 0.0

    def begin(self, board: Board, slots: int) -> None:
        """How much there is to do."""
        left = len(board.cells) - board.found
        before = f", {board.found} of them done before" if board.found else ""
        print(f"{len(board.cells)} cells{before}; {left} to do, {slots} at a time", file=sys.stderr, flush=True)
        self._last = time.monotonic()

    def update(self, board: Board, slots: int) -> None:
        """A line, if the last one is old enough."""
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            print(summary(board, slots), file=sys.stderr, flush=True)

    def end(self, board: Board) -> None:
        """Nothing: the results follow."""


class LiveTable:
    """A table on a terminal: every problem with what is done, failed and running, and the time left."""

    def __init__(self) -> None:
        self._live: Any = None

    def begin(self, board: Board, slots: int) -> None:
        """Open the table."""
        from rich.console import Console
        from rich.live import Live

        self._live = Live(self._table(board, slots), console=Console(stderr=True), transient=True, refresh_per_second=2)
        self._live.start()

    def update(self, board: Board, slots: int) -> None:
        """Renew it."""
        self._live.update(self._table(board, slots))

    def end(self, board: Board) -> None:  # noqa: ARG002
        """Take it away."""
        if self._live is not None:
            self._live.stop()

    def _table(self, board: Board, slots: int) -> Any:
        from rich.table import Table

        table = Table(title=summary(board, slots), title_justify="left")
        for name in ("problem", "done", "failed", "skipped", "running", "cells", "s per cell", "now"):
            table.add_column(name, justify="left" if name in ("problem", "now") else "right")
        for problem in dict.fromkeys(cell.problem for cell in board.cells.values()):
            table.add_row(*_row(board, problem))
        return table


def shown_on(*, quiet: bool, seconds: float) -> Shown:
    """What fits where standard error goes."""
    if quiet:
        return Quiet()
    return LiveTable() if sys.stderr.isatty() else Lines(seconds)


def summary(board: Board, slots: int) -> str:
    """One line: how many cells are done, failed and running, and about how long the others will take."""
    parts = [f"{len(board.seconds)} of {len(board.cells)} cells done"]
    parts += [f"{len(board.failed)} failed"] if board.failed else []
    parts += [f"{len(board.skipped)} skipped"] if board.skipped else []
    left = board.seconds_left(slots)
    parts += [f"about {clock(left)} left"] if left is not None and len(board.seconds) > board.found else []
    running = [board.cells[key].name for key in board.running]
    return ", ".join(parts) + (f" ({'; '.join(running[:4])})" if running else "")


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    >>> clock(5), clock(95), clock(7300)
    ('5 s', '1:35 min', '2:01 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _row(board: Board, problem: str) -> tuple[str, ...]:
    def among(keys: Any) -> int:
        return sum(board.cells[key].problem == problem for key in keys)

    times = [seconds for key, seconds in board.seconds.items() if board.cells[key].problem == problem]
    now = [
        f"{board.cells[key].method} {board.cells[key].amount:g}x"
        for key in board.running
        if board.cells[key].problem == problem
    ]
    counts = (among(board.seconds), among(board.failed), among(board.skipped), among(board.running), among(board.cells))
    mean = f"{sum(times) / len(times):.1f}" if times else "-"
    return (problem, *map(str, counts), mean, ", ".join(now[:3]))
