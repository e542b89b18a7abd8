"""A small sweep that is carried out in this process, so that tests do not wait for others to start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sparsewood.run import sweep_command
from sparsewood.run.engines import Done
from sparsewood.run.sweep_command import SweepOptions, sweep_grid
from sparsewood.run.sweep_worker import Order, told, work

GRID = """
name: small
problems: {digits: {data: digits, model: {name: small_conv, widths: [4, 8], hidden: 16}}}
methods:
  magnitude: {}
  snip: {at_step: 0, pruning: {criterion: WeightTimesGradient, recovery: {name: Rewind, step: 0}}}
  filters: {pruning: {criterion: FilterNorm, granularity: Coupled}}
compressions: [2, 8]
training: {epochs: 1, batch_size: 128, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}
retraining: {epochs: 1, optimizer: {name: SGD, lr: 0.05, momentum: 0.9}}
seeds: 1
latency: false
"""


class Here:
    """An engine that carries out cells where it is; those of the methods in `failing` fail."""

    slots = 1

    def __init__(self, order: Order, failing: frozenset[str] = frozenset()) -> None:
        self.order, self.failing, self.cell = order, failing, ""

    def begin(self, cell_hash: str) -> None:
        self.cell = cell_hash

    def wait(self, seconds: float) -> list[Done]:
        del seconds
        try:
            row = work(self.order, self.cell)
        except Exception as error:
            return [Done(self.cell, None, told(error))]
        if row["method"] in self.failing:
            return [Done(self.cell, None, "It was told to fail.")]
        return [Done(self.cell, row)]

    def close(self) -> None:
        pass


@contextmanager
def here(failing: frozenset[str] = frozenset()) -> Iterator[None]:
    """Sweeps are carried out in this process."""

    def engine(order: Order, *_: Any) -> Here:
        return Here(order, failing)

    with mock.patch.object(sweep_command, "_engine", engine):
        yield


def sweep(
    directory: Path, text: str = GRID, *overrides: str, failing: frozenset[str] = frozenset(), dry_run: bool = False
) -> tuple[int, Path]:
    """Carry out a grid below `directory`; the exit code, and where the results are."""
    path = directory / "grid.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with here(failing):
        code = sweep_grid(path, [f"output={directory}", *overrides], SweepOptions(jobs=1, quiet=True, dry_run=dry_run))
    name = next(line.partition(": ")[2] for line in text.splitlines() if line.startswith("name: "))
    return code, directory / (f"{name}-dry-run" if dry_run else name)
