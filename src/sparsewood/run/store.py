"""The results of a sweep in one SQLite file, which several processes may write at a time, and as CSV or a data frame.

The rows are an index: all that they hold stands in `cell.json` of each cell as well, which is written when the cell is
done, before anybody knows of it. So nothing is lost with the process that was to write it here; `Store.add` of what is
there again changes nothing.
"""

from __future__ import annotations

import csv
import io
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from sparsewood.errors import FileFormatError, OutputError, SparsewoodError

__all__ = ["COLUMNS", "Store", "open_results"]

FILE = "results.sqlite"
SECONDS_TO_WAIT = 60.0
COLUMNS: Mapping[str, str] = {
    "hash": "TEXT PRIMARY KEY",
    "problem": "TEXT NOT NULL",
    "dataset": "TEXT",
    "model": "TEXT",
    "method": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL",
    "role": "TEXT NOT NULL",
    "of": "TEXT NOT NULL",
    "amount": "REAL NOT NULL",
    "seed": "INTEGER NOT NULL",
    "status": "TEXT NOT NULL",
    "accuracy": "REAL",
    "accuracy5": "REAL",
    "loss": "REAL",
    "before": "REAL",
    "validation": "REAL",
    "compression": "REAL",
    "speedup": "REAL",
    "size": "INTEGER",
    "size_nz": "INTEGER",
    "flops": "INTEGER",
    "flops_nz": "INTEGER",
    "bytes": "INTEGER",
    "latency": "REAL",
    "latency_ratio": "REAL",
    "kept": "REAL",
    "epochs": "INTEGER",
    "seconds": "REAL",
    "stage": "TEXT",
    "first_weights": "TEXT",
    "error": "TEXT",
}
"""What there is of each cell; `status` is "done", "failed" or "skipped" (what it needs failed)."""

Library = Literal["pandas", "polars"]


class Store:
    """The results in a directory. Any number of these may be open, in any number of processes of one machine."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / FILE
        with self._open() as database:
            columns = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
            database.execute(f"CREATE TABLE IF NOT EXISTS cells ({columns})")

    def add(self, row: Mapping[str, Any], status: str = "done", error: str | None = None) -> None:
        """Write down one cell; what was known of it before is replaced, unless it is done and the new row is not."""
        values = {name: row.get(name) for name in COLUMNS} | {"status": status, "error": error}
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        marks = ", ".join("?" * len(COLUMNS))
        updates = ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS if name != "hash")
        command = (
            f"INSERT INTO cells ({names}) VALUES ({marks}) ON CONFLICT(hash) DO UPDATE SET {updates} "
            "WHERE excluded.status = 'done' OR cells.status <> 'done'"
        )
        with self._open() as database:
            database.execute(command, [values[name] for name in COLUMNS])

    def rows(self, hashes: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """What is known of these cells, or of all, in the order in which they were written down first."""
        with self._open() as database:
            database.row_factory = sqlite3.Row
            found = [dict(row) for row in database.execute("SELECT * FROM cells ORDER BY rowid")]
        if hashes is None:
            return found
        wanted = set(hashes)
        return [row for row in found if row["hash"] in wanted]

    def to_csv(self, hashes: Sequence[str] | None = None) -> str:
        """The same as CSV with a header line; numbers read back exactly."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows(hashes))
        return stream.getvalue()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=SECONDS_TO_WAIT)) as database:
                _let_readers_and_a_writer_work_at_once(database)
                database.execute("PRAGMA synchronous = NORMAL")
                with database:
                    yield database
        except sqlite3.OperationalError as error:  # it is as it should be, and the system is not
            raise OutputError(
                f"'{self.path}' cannot be read or written now ({error}). Make room, wait for whoever holds it, or "
                "change its permissions; the same command goes on, since each cell has noted what it found."
            ) from error
        except sqlite3.DatabaseError as error:
            raise FileFormatError(
                f"'{self.path}' cannot be read or written as results of a sweep ({error}). Move it away: it is made "
                "again from what the cells noted."
            ) from error


def _let_readers_and_a_writer_work_at_once(database: sqlite3.Connection) -> None:
    """Turn on the write-ahead log, which stays on in the file.

    Turning it on takes a reading lock first and a writing one then, and for the second SQLite does not wait as it
    does elsewhere: where several processes come to a new file at once, all but one are told at once that it is locked.
    """
    end = time.monotonic() + SECONDS_TO_WAIT
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def open_results(directory: str | os.PathLike[str], library: Library | None = None) -> Any:
    """The results of a sweep as a data frame: one row for each network, in the columns of `store.COLUMNS`.

    Args:
        directory: of the sweep, or the file `results.sqlite` in it. A sweep that is running may be read.
        library: "pandas" or "polars"; None takes pandas if it is installed, else polars.

    Raises `SparsewoodError` if there are no results, or if neither library is installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     open_results(directory)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: '...' has no results.sqlite. Give the directory that `sparsewood sweep` wrote.
    """
    place = Path(directory)
    place = place.parent if place.name == FILE else place
    if not (place / FILE).is_file():
        raise SparsewoodError(f"'{place}' has no {FILE}. Give the directory that `sparsewood sweep` wrote.")
    if library not in (None, "pandas", "polars"):
        raise SparsewoodError(f'library must be "pandas", "polars" or None. Got {library!r}.')
    rows = Store(place).rows()
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    for name in ("pandas", "polars") if library is None else (library,):
        try:
            frames = __import__(name)
        except ImportError:
            continue
        return frames.DataFrame(columns)
    raise SparsewoodError(
        f"A data frame needs {library or 'pandas or polars'}, which is not installed. Run: pip install "
        f"{library or 'pandas'} (or read {place / 'results.csv'})"
    )
