"""Logs of a training. Requirement 003-22 (keys exist), 8.2 (columns of ShrinkBench)."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsewood.errors import FileFormatError, OutputError, SparsewoodError
from sparsewood.measurement import Evaluation
from sparsewood.state import TrainingState
from sparsewood.train import CsvLog, Epoch, Logs, TensorBoardLog, Training, fit
from sparsewood.train.logs import COLUMNS
from sparsewood.types import Masks

DATA = [(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)]
MASK = {"weight": torch.tensor([[True, False, True], [True, True, True]])}


def model() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_line_for_each_epoch(tmp_path: Path) -> None:
    history = fit(model(), DATA, Training(3), validation=DATA, masks=MASK, log=CsvLog(tmp_path / "logs.csv")).history
    text = (tmp_path / "logs.csv").read_text()
    start = "epoch,timestamp,train_loss,train_acc1,train_acc5,val_loss,val_acc1,val_acc5,"
    assert text.startswith(start)
    assert text.count("\n") == 4
    for row, epoch in zip(rows(tmp_path / "logs.csv"), history.epochs, strict=True):
        assert int(row["epoch"]) == epoch.number
        assert (float(row["train_loss"]), float(row["train_acc1"])) == (epoch.loss, epoch.accuracy)
        assert (float(row["val_loss"]), float(row["val_acc1"])) == (epoch.validation_loss, epoch.validation_accuracy)
        assert (row["train_acc5"], row["val_acc5"]) == ("", "")  # of two classes
        assert (float(row["lr"]), float(row["sparsity"])) == (epoch.rate, 1 / 6)
    times = [float(row["timestamp"]) for row in rows(tmp_path / "logs.csv")]
    assert times == sorted(times)


def test_lines_are_there_as_soon_as_an_epoch_ends(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.start(0)
    log.write(Epoch(1, 0.5, 0.5), {})
    assert [row["epoch"] for row in rows(tmp_path / "logs.csv")] == ["1"]


def test_going_on_repeats_no_epoch(tmp_path: Path) -> None:
    """What was written after the checkpoint, or half of a line, goes; the rest stays as it was, byte for byte."""
    path = tmp_path / "logs.csv"
    states: list[TrainingState] = []
    fit(model(), DATA, Training(4), log=CsvLog(path), on_checkpoint=states.append)
    whole = path.read_text()
    path.write_text(whole + "5,0.1")  # cut while it was written
    fit(model(), DATA, Training(4), log=CsvLog(path), state=states[1])
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3", "4"]
    kept = whole.splitlines()[:3]
    assert path.read_text().splitlines()[:3] == kept
    untimed = [{k: v for k, v in row.items() if k not in ("timestamp", "seconds")} for row in rows(path)]
    path.write_text(whole)
    assert untimed == [{k: v for k, v in row.items() if k not in ("timestamp", "seconds")} for row in rows(path)]
    times = [float(row["timestamp"]) for row in rows(path)]
    assert times == sorted(times)


def test_a_new_training_starts_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    for _ in range(2):
        fit(model(), DATA, Training(2), log=CsvLog(path))
    assert [row["epoch"] for row in rows(path)] == ["1", "2"]


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match=r"no log of a training.*'a,b'"):
        CsvLog(path).start(1)
    path.write_text(",".join(COLUMNS) + "\nx,0\n")
    with pytest.raises(FileFormatError, match="line without the number of an epoch"):
        CsvLog(path).start(1)
    with pytest.raises(OutputError, match="Cannot write"):
        CsvLog(tmp_path / "missing" / "logs.csv").start(0)


def test_tensorboard_has_every_key(tmp_path: Path) -> None:
    """[003-22] test and validation losses and accuracies, and the sparsity of each layer."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path)
    history = fit(model(), DATA, Training(2), validation=DATA, masks=MASK, log=log).history
    log.tested(Evaluation(0.25, {1: 0.75}, 4), 2)
    events = EventAccumulator(str(tmp_path)).Reload()
    expected = {"train_loss", "train_acc", "val_loss", "val_acc", "lr", "sparsity", "weight_sparsity"}
    assert set(events.Tags()["scalars"]) == expected | {"test_loss", "test_acc"}
    assert [event.step for event in events.Scalars("val_acc")] == [1, 2]
    assert [e.value for e in events.Scalars("val_loss")] == pytest.approx([e.validation_loss for e in history.epochs])
    assert events.Scalars("weight_sparsity")[0].value == pytest.approx(1 / 6)
    assert [event.value for event in events.Scalars("test_acc")] == [0.75]


def test_tensorboard_forgets_epochs_that_are_done_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    states: list[TrainingState] = []
    fit(model(), DATA, Training(4), log=TensorBoardLog(tmp_path), on_checkpoint=states.append)
    fit(model(), DATA, Training(4), log=TensorBoardLog(tmp_path), state=states[1])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3, 4]


def test_without_tensorboard_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[tb\]'"):
        TensorBoardLog(tmp_path).start(0)


class Recorder:
    def __init__(self, told: list[str], name: str) -> None:
        self.told, self.name = told, name

    def start(self, after: int) -> None:
        self.told.append(f"{self.name} after {after}")

    def write(self, epoch: Epoch, layers: object) -> None:
        self.told.append(f"{self.name} epoch {epoch.number} {layers}")

    def close(self) -> None:
        self.told.append(f"{self.name} closed")


def test_every_log_is_told_in_order_and_closed_after_an_error() -> None:
    told: list[str] = []
    fit(model(), DATA, Training(1), masks=MASK, log=Logs([Recorder(told, "a"), Recorder(told, "b")]))
    layers = Masks(MASK).layer_sparsity()
    assert told[:4] == ["a after 0", "b after 0", f"a epoch 1 {layers}", f"b epoch 1 {layers}"]
    assert told[-2:] == ["a closed", "b closed"]
    told.clear()
    with pytest.raises(SparsewoodError):
        fit(model(), [(torch.full((2, 3), torch.nan), torch.zeros(2).long())], Training(1), log=Recorder(told, "a"))
    assert told == ["a after 0", "a closed"]
