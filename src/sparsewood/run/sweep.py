"""Carrying out a grid: which cells are to be done, in which order, and what becomes of those that fail."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsewood.run.cell_work import noted_row
from sparsewood.run.cells import Cell, Plan
from sparsewood.run.directory import write_text
from sparsewood.run.engines import Done, Engine
from sparsewood.run.store import Store
from sparsewood.run.sweep_progress import Shown

__all__ = ["Board", "carry_out"]

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_TABLES = 30.0


@dataclass
class Board:
    """What is known of every cell of a sweep: done, failed (with the reason), running, or waiting."""

    cells: dict[str, Cell]
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    found: int = 0

    @property
    def done(self) -> set[str]:
        """The hashes of cells that are done."""
        return set(self.seconds)

    def waiting(self) -> list[Cell]:
        """Cells that were not begun, in their order."""
        known = self.done | set(self.failed) | set(self.skipped) | set(self.running)
        return [cell for key, cell in self.cells.items() if key not in known]

    def ready(self) -> Iterator[Cell]:
        """Cells of which all that they need is done."""
        done = self.done
        return (cell for cell in self.waiting() if done.issuperset(cell.after))

    def skip(self) -> list[Cell]:
        """Cells that cannot be carried out any more, since what they need failed; they are written down as skipped."""
        found = []
        lost = set(self.failed) | set(self.skipped)
        for cell in self.waiting():
            missing = next((key for key in cell.after if key in lost), None)
            if missing is not None:
                self.skipped[cell.hash] = f"It needs {self.cells[missing].name}, which failed."
                lost.add(cell.hash)
                found.append(cell)
        return found

    def seconds_left(self, slots: int) -> float | None:
        """About how long what is left will take, from cells of the same kind; None while nobody knows."""
        if not self.seconds:
            return None
        times: dict[object, list[float]] = {}
        for key, seconds in self.seconds.items():
            cell = self.cells[key]
            for group in ((cell.problem, cell.kind, cell.method), (cell.problem, cell.kind), cell.problem, None):
                times.setdefault(group, []).append(seconds)
        now, left = time.monotonic(), 0.0
        for cell in [*self.waiting(), *(self.cells[key] for key in self.running)]:
            groups = ((cell.problem, cell.kind, cell.method), (cell.problem, cell.kind), cell.problem, None)
            known = next(times[group] for group in groups if group in times)
            begun = self.running.get(cell.hash)
            left += max(sum(known) / len(known) - (now - begun if begun is not None else 0.0), 0.0)
        return left / max(slots, 1)


def carry_out(plans: Sequence[Plan], engine: Engine, store: Store, directory: Path, shown: Shown) -> Board:
    """Carry out every cell that is not done; what is known of all of them at the end.

    One cell that fails stops only those that need it. Cells that failed in an earlier attempt are tried again.
    """
    board = Board({cell.hash: cell for cell in _in_order(plans)})
    places = {cell.hash: plan for plan in plans for cell in plan.cells}
    _take_up(board, places, store)
    shown.begin(board, engine.slots)
    last = 0.0
    try:
        while True:
            for cell in _free(board, engine.slots):
                engine.begin(cell.hash)
                board.running[cell.hash] = time.monotonic()
            if not board.running:
                break
            for done in engine.wait(SECONDS_BETWEEN_LOOKS):
                _note(board, done, store)
            shown.update(board, engine.slots)
            if time.monotonic() - last > SECONDS_BETWEEN_TABLES:
                write_table(store, board, directory)
                last = time.monotonic()
    finally:
        shown.end(board)
        write_table(store, board, directory)
    return board


def write_table(store: Store, board: Board, directory: Path) -> None:
    """results.csv: the cells of this grid, as far as they are known."""
    write_text(directory / "results.csv", store.to_csv(list(board.cells)))


def _in_order(plans: Sequence[Plan]) -> list[Cell]:
    """All cells, seed by seed, so that there is something to compare early on."""
    every = [cell for plan in plans for cell in plan.cells]
    seeds = list(dict.fromkeys(cell.seed for cell in every))
    return sorted(every, key=lambda cell: seeds.index(cell.seed))


def _take_up(board: Board, places: dict[str, Plan], store: Store) -> None:
    """Cells that were done before, by this or another process."""
    known = {row["hash"] for row in store.rows() if row["status"] == "done"}
    for key, cell in board.cells.items():
        row = noted_row(places[key], cell)
        if row is not None:
            board.seconds[key] = row["seconds"]
            board.found += 1
            if key not in known:
                store.add(row)


def _free(board: Board, slots: int) -> list[Cell]:
    """As many ready cells as there are free slots."""
    found = []
    for cell in board.ready():
        if len(board.running) + len(found) >= slots:
            break
        found.append(cell)
    return found


def _note(board: Board, done: Done, store: Store) -> None:
    cell = board.cells[done.hash]
    board.running.pop(done.hash, None)
    if done.row is not None:
        board.seconds[done.hash] = done.row["seconds"]
        store.add(done.row)
        return
    board.failed[done.hash] = done.error or "It failed without a word."
    store.add(_row(cell), "failed", board.failed[done.hash])
    for lost in board.skip():
        store.add(_row(lost), "skipped", board.skipped[lost.hash])


def _row(cell: Cell) -> dict[str, Any]:
    return {
        "hash": cell.hash,
        "problem": cell.problem,
        "method": cell.method,
        "kind": cell.kind,
        "role": cell.role,
        "of": cell.owner,
        "amount": cell.amount,
        "seed": cell.seed,
        "stage": f"seed-{cell.seed}/{cell.stage}",
    }
