"""Curves of trainings (001-23): losses are losses, accuracies accuracies, and both come from the CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.plot import training
from sparsewood.train.history import Epoch
from sparsewood.train.logs import CsvLog

pytest.importorskip("matplotlib")
EPOCHS = [
    Epoch(1, 0.9, 0.3, validation_loss=1.0, validation_accuracy=0.25),
    Epoch(2, 0.5, 0.6, validation_loss=0.7, validation_accuracy=0.5),
    Epoch(3, 0.4, 0.7, validation_loss=0.8, validation_accuracy=0.45),
]


def write(path: Path, epochs: list[Epoch]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = CsvLog(path)
    log.start(0)
    for epoch in epochs:
        log.write(epoch, {})
    return path


def test_001_23_losses_and_accuracies_of_each_epoch_are_drawn_from_the_log(tmp_path: Path) -> None:
    left, right = training(write(tmp_path / "logs.csv", EPOCHS)).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy [%]")
    for axes, expected in (
        (left, {"training": [0.9, 0.5, 0.4], "validation": [1.0, 0.7, 0.8]}),
        (right, {"training": [30, 60, 70], "validation": [25, 50, 45]}),
    ):
        assert [line.get_label() for line in axes.lines] == list(expected)
        for line, values in zip(axes.lines, expected.values(), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(np.asarray(line.get_ydata(), float), values)


def test_001_23_a_directory_shows_all_logs_below_it(tmp_path: Path) -> None:
    for name in ("seed-1/dense", "seed-1/magnitude/round-01", "seed-2/dense"):
        write(tmp_path / "run" / name / "logs.csv", EPOCHS)
    figure = training(tmp_path)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["seed-1/dense", "", "seed-1/magnitude/round-01", "", "seed-2/dense", ""]
    (only, _) = training(tmp_path / "run" / "seed-2").axes
    assert only.get_title(loc="left") == "dense"


def test_trainings_without_validation_data_have_one_curve(tmp_path: Path) -> None:
    left, right = training(write(tmp_path / "logs.csv", [Epoch(1, 0.9, 0.3), Epoch(2, 0.5, 0.6)])).axes
    assert [line.get_label() for line in (*left.lines, *right.lines)] == ["training", "training"]


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "logs.csv", EPOCHS)
    path.write_text(path.read_text() + "4,0.1,0.")
    assert len(training(path).axes[0].lines[0].get_xdata()) == 3  # pyright: ignore[reportArgumentType]


def test_files_that_are_no_logs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    for text, message in (
        ("", "no column epoch, train_loss"),
        ("epoch,loss\n1,2\n", "no column train_loss"),
        ("epoch,train_loss,train_acc1,val_loss,val_acc1\n1,2,x,4,5\n", "line 2: not an epoch"),
        ("epoch,train_loss,train_acc1,val_loss,val_acc1\n1,2\n", "line 2: not an epoch"),
    ):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=message):
            training(path)
    with pytest.raises(SparsewoodError, match="no epoch that was finished"):
        training(write(path, []))
    with pytest.raises(SparsewoodError, match=r"no file logs.csv"):
        training(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        training(tmp_path / "other.csv")


def test_epochs_are_whole_numbers_also_where_there_is_one(tmp_path: Path) -> None:
    for axes in training(write(tmp_path / "logs.csv", EPOCHS[:1])).axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_the_legend_has_what_any_of_the_drawings_has(tmp_path: Path) -> None:
    write(tmp_path / "a" / "logs.csv", [Epoch(1, 0.9, 0.3)])
    write(tmp_path / "b" / "logs.csv", EPOCHS)
    (legend,) = training(tmp_path).legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
