"""Stages and their marks; one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.run.directory import Stage, locked, read_json, write_json
from sparsewood.state import capture


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def steps(stage: Stage) -> list[int]:
    return sorted(int(path.stem.removeprefix("checkpoint-")) for path in stage.directory.glob("checkpoint-*"))


def test_the_newest_two_checkpoints_are_kept_until_the_stage_is_finished(stage: Stage) -> None:
    assert stage.latest_checkpoint() is None
    for step in (5, 10, 1_000_000_000, 15):
        stage.save_checkpoint(capture(nn.Linear(1, 1), step=step))
    assert steps(stage) == [15, 1_000_000_000]
    latest = stage.latest_checkpoint()
    assert latest is not None
    assert latest.step == 1_000_000_000
    assert stage.done is None
    assert stage.finish({"loss": 0.5}) == {"loss": 0.5} == stage.done
    assert steps(stage) == []


def test_other_files_are_no_checkpoints(stage: Stage) -> None:
    (stage.directory / "checkpoint-best.safetensors").write_bytes(b"")
    (stage.directory / "checkpoint-000000001.safetensors.tmp").write_bytes(b"")
    assert stage.latest_checkpoint() is None


def test_a_damaged_checkpoint_alone(stage: Stage) -> None:
    (stage.directory / "checkpoint-000000001.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(FileFormatError, match="There is none before it"):
        stage.latest_checkpoint()


def test_json_is_whole_or_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"x": 0.1})
    assert read_json(tmp_path / "a" / "b.json") == {"x": 0.1}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a" / "b.json", {"x": float("nan")})
    assert read_json(tmp_path / "a" / "b.json") == {"x": 0.1}
    (tmp_path / "a" / "b.json").write_bytes(b'{"x": 0.')
    with pytest.raises(FileFormatError, match=r"b\.json"):
        read_json(tmp_path / "a" / "b.json")


HOLD = """
import sys, time
from pathlib import Path
from sparsewood.run.directory import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process_even_when_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(SparsewoodError, match=f"in use by process {process.pid} on"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        pass
