"""What a process that works on a sweep does: read the grid once, then one cell after another.

The same function serves processes of this machine and workers of a Ray cluster. It is told the text of the grid, not a
file, since a worker may be on another machine; what cells write must then lie where all machines see it.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
import traceback
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sparsewood.errors import SparsewoodError
from sparsewood.run.bench import Bench, load_split
from sparsewood.run.calls import importable
from sparsewood.run.cell_work import carry_out_cell
from sparsewood.run.cells import Cell, Plan, cells_of
from sparsewood.run.directory import waited_for, write_text
from sparsewood.run.grid import Grid, grid_of
from sparsewood.run.progress import no_progress
from sparsewood.run.recipe import tree_of
from sparsewood.run.runner import fabric_of

__all__ = ["Order", "limited", "read_grid", "start_process", "told", "work"]

ERROR = "error.txt"
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Order:
    """A sweep, as every process reads it.

    `directory` is where components of one's own are looked up; `output` is absolute. `dry_run` takes one batch through
    every cell of the first seed.
    """

    text: str
    source: str
    overrides: tuple[str, ...]
    directory: Path
    output: Path | None
    dry_run: bool = False

    def at(self, output: Path | None) -> Order:
        """The same, written below `output`; None for what the grid says."""
        return replace(self, output=output)


def read_grid(order: Order) -> Grid:
    """The grid of an order; raises as `load_grid` does."""
    grid = grid_of(tree_of(order.text, order.source, order.overrides), order.directory)
    settings = grid.settings if order.output is None else replace(grid.settings, output=order.output)
    if order.dry_run:
        settings = replace(settings, name=f"{settings.name}-dry-run", seeds=settings.seeds[:1])
    return replace(grid, settings=settings)


def start_process(parent: int, memory: int | None) -> None:
    """Prepare a process of this machine: it ends with its parent, leaves Ctrl-C to it, and is bounded in memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if memory is not None:
        limited(memory)


def limited(memory: int) -> None:
    """No more than so many bytes for this process: an allocation beyond raises an error, rather than ending others."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


def work(order: Order, cell_hash: str) -> dict[str, Any]:
    """Carry out one cell; its row. Another process that is at the same cell is waited for.

    Raises `SparsewoodError` for any error, which is one line; where it came from stands in `error.txt` of the cell.
    """
    found = _known(order).get(cell_hash)
    if found is None:
        raise SparsewoodError(
            "This process reads the grid otherwise than the one that began the sweep: it has another release of "
            "sparsewood, or of a module that the grid names. Use the same everywhere."
        )
    plan, cell = found
    directory = plan.directory / f"seed-{cell.seed}" / cell.stage
    torch.set_num_threads(plan.recipe.threads)
    with importable((order.directory, Path.cwd())), waited_for(directory):
        try:
            row = carry_out_cell(plan, cell, _bench(order, cell.problem), latency=_grid(order).settings.latency)
        except Exception as error:  # of whatever kind: it is told where the sweep is, which may be another machine
            write_text(directory / ERROR, traceback.format_exc())
            raise SparsewoodError(told(error)) from None
    (directory / ERROR).unlink(missing_ok=True)
    return row


def told(error: BaseException) -> str:
    """An error in one line: of those of sparsewood the message, of others the kind as well."""
    text = str(error) if isinstance(error, SparsewoodError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


@lru_cache(maxsize=2)
def _grid(order: Order) -> Grid:
    return read_grid(order)


@lru_cache(maxsize=2)
def _known(order: Order) -> dict[str, tuple[Plan, Cell]]:
    return {cell.hash: (plan, cell) for plan in cells_of(_grid(order)) for cell in plan.cells}


@lru_cache(maxsize=2)
def _bench(order: Order, problem: str) -> Bench:
    """Data and devices of a problem; only the last few are kept, since data sets are large."""
    plan = next(plan for plan, _ in _known(order).values() if plan.problem.name == problem)
    with importable((order.directory, Path.cwd())):
        split = load_split(plan.recipe)
    return Bench(plan.recipe, split, plan.directory, 0, fabric_of(plan.recipe), no_progress, order.dry_run)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
