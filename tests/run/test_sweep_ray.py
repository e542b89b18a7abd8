"""Sweeps on a Ray cluster of this machine: `make test-ray`, which installs Ray in an environment of its own."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sparsewood.run.store import Store
from sparsewood.run.sweep_command import SweepOptions, sweep_grid

pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Ray leaves sockets and old names behind
]

write_grid = runpy.run_path(str(Path(__file__).with_name("sweeps.py")))["write_grid"]
RAY = SweepOptions(jobs=2, engine="ray", quiet=True)
NUMBERS = ("accuracy", "before", "compression", "speedup", "bytes", "size_nz", "first_weights", "kept", "loss")


def numbers(directory: Path) -> dict[str, tuple[Any, ...]]:
    return {row["hash"]: tuple(row[name] for name in NUMBERS) for row in Store(directory / "tiny").rows()}


def states(directory: Path) -> list[str]:
    return sorted(row["status"] for row in Store(directory / "tiny").rows())


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same grid, carried out by one process of this machine."""
    directory = tmp_path_factory.mktemp("local")
    assert sweep_grid(write_grid(directory), [f"output={directory}"], SweepOptions(jobs=1, quiet=True)) == 0
    return directory


def troubled(directory: Path, what: str) -> Path:
    shutil.copy(Path(__file__).parent / "sweeps.py", directory / "sweeps.py")
    trouble = directory / "trouble"
    trouble.write_text(what)
    return write_grid(directory, model=f'{{name: "sweeps:fragile", trouble: "{trouble}"}}')


def test_the_same_numbers_as_here(local: Path, tmp_path: Path) -> None:
    assert sweep_grid(write_grid(tmp_path), [f"output={tmp_path}"], RAY) == 0
    assert numbers(tmp_path) == numbers(local)


def test_a_cell_that_fails_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_grid(troubled(tmp_path, "raise"), [f"output={tmp_path}"], RAY) == 1
    assert states(tmp_path).count("failed") >= 2
    assert "ArithmeticError: the network does not like that" in capsys.readouterr().out


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """Its cell is tried once more, and nothing that was finished is lost."""
    assert sweep_grid(troubled(tmp_path, "kill once"), [f"output={tmp_path}"], RAY) == 0
    assert not (tmp_path / "trouble").exists()
    assert set(states(tmp_path)) == {"done"}


def test_a_worker_that_is_killed_again_and_again_fails_alone(tmp_path: Path) -> None:
    assert sweep_grid(troubled(tmp_path, "kill"), [f"output={tmp_path}"], RAY) == 1
    lost = [row for row in Store(tmp_path / "tiny").rows() if row["status"] == "failed"]
    assert lost
    assert all(row["error"].startswith("Its worker was lost") for row in lost)
    assert states(tmp_path).count("done") >= 5


def test_killing_the_driver_loses_no_finished_cell(local: Path, tmp_path: Path) -> None:
    grid = write_grid(tmp_path)
    command = [sys.executable, "-m", "sparsewood", "sweep", str(grid), "--output", str(tmp_path), "--engine", "ray"]
    process = subprocess.Popen([*command, "--jobs", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 180
    while len(list((tmp_path / "tiny").rglob("cell.json"))) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    noted = {path: json.loads(path.read_text())["hash"] for path in (tmp_path / "tiny").rglob("cell.json")}
    times = {path: path.stat().st_mtime_ns for path in noted}
    assert sweep_grid(grid, [f"output={tmp_path}"], RAY) == 0
    assert {path: path.stat().st_mtime_ns for path in noted} == times
    assert numbers(tmp_path) == numbers(local)
