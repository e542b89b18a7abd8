"""Each epoch of a training as a line of a CSV file or as scalars for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sparsewood.errors import FileFormatError, OutputError, SparsewoodError
from sparsewood.files import write_atomically
from sparsewood.measurement import Evaluation
from sparsewood.train.history import Epoch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["COLUMNS", "CsvLog", "Log", "Logs", "TensorBoardLog", "scalars"]

COLUMNS = (
    "epoch",
    "timestamp",
    "train_loss",
    "train_acc1",
    "train_acc5",
    "val_loss",
    "val_acc1",
    "val_acc5",
    "lr",
    "sparsity",
    "seconds",
)


class Log(Protocol):
    """Is told of each epoch.

    `start(after)` comes first: what is there of epochs after `after` (0: of all) is of an earlier attempt and goes.
    `write` gets each epoch as it ends, with the sparsity of each masked parameter; `close` comes last, also after an
    error.
    """

    def start(self, after: int) -> None: ...
    def write(self, epoch: Epoch, layers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class CsvLog:
    """One line for each epoch, written as the epoch ends, in the columns of ShrinkBench and a few more.

    `timestamp` are seconds since training began (without the time between an interruption and going on). What is not
    known (accuracy within five of five classes, validation without data) is empty.

    Raises `OutputError` if the file cannot be written, `FileFormatError` if it is another kind of file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._began = 0.0

    def start(self, after: int) -> None:
        """Keep the lines up to epoch `after`; all else goes, a line that an interruption cut short included."""
        kept = self._kept(after) if after and self._path.exists() else []
        self._began = time.monotonic() - (float(kept[-1][1]) if kept else 0.0)
        text = "".join(map(_line, [COLUMNS, *kept]))
        write_atomically(self._path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def write(self, epoch: Epoch, layers: Mapping[str, float]) -> None:  # noqa: ARG002 - layers need columns of their own
        """Append one line."""
        values = (
            epoch.number,
            round(time.monotonic() - self._began, 3),
            epoch.loss,
            epoch.accuracy,
            epoch.accuracy5,
            epoch.validation_loss,
            epoch.validation_accuracy,
            epoch.validation_accuracy5,
            epoch.rate,
            epoch.sparsity,
            None if epoch.seconds is None else round(epoch.seconds, 3),
        )
        line = _line("" if value is None else value for value in values)
        try:
            with self._path.open("a", encoding="utf-8", newline="") as stream:
                stream.write(line)
        except OSError as error:
            raise OutputError(f"Cannot write file '{self._path}': {error.strerror or error}.") from error

    def close(self) -> None:
        """Nothing is left open between epochs."""

    def _kept(self, after: int) -> list[list[str]]:
        text = self._path.read_text(encoding="utf-8")
        rows = list(csv.reader(line for line in text.splitlines(keepends=True) if line.endswith("\n")))
        if not rows or tuple(rows[0]) != COLUMNS:
            raise FileFormatError(
                f"'{self._path}' is no log of a training: its first line is {text.partition(chr(10))[0]!r:.80}. "
                "Move it away, or log to another file."
            )
        try:
            return [row for row in rows[1:] if int(row[0]) <= after]
        except (ValueError, IndexError):
            raise FileFormatError(
                f"'{self._path}' has a line without the number of an epoch. Move it away, or log to another file."
            ) from None


class TensorBoardLog:
    """Scalars for TensorBoard: losses, accuracies, learning rate, and the sparsity of each masked parameter.

    Keys: train_loss, train_acc, val_loss, val_acc, lr, sparsity, `<parameter>_sparsity`; and test_loss, test_acc from
    `tested`. Raises `SparsewoodError` if TensorBoard is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def start(self, after: int) -> None:
        """Open the log; TensorBoard shows nothing of later epochs that was written before."""
        self._writer = _summary_writer(self._directory, purge_step=after + 1)

    def write(self, epoch: Epoch, layers: Mapping[str, float]) -> None:
        """One point in each curve."""
        assert self._writer is not None, "start comes before write"
        _add(self._writer, scalars(epoch, layers), epoch.number)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and end the writing thread."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def tested(self, test: Evaluation, number: int) -> None:
        """What the final network does on the test data, as a point at epoch `number`; after all training."""
        writer = _summary_writer(self._directory, purge_step=None)
        _add(writer, {"test_loss": test.loss, "test_acc": test.top[1]}, number)
        writer.close()


def scalars(epoch: Epoch, layers: Mapping[str, float]) -> dict[str, float]:
    """What curves are made of, by key; what is not known is left out.

    >>> scalars(Epoch(1, 0.5, 0.9, rate=0.1), {"fc.weight": 0.25})
    {'train_loss': 0.5, 'train_acc': 0.9, 'lr': 0.1, 'sparsity': 0.0, 'fc.weight_sparsity': 0.25}
    """
    known = {
        "train_loss": epoch.loss,
        "train_acc": epoch.accuracy,
        "val_loss": epoch.validation_loss,
        "val_acc": epoch.validation_accuracy,
        "lr": epoch.rate,
        "sparsity": epoch.sparsity,
    }
    known |= {f"{name}_sparsity": value for name, value in layers.items()}
    return {key: value for key, value in known.items() if value is not None}


def _add(writer: SummaryWriter, values: Mapping[str, float], number: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, number)


def _line(values: Iterable[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def _summary_writer(directory: str | os.PathLike[str], purge_step: int | None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SparsewoodError(
            f"TensorBoard logs need TensorBoard, and importing it failed: {error}. Run: pip install 'sparsewood[tb]'"
        ) from error
    return SummaryWriter(os.fspath(directory), purge_step=purge_step)


class Logs:
    """Several logs as one."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self._logs = tuple(logs)

    def start(self, after: int) -> None:
        for log in self._logs:
            log.start(after)

    def write(self, epoch: Epoch, layers: Mapping[str, float]) -> None:
        for log in self._logs:
            log.write(epoch, layers)

    def close(self) -> None:
        for log in self._logs:
            log.close()
