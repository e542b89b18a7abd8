"""The directory of a run: one process at a time, stages that are either finished or not, files that are whole."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.files import writable_directory, write_atomically
from sparsewood.state import TrainingState

__all__ = ["Stage", "locked", "read_json", "waited_for", "write_json", "write_text"]

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.safetensors")
KEPT = 2  # the newest, and the one before it in case the newest is damaged


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process; the system lets go of it when the process ends, however it ends.

    Raises `SparsewoodError` if another process holds it.
    """
    path = writable_directory(directory) / "lock"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise SparsewoodError(
                f"'{directory}' is in use by {stream.read().strip() or 'another process'}. Wait for it to end, or give "
                "this run another output directory (--set output=DIR)."
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


@contextmanager
def waited_for(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process, when others that hold it are done."""
    with (writable_directory(directory) / "lock").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Stage:
    """One training, or another piece of work that is done once: a directory with a mark when it is finished.

    The mark is written last; without it the stage is taken up at its newest checkpoint.
    """

    directory: Path

    @property
    def done(self) -> dict[str, Any] | None:
        """What was noted when the stage was finished; None if it was not."""
        path = self.directory / "done.json"
        return read_json(path) if path.is_file() else None

    def finish(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Mark the stage as finished; its checkpoints are no longer needed."""
        write_json(self.directory / "done.json", values)
        left = self.directory.glob(".checkpoint-*")  # of processes that were killed while they wrote
        for path in (*left, *(path for _, path in self._checkpoints())):
            path.unlink(missing_ok=True)
        return read_json(self.directory / "done.json")

    def save_checkpoint(self, state: TrainingState) -> None:
        """Write a state to go on from, and remove those that are older than the one before it."""
        state.save(self.directory / f"checkpoint-{state.step:09d}.safetensors")
        for _, path in self._checkpoints()[:-KEPT]:
            path.unlink(missing_ok=True)

    def latest_checkpoint(self) -> TrainingState | None:
        """The state to go on from; None if there is none. Raises `FileFormatError` if it is damaged."""
        found = self._checkpoints()
        if not found:
            return None
        try:
            return TrainingState.load(found[-1][1])
        except FileFormatError as error:
            before = f"The state before it is '{found[-2][1]}'." if len(found) > 1 else "There is none before it."
            raise FileFormatError(f"{error} {before}") from error

    def _checkpoints(self) -> list[tuple[int, Path]]:
        matches = [(CHECKPOINT.fullmatch(path.name), path) for path in self.directory.glob("checkpoint-*.safetensors")]
        return sorted((int(match[1]), path) for match, path in matches if match)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON, complete or not at all. NaN is refused; infinities too."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    writable_directory(path.parent)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON. Raises `FileFormatError` naming the file if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(
            f"'{path}' is no JSON file ({error}). Remove it; what it marks is then done again."
        ) from error
