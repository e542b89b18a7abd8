"""`sparsewood sweep`: read the grid, carry out its cells, show what came of them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparsewood.errors import SparsewoodError
from sparsewood.files import writable_directory
from sparsewood.run.begun import require_same_inputs
from sparsewood.run.bench import Bench, load_split
from sparsewood.run.calls import importable
from sparsewood.run.cells import Plan, cells_of
from sparsewood.run.engines import Engine, LocalEngine, RayEngine
from sparsewood.run.grid import Grid
from sparsewood.run.preflight import check_model
from sparsewood.run.progress import no_progress
from sparsewood.run.recipe import text_of
from sparsewood.run.runner import fabric_of
from sparsewood.run.show import show
from sparsewood.run.store import Store
from sparsewood.run.sweep import Board, carry_out
from sparsewood.run.sweep_notes import write_notes
from sparsewood.run.sweep_progress import clock, shown_on
from sparsewood.run.sweep_tables import cell_counts, method_tables
from sparsewood.run.sweep_worker import Order, read_grid
from sparsewood.run.threads import threads

__all__ = ["EngineName", "SweepOptions", "sweep_grid"]

EngineName = Literal["local", "ray"]
FAILED = 1


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is carried out; nothing here changes its numbers.

    `jobs` cells at a time (None: as many as there are cores for, or as the cluster has); `memory` in GiB bounds each.
    """

    jobs: int | None = None
    memory: float | None = None
    engine: EngineName = "local"
    address: str | None = None
    dry_run: bool = False
    quiet: bool = False
    plan_only: bool = False
    seconds: float = 15.0


def sweep_grid(path: Path, overrides: Sequence[str] = (), options: SweepOptions = SweepOptions()) -> int:
    """Carry out the grid at `path`; 0, or 1 if a cell failed.

    Raises `SparsewoodError` for a grid that cannot be read or begun.
    """
    order = _order(path, overrides, options)
    grid = read_grid(order)
    plans = cells_of(grid)
    _require(options, plans)
    for warning in grid.warnings:
        print(f"sparsewood: {warning}", file=sys.stderr)
    if options.plan_only or not options.quiet:
        show(cell_counts(plans, grid.settings.compressions, grid.settings.seeds))
        print()
    if options.plan_only:
        return 0
    directory = writable_directory(grid.directory)
    _begin(grid, plans, order)
    engine = _engine(order, options, max(plan.recipe.threads for plan in plans))
    try:
        board = carry_out(
            plans, engine, Store(directory), directory, shown_on(quiet=options.quiet, seconds=options.seconds)
        )
    finally:
        engine.close()
    if options.dry_run:
        print("DRY RUN (one batch, the first seed): the numbers mean nothing.")
    return _report(plans, board, directory)


def _order(path: Path, overrides: Sequence[str], options: SweepOptions) -> Order:
    text = text_of(path)
    order = Order(text, str(path), tuple(overrides), path.resolve().parent, None, options.dry_run)
    output = read_grid(order).settings.output
    return order.at(output.resolve())


def _require(options: SweepOptions, plans: Sequence[Plan]) -> None:
    if options.jobs is not None and options.jobs < 1:
        raise SparsewoodError(f"--jobs must be a whole number >= 1. Got {options.jobs}.")
    if options.memory is not None and options.memory <= 0:
        raise SparsewoodError(f"--memory must be GiB > 0. Got {options.memory:g}.")
    if options.address is not None and options.engine != "ray":
        raise SparsewoodError("--address is that of a Ray cluster: give --engine ray as well.")
    several = [plan.problem.name for plan in plans if plan.recipe.devices > 1]
    if several:
        raise SparsewoodError(f"A cell of a sweep has one device: set devices to 1 in {', '.join(several)}.")


def _begin(grid: Grid, plans: Sequence[Plan], order: Order) -> None:
    """What can be found wrong before anything is trained; what the sweep is, noted beside its results."""
    benches = []
    with importable((order.directory, Path.cwd())):
        for plan in plans:
            split = load_split(plan.recipe)
            bench = Bench(plan.recipe, split, plan.directory, 0, fabric_of(plan.recipe), no_progress, order.dry_run)
            with threads(plan.recipe.threads):
                check_model(bench)
            writable_directory(plan.directory)
            warning = require_same_inputs(plan.directory, plan.recipe, split, bench.fabric.device)
            if warning is not None:
                print(f"sparsewood: {plan.problem.name}: {warning}", file=sys.stderr)
            benches.append(bench)
        write_notes(grid, plans, benches, order)


def _engine(order: Order, options: SweepOptions, threads_each: int) -> Engine:
    memory = None if options.memory is None else int(options.memory * 2**30)
    if options.engine == "ray":
        return RayEngine(order, options.jobs, options.address, memory)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = options.jobs or max(cores // threads_each, 1)
    return LocalEngine(order, jobs, memory or _share_of_memory(jobs))


def _share_of_memory(jobs: int) -> int | None:
    """What each process may take, so that all together do not take more than there is."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jobs
    except (ValueError, OSError):
        return None


def _report(plans: Sequence[Plan], board: Board, directory: Path) -> int:
    for table in method_tables(plans, board):
        show(table)
        print()
    lost = {**board.failed, **board.skipped}
    for key, why in lost.items():
        print(f"{board.cells[key].name}: {'failed' if key in board.failed else 'skipped'}: {why}")
    work = sum(board.seconds.values())
    print(
        f"{len(board.seconds)} of {len(board.cells)} cells done ({board.found} of them before), {len(board.failed)} "
        f"failed, {len(board.skipped)} skipped; {clock(work)} of work in them."
    )
    if lost:
        print("The same command tries again what failed.")
    print(f"\nWritten:\n  {directory / 'results.sqlite'}\n  {directory / 'results.csv'}")
    print(f"A page of it: sparsewood report {shlex.quote(str(directory))} -o report.html")
    sys.stdout.flush()
    return FAILED if lost else 0
