"""Sweeps: one failed cell stops no other, nothing finished is lost, the same numbers however they are carried out."""

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

from sparsewood.errors import SparsewoodError
from sparsewood.run.cli import main
from sparsewood.run.store import Store
from sparsewood.run.sweep_command import SweepOptions, sweep_grid
from sparsewood.run.sweep_progress import clock

write_grid = runpy.run_path(str(Path(__file__).with_name("sweeps.py")))["write_grid"]
QUIET = SweepOptions(jobs=1, quiet=True)
NUMBERS = ("accuracy", "before", "compression", "speedup", "bytes", "size_nz", "first_weights", "kept", "loss")


def rows(directory: Path) -> dict[tuple[str, float, int], dict[str, Any]]:
    return {(row["method"], row["amount"], row["seed"]): row for row in Store(directory / "tiny").rows()}


def numbers(directory: Path) -> dict[tuple[str, float, int], tuple[Any, ...]]:
    return {key: tuple(row[name] for name in NUMBERS) for key, row in rows(directory).items()}


def troubled(directory: Path, what: str) -> tuple[Path, Path]:
    """A grid whose networks misbehave as the file says, when they are pruned to an eighth."""
    shutil.copy(Path(__file__).parent / "sweeps.py", directory / "sweeps.py")
    trouble = directory / "trouble"
    trouble.write_text(what)
    return write_grid(directory, model=f'{{name: "sweeps:fragile", trouble: "{trouble}"}}'), trouble


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a sweep that went as it should."""
    directory = tmp_path_factory.mktemp("alone")
    assert sweep_grid(write_grid(directory), [f"output={directory}"], QUIET) == 0
    return directory


def test_every_cell_is_done_and_written_down(alone: Path) -> None:
    found = rows(alone)
    assert {key[0] for key in found} == {
        "dense", "dense_tuned", "magnitude", "snip", "random", "random_as_snip",
    }  # fmt: skip
    assert len(found) == 2 + 4 * 2
    assert {row["status"] for row in found.values()} == {"done"}
    assert (alone / "tiny" / "results.csv").read_text() == Store(alone / "tiny").to_csv()
    assert (alone / "tiny" / "grid.yaml").read_text() == (alone / "tiny.yaml").read_text()


def test_what_is_done_is_not_done_again(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """003-style resume: finished cells are found by their hash, also when the table is gone."""
    copy = tmp_path / "copy"
    shutil.copytree(alone, copy)
    for name in ("results.sqlite", "results.sqlite-wal", "results.sqlite-shm"):
        (copy / "tiny" / name).unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("final.safetensors")}
    assert before
    assert sweep_grid(copy / "tiny.yaml", [f"output={copy}"], QUIET) == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("final.safetensors")} == before
    assert numbers(copy) == numbers(alone)
    assert "10 of 10 cells done (10 of them before)" in capsys.readouterr().out


def test_a_larger_grid_keeps_what_is_there(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(alone, copy)
    settings = [f"output={copy}", "compressions=[2, 4, 8]", "methods.lamp.pruning.criterion=LAMP"]
    assert sweep_grid(copy / "tiny.yaml", settings, QUIET) == 0
    assert "17 of 17 cells done (10 of them before)" in capsys.readouterr().out
    assert numbers(alone).items() <= numbers(copy).items()


@pytest.mark.slow
def test_several_processes_give_the_same_numbers(alone: Path, tmp_path: Path) -> None:
    assert sweep_grid(write_grid(tmp_path), [f"output={tmp_path}"], SweepOptions(jobs=2, quiet=True)) == 0
    assert numbers(tmp_path) == numbers(alone)


@pytest.mark.slow
def test_a_cell_that_fails_stops_only_those_that_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, trouble = troubled(tmp_path, "raise")
    settings = [f"output={tmp_path}", "controls=[scratch]"]
    assert sweep_grid(grid, settings, QUIET) == 1
    found = rows(tmp_path)
    states = {key[:2]: row["status"] for key, row in found.items()}
    assert states[("magnitude", 2.0)] == states[("snip", 2.0)] == states[("scratch_of_snip", 2.0)] == "done"
    assert states[("magnitude", 8.0)] == states[("snip", 8.0)] == "failed"
    assert states[("scratch_of_magnitude", 8.0)] == "skipped"
    assert "ArithmeticError: the network does not like that" in found[("magnitude", 8.0, 1)]["error"]
    told = capsys.readouterr().out
    assert f"digits: magnitude 8x, seed 1: failed: {found[('magnitude', 8.0, 1)]['error']}" in told
    why = "It needs digits: magnitude 8x, seed 1, which failed."
    assert f"digits: scratch_of_magnitude 8x, seed 1: skipped: {why}" in told
    assert "5 of 9 cells done" in told
    errors = [path.read_text() for path in (tmp_path / "tiny").rglob("error.txt")]
    assert len(errors) == 2
    assert all("make_trouble" in text for text in errors)

    trouble.unlink()  # the reason is gone: the same command does what is left
    assert sweep_grid(grid, settings, QUIET) == 0
    assert {row["status"] for row in rows(tmp_path).values()} == {"done"}
    assert not list((tmp_path / "tiny").rglob("error.txt"))


@pytest.mark.slow
def test_a_process_that_is_killed_takes_no_other_cell_with_it(tmp_path: Path) -> None:
    grid, _ = troubled(tmp_path, "kill once")
    assert sweep_grid(grid, [f"output={tmp_path}"], SweepOptions(jobs=2, quiet=True)) == 1
    lost = [row for row in rows(tmp_path).values() if row["status"] != "done"]
    assert [row["status"] for row in lost] == ["failed"]
    assert lost[0]["error"] == "Its process ended without a word (killed, or out of memory?)."
    assert sweep_grid(grid, [f"output={tmp_path}"], QUIET) == 0


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    grid, _ = troubled(tmp_path, "memory once")  # wants 16 GiB
    assert sweep_grid(grid, [f"output={tmp_path}"], SweepOptions(jobs=1, memory=3.0, quiet=True)) == 1
    lost = [row for row in rows(tmp_path).values() if row["status"] != "done"]
    assert len(lost) == 1
    assert "allocate" in lost[0]["error"]


def start(grid: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparsewood", "sweep", str(grid), "--output", str(grid.parent), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=grid.parent)


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.mark.slow
def test_killing_the_driver_loses_no_finished_cell(alone: Path, tmp_path: Path) -> None:
    grid = write_grid(tmp_path)
    process = start(grid, "--jobs", "1")
    wait_for(lambda: len(list((tmp_path / "tiny").rglob("cell.json"))) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    noted = {path: json.loads(path.read_text())["hash"] for path in (tmp_path / "tiny").rglob("cell.json")}
    assert len(noted) >= 3
    times = {path: path.stat().st_mtime_ns for path in noted}
    assert sweep_grid(grid, [f"output={tmp_path}"], QUIET) == 0
    assert {path: path.stat().st_mtime_ns for path in noted} == times
    assert numbers(tmp_path) == numbers(alone)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    grid, _ = troubled(tmp_path, "sleep")
    process = start(grid, "--jobs", "2", "--quiet")
    done = tmp_path / "tiny" / "results.sqlite"
    wait_for(lambda: done.exists() and len(Store(tmp_path / "tiny").rows()) >= 4, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    assert len(children.stdout.split()) >= 2
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    time.sleep(0.5)
    alive = [pid for pid in children.stdout.split() if Path(f"/proc/{pid}").exists()]
    assert [pid for pid in alive if "sparsewood" in Path(f"/proc/{pid}/cmdline").read_text()] == []


@pytest.mark.slow
def test_two_sweeps_of_one_grid_share_it(tmp_path: Path, alone: Path) -> None:
    grid = write_grid(tmp_path)
    other = start(grid, "--jobs", "1", "--quiet")
    assert sweep_grid(grid, [f"output={tmp_path}"], QUIET) == 0
    told, _ = other.communicate(timeout=120)
    assert other.returncode == 0, told
    assert numbers(tmp_path) == numbers(alone)


# ---------------------------------------------------------------- the command


def test_plan_and_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = write_grid(tmp_path, seeds=2)
    assert main(["sweep", str(grid), "--plan", "--output", str(tmp_path / "no")]) == 0
    assert "20" in capsys.readouterr().out.splitlines()[-2]
    assert not (tmp_path / "no").exists()
    assert main(["sweep", str(grid), "--dry-run", "--jobs", "1", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "DRY RUN" in shown.out
    assert "10 cells; 10 to do, 1 at a time" in shown.err
    assert (tmp_path / "tiny-dry-run" / "results.csv").is_file()
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs must be a whole number >= 1"),
        (["--memory", "0"], "--memory must be GiB > 0"),
        (["--address", "auto"], "give --engine ray as well"),
        (["--set", "problems.digits.model=lenet5_caffe"], "does not take the images"),
        (["--set", "methods.magnitude.pruning.criterion=Nothing"], "Unknown criterion 'Nothing'"),
    ],
)
def test_what_cannot_be_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write_grid(tmp_path)), "--output", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_ray_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[ray\]'"):
        sweep_grid(write_grid(tmp_path), [f"output={tmp_path}"], SweepOptions(engine="ray", quiet=True))


def test_time_in_words() -> None:
    assert [clock(0.4), clock(59.6), clock(3599), clock(3600)] == ["0 s", "1:00 min", "59:59 min", "1:00 h"]


def test_a_damaged_note_of_a_cell_is_written_again(alone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(alone, copy)
    note = next((copy / "tiny").rglob("magnitude-2x-*/cell.json"))
    note.write_text('{"hash": ')
    assert sweep_grid(copy / "tiny.yaml", [f"output={copy}"], QUIET) == 0
    assert numbers(copy) == numbers(alone)
    assert json.loads(note.read_text())["method"] == "magnitude"
