"""The grids that come with the project are right, and each goes through one batch where its data is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsewood.run.cells import cells_of
from sparsewood.run.grid import CONTROLS, load_grid
from sparsewood.run.store import Store
from sparsewood.run.sweep_command import SweepOptions, sweep_grid

GRIDS = sorted((Path(__file__).parents[2] / "recipes" / "grids").glob("*.yaml"))


def test_the_state_of_pruning_is_asked_as_the_checklist_wants() -> None:
    """[8.3, 8.1] At least three problems, five compressions, three seeds, and every control; eight methods."""
    grid = load_grid(next(path for path in GRIDS if path.stem == "state-of-pruning"))
    assert len(grid.problems) >= 3
    assert len(grid.settings.compressions) >= 6
    assert len(grid.settings.seeds) >= 3
    assert grid.settings.controls == CONTROLS
    assert len({method.name for method in grid.problems[0].methods}) >= 8
    assert grid.warnings == ()


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_grids_are_named_after_their_files(path: Path) -> None:
    grid = load_grid(path)
    assert grid.settings.name == path.stem
    plans = cells_of(grid)
    hashes = [cell.hash for plan in plans for cell in plan.cells]
    assert len(set(hashes)) == len(hashes) > 100


@pytest.mark.slow
@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_dry_run(path: Path, tmp_path: Path) -> None:
    """At the smallest and the largest compression."""
    if path.stem != "digits" and not os.environ.get("SPARSEWOOD_DATA"):
        pytest.skip("the environment variable SPARSEWOOD_DATA does not say where the data sets are")
    compressions = load_grid(path).settings.compressions
    ends = f"compressions=[{min(compressions)}, {max(compressions)}]"
    options = SweepOptions(jobs=1, dry_run=True, quiet=True)
    assert sweep_grid(path, [f"output={tmp_path}", ends, "latency=false"], options) == 0
    rows = Store(tmp_path / f"{path.stem}-dry-run").rows()
    assert {row["status"] for row in rows} == {"done"}
