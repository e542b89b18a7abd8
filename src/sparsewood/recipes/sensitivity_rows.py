"""The rows of a sensitivity analysis while it goes on: each is on disk as soon as it is there."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.files import writable_directory, write_atomically
from sparsewood.measurement import Evaluation
from sparsewood.report.rows import to_csv
from sparsewood.report.sensitivity import SensitivityRow, finished_lines, parse_rows

__all__ = ["Rows"]

SAME_LOSS = 1e-3  # relative: other threads, devices and releases change the last bits
Key = tuple[str, str, float]


class Rows:
    """Finished rows by parameter, granularity and sparsity, in a CSV file if there is one.

    Raises `SparsewoodError` for a file of another network or of other settings, `FileFormatError` for one that is no
    such file, `OutputError` where none can be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = fingerprint
        self._rows: dict[Key, SensitivityRow] = {}
        for row in [] if self.path is None else _begun(self.path):
            if row.fingerprint != fingerprint:
                raise SparsewoodError(
                    f"'{self.path}' holds the sensitivity of a network with other weights, or of another criterion or "
                    f"seed (fingerprint {row.fingerprint}, here {fingerprint}). Choose another path, or remove the "
                    "file."
                )
            self._rows.setdefault((row.parameter, row.granularity, row.sparsity), row)

    def baseline(self, found: Evaluation) -> Evaluation:
        """The whole network: as the file has it, if `found` is that, else `found`.

        Raises `SparsewoodError` if the file has another: it is then of other data, or of another loss.
        """
        before = next((row for row in self._rows.values() if row.sparsity == 0), None)
        if before is None:
            return found
        if before.samples != found.samples or not math.isclose(before.loss, found.loss, rel_tol=SAME_LOSS):
            raise SparsewoodError(
                f"'{self.path}' was begun on other data or with another loss: the whole network had a loss of "
                f"{before.loss:g} on {before.samples} samples, and has {found.loss:g} on {found.samples}. Choose "
                "another path, or remove the file."
            )
        top = {k: value for k, value in ((1, before.top1), (5, before.top5)) if value is not None}
        return Evaluation(before.loss, top, before.samples)

    def holds(self, parameter: str, label: str, amount: float) -> bool:
        """Whether this row is there."""
        return (parameter, label, amount) in self._rows

    def note(self, parameter: str, label: str, amounts: tuple[float, float], found: Evaluation) -> None:
        """Add the row of an amount, (asked, achieved), unless it is there."""
        asked, achieved = amounts
        if self.holds(parameter, label, asked):
            return
        top1, top5 = found.top.get(1), found.top.get(5)
        row = SensitivityRow(
            parameter, asked, top1, top5, found.loss, label, achieved, found.samples, self.fingerprint
        )  # fmt: skip
        self._rows[parameter, label, asked] = row
        if self.path is not None:
            _append(self.path, row)

    def ordered(self, keys: Iterable[Key]) -> tuple[SensitivityRow, ...]:
        """The rows of these keys."""
        return tuple(self._rows[key] for key in keys)


def _begun(path: Path) -> list[SensitivityRow]:
    """What a file holds; a line that was being written when its process was killed is taken away."""
    writable_directory(path.parent)
    if not path.exists():
        return []
    if not path.is_file():
        raise OutputError(f"Cannot write file '{path}': it exists and is no regular file. Choose another path.")
    text = path.read_text(encoding="utf-8")
    whole = finished_lines(text)
    rows = parse_rows(whole, str(path))
    if whole != text:
        write_atomically(path, lambda temporary: temporary.write_text(whole, encoding="utf-8"))
    return rows


def _append(path: Path, row: SensitivityRow) -> None:
    try:
        with path.open("a", encoding="utf-8") as stream:
            header, line = to_csv([row]).splitlines(keepends=True)
            stream.write(line if stream.tell() else header + line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(
            f"Cannot write file '{path}': {error.strerror or error}. What is in it is whole but for the last line; the "
            "same call goes on from there."
        ) from error
