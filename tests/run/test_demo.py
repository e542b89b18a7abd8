"""The demo. Requirements 002-07 (random control), 002-08 (achieved sparsity), 002-10 (dry run), 8.1, 8.2, 8.3;
regressions 4 (test part read last), 8 (masks hold), 20 (achieved, not nominal), 24 (seeds)."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsewood.data import HeldOut, Part
from sparsewood.report.rows import aggregate, order_of, read_csv
from sparsewood.run import demo as module
from sparsewood.run.cli import main
from sparsewood.run.demo import EXPECTED_ORDER, STRATEGIES, run_demo, steps
from sparsewood.run.settings import DemoSettings
from sparsewood.train import SGD, Training

FILES = {"results.csv", "params.json", "metrics.json", "masks_summary.csv", "curve.png"}
TINY = DemoSettings(seeds=(0, 1), compressions=(1.0, 8.0), epochs=1, finetune_epochs=1, batch_size=256)
OPTIONS = {"--seeds": "0,1", "--compressions": "1,8", "--epochs": "1", "--finetune-epochs": "1", "--batch-size": "256"}
ARGUMENTS = ["demo", "--quiet", *(part for option in OPTIONS.items() for part in option)]

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "new" / "run"
    assert main([*ARGUMENTS, "--output", str(output)]) == 0
    return output


def load(path: Path) -> Any:
    return json.loads(path.read_text())


# ---------------------------------------------------------------- files


def test_every_file_is_there_and_nothing_else(directory: Path) -> None:
    assert {path.name for path in directory.iterdir()} == FILES
    assert (directory / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_one_row_for_each_strategy_compression_and_seed(directory: Path) -> None:
    rows = read_csv(directory / "results.csv")
    expected = [(s.name, ratio, seed) for s in STRATEGIES for ratio in (1.0, 8.0) for seed in (0, 1)]
    assert [(row.strategy, row.compression, row.seed) for row in rows] == expected


def test_compression_is_achieved_not_nominal(directory: Path) -> None:
    for row in read_csv(directory / "results.csv"):
        assert row.size_nz == round(row.size / row.compression)
        assert row.real_compression == row.size / row.size_nz
        assert row.speedup == row.flops / row.flops_nz
        # convolutions 1->4 and 4->32 on 8x8 pixels, then 512->128 and 128->10
        assert row.flops == 64 * 36 + 64 * 1152 + 65536 + 1280
        assert 0 <= row.post_acc1 <= row.post_acc5 <= 1


def test_layers_add_up_to_the_networks(directory: Path) -> None:
    size, kept = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    with (directory / "masks_summary.csv").open(newline="") as stream:
        for layer in csv.DictReader(stream):
            key = (layer["strategy"], layer["compression"], layer["seed"])
            size[key] += int(layer["size"])
            kept[key] += int(layer["kept"])
            assert float(layer["sparsity"]) == 1 - int(layer["kept"]) / int(layer["size"])
    for row in read_csv(directory / "results.csv"):
        key = (row.strategy, str(row.compression), str(row.seed))
        assert (size[key], kept[key]) == (row.size, row.size_nz)


def test_aggregates_follow_from_the_rows(directory: Path) -> None:
    metrics = load(directory / "metrics.json")
    points = aggregate(read_csv(directory / "results.csv"))
    assert metrics["points"] == [asdict(point) for point in points]
    orders = order_of(points, EXPECTED_ORDER)
    assert [(o["compression"], o["means"], o["holds"]) for o in metrics["order"]] == [
        (order.compression, list(order.means), order.holds) for order in orders
    ]
    assert len(orders) == 1


def test_parameters_say_all_that_was_in_effect(directory: Path) -> None:
    params = load(directory / "params.json")
    assert params["settings"] == json.loads(json.dumps(asdict(TINY)))
    assert params["versions"]["torch"] == version("torch")
    assert "multiply-adds" in params["definitions"]["flops, flops_nz"]
    assert params["dataset"]["examples"] == {"train": 1079, "validation": 359, "test": 359}
    assert set(params["strategies"]) == {s.name for s in STRATEGIES}
    assert params["machine"]["platform"]


def test_table_order_and_files_are_printed(tmp_path: Path, capsys: Captured) -> None:
    assert main([*ARGUMENTS, "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for strategy in STRATEGIES:
        assert out.count(f"\n{strategy.name} ") == 2
    line = next(line for line in out.splitlines() if line.startswith("8x: global magnitude"))
    assert line.endswith((": yes", ": NO"))
    for name in FILES:
        assert str(tmp_path / name) in out


# ---------------------------------------------------------------- honesty


def test_same_settings_same_bytes(directory: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    assert main([*ARGUMENTS, "--output", str(tmp_path)]) == 0
    for name in ("results.csv", "masks_summary.csv", "metrics.json", "params.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_control_is_one_network_for_all_strategies(directory: Path) -> None:
    control = [row for row in read_csv(directory / "results.csv") if row.compression == 1.0]
    for seed in (0, 1):
        rows = {replace(row, strategy="") for row in control if row.seed == seed}
        assert len(rows) == 1
        (row,) = rows
        assert row.completed_epochs == TINY.finetune_epochs  # tuned as long as the others


class Recorder:
    """Notes when networks are trained and when the test part is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.orders: list[list[int]] = []
        self.rates: list[tuple[float, int]] = []
        fit, open_test = module.fit, HeldOut.open
        recorder = self

        def watched_open(self: HeldOut) -> Part:
            recorder.events.append("test")
            return open_test(self)

        def recording_fit(model: Any, train: Any, training: Training, **rest: Any) -> Any:
            recorder.events.append("fit")
            seen = list(train)
            recorder.orders.append([int(label) for _, labels in seen for label in labels])
            assert isinstance(training.optimizer, SGD)
            recorder.rates.append((training.optimizer.lr, training.epochs))
            return fit(model, seen, training, **rest)

        monkeypatch.setattr(module, "fit", recording_fit)
        monkeypatch.setattr(HeldOut, "open", watched_open)


def test_the_test_part_is_read_after_all_training(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    run_demo(TINY)
    fits = len(TINY.seeds) * (2 + len(STRATEGIES))
    assert recorder.events[:fits] == ["fit"] * fits
    assert recorder.events[fits:] == ["test"]


def test_settings_can_be_chosen_without_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    outcome = run_demo(replace(TINY, seeds=(0,), evaluate_on="validation"))
    assert "test" not in recorder.events
    assert {row.dataset for row in outcome.results} == {"digits (validation)"}


def test_every_point_is_finetuned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    run_demo(TINY)
    each = 2 + len(STRATEGIES)
    orders = [tuple(order) for order in recorder.orders]
    for first in (0, each):
        assert len(set(orders[first + 1 : first + each])) == 1
    assert orders[1] != orders[each + 1]
    assert set(recorder.rates) == {(TINY.lr, 1)}


def test_steps_are_counted_right() -> None:
    for settings in (TINY, replace(TINY, dry_run=True)):
        done: list[str] = []
        run_demo(settings, done.append)
        assert len(done) == steps(settings)


# ---------------------------------------------------------------- failures


def test_an_unwritable_output_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    (tmp_path / "file").touch()
    assert main([*ARGUMENTS, "--output", str(tmp_path / "file")]) == 2
    assert recorder.events == []


def test_an_impossible_compression_is_a_user_error(tmp_path: Path, capsys: Captured) -> None:
    assert main([*ARGUMENTS, "--compressions", "1000", "--output", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def _interruptible() -> Iterator[None]:
    # A test run in the background of a shell is born deaf to SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("where", ["sparsewood.run.demo.evaluate", "matplotlib.figure.Figure.savefig"])
def test_ctrl_c_leaves_no_half_written_file(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(where, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert main([*ARGUMENTS, "--output", str(tmp_path)]) == 130
    whole = FILES - {"curve.png"} if "savefig" in where else set()
    assert {path.name for path in tmp_path.iterdir()} == whole
    assert "Interrupted" in capsys.readouterr().err


# ---------------------------------------------------------------- whole runs


def test_dry_run_is_one_batch_through_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(monkeypatch)
    assert main(["demo", "--dry-run", "--quiet", "--batch-size", "16"]) == 0
    assert {path.name for path in (tmp_path / "runs" / "demo-dry-run").iterdir()} == FILES
    assert all(len(order) == 16 for order in recorder.orders)
    assert len(recorder.orders) == 2 + 5 * len(STRATEGIES)
    out = capsys.readouterr().out
    assert "DRY RUN" in out
    assert "expected order" not in out  # nothing was learned, so nothing is said
    assert load(tmp_path / "runs/demo-dry-run/metrics.json")["dry_run"] is True


@pytest.mark.slow
def test_chosen_weights_beat_random_ones(tmp_path: Path) -> None:
    assert main(["demo", "--quiet", "--output", str(tmp_path)]) == 0
    points = aggregate(read_csv(tmp_path / "results.csv"))
    orders = order_of(points, EXPECTED_ORDER)
    assert [order.compression for order in orders] == [8.0, 16.0, 32.0]
    assert all(order.holds for order in orders)
    mean = {(point.strategy, point.compression): point.post_acc1.mean for point in points}
    assert mean["random", 1.0] > 0.95  # the control is a network worth pruning
    for ratio in (8.0, 16.0, 32.0):
        assert mean["global gradient magnitude", ratio] > mean["random", ratio]
        for strategy in STRATEGIES:
            (point,) = (p for p in points if (p.strategy, p.compression) == (strategy.name, ratio))
            assert point.real_compression.mean == pytest.approx(ratio, rel=1e-3)


def test_accuracy_before_is_that_of_the_pruned_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """[8.2] Not of the dense one: the weights are zero before fine-tuning begins."""
    monkeypatch.setattr(module, "_fit", lambda *_: 1)
    seen: list[module.Candidate] = []
    monkeypatch.setattr(module, "_outcome", lambda _, candidates: seen.extend(candidates))
    module.run_demo(replace(TINY, seeds=(0,), compressions=(1.0, 8.0)))
    for candidate in seen:
        zeros = sum(int((tensor == 0).sum()) for tensor in candidate.pruned.values())
        total = sum(tensor.numel() for tensor in candidate.pruned.values())
        assert zeros == (0 if candidate.case.compression == 1 else total - round(total / 8))
