"""Logs for MLflow and Weights & Biases: what they are told, in order, and what is left after an interruption."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.measurement import Evaluation
from sparsewood.state import TrainingState
from sparsewood.train import Epoch, Training, fit
from sparsewood.train.trackers import MlflowLog, WandbLog, flat

SETTINGS = {"name": "small", "training": {"epochs": 4, "optimizer": {"name": "SGD"}}, "seeds": [1, 2]}
DATA = [(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)]
TEST = Evaluation(0.25, {1: 0.75}, 4)
Told = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def model() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


# ---------------------------------------------------------------- stand-ins


class MlflowException(Exception):
    pass


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Told:
    told: Told = []

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            told.append(("client", tracking_uri))

        def get_experiment_by_name(self, name: str) -> None:
            told.append(("experiment?", name))

        def create_experiment(self, name: str) -> str:
            told.append(("experiment", name))
            return "e"

        def create_run(self, number: str, run_name: str | None) -> Any:
            run = f"r{sum(one[0] == 'run' for one in told)}"
            told.append(("run", number, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id=run))

        def delete_run(self, run: str) -> None:
            told.append(("delete", run))
            raise MlflowException("it is gone")

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            assert len(params) <= 100, "MLflow refuses more"
            assert len(metrics) <= 1000, "MLflow refuses more"
            told.append(("batch", run, {m[0]: (m[1], m[3]) for m in metrics} or dict(params)))

        def set_terminated(self, run: str, status: str) -> None:
            told.append(("end", run, status))

    entities = SimpleNamespace(Param=lambda *given: given, Metric=lambda *given: given)
    fake = SimpleNamespace(
        MlflowClient=Client, entities=entities, exceptions=SimpleNamespace(MlflowException=MlflowException)
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)  # pyright: ignore[reportArgumentType]
    return told


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Told:
    told: Told = []

    def init(**given: Any) -> Any:
        told.append(("init", given))
        return SimpleNamespace(
            log=lambda values, step: told.append(("log", values, step)),
            finish=lambda exit_code: told.append(("finish", exit_code)),
            summary=SimpleNamespace(update=lambda values: told.append(("summary", values))),
        )

    fake = SimpleNamespace(init=init, Settings=lambda **given: given)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # pyright: ignore[reportArgumentType]
    return told


def without_clients(told: Told) -> Told:
    return [one for one in told if one[0] not in ("client", "experiment?")]


# ---------------------------------------------------------------- MLflow


def test_mlflow_is_told_recipe_epochs_and_test_in_order(mlflow: Told, tmp_path: Path) -> None:
    log = MlflowLog(tmp_path, SETTINGS, name="seed-1/dense", experiment="mine")
    log.start(0)
    log.write(Epoch(1, 0.5, 0.9, validation_loss=0.6, rate=0.1, sparsity=0.2), {"fc.weight": 0.25})
    log.close()
    log.tested(TEST, 1)
    parameters = {
        "name": "small",
        "training.epochs": "4",
        "training.optimizer.name": "SGD",
        "seeds.0": "1",
        "seeds.1": "2",
    }
    metrics = {"train_loss": 0.5, "train_acc": 0.9, "val_loss": 0.6, "lr": 0.1, "sparsity": 0.2}
    assert without_clients(mlflow) == [
        ("experiment", "mine"),
        ("run", "e", "seed-1/dense"),
        ("batch", "r0", parameters),
        ("batch", "r0", {key: (value, 1) for key, value in (metrics | {"fc.weight_sparsity": 0.25}).items()}),
        ("end", "r0", "FINISHED"),
        ("batch", "r0", {"test_loss": (0.25, 1), "test_acc": (0.75, 1)}),
    ]


def test_mlflow_gets_a_new_run_with_the_epochs_that_stay(mlflow: Told, tmp_path: Path) -> None:
    first = MlflowLog(tmp_path, {})
    first.start(0)
    for number in (1, 2, 3):
        first.write(Epoch(number, 1 / number, 0.5), {})
    mlflow.clear()
    again = MlflowLog(tmp_path, {})
    again.start(2)
    again.write(Epoch(3, 0.25, 0.5), {})
    told = without_clients(mlflow)
    assert told[:1] == [("delete", "r0")]
    losses = [one[2]["train_loss"] for one in told if one[0] == "batch"]
    assert losses == [(1.0, 1), (0.5, 2), (0.25, 3)]
    lines = (tmp_path / "mlflow.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_mlflow_is_told_of_networks_that_were_not_trained_here(mlflow: Told, tmp_path: Path) -> None:
    MlflowLog(tmp_path, {}).tested(TEST, 0)
    told = without_clients(mlflow)[1:]
    values = {"test_loss": (0.25, 0), "test_acc": (0.75, 0)}
    assert told == [("run", "e", None), ("batch", "r0", values), ("end", "r0", "FINISHED")]


def test_mlflow_takes_many_parameters_in_parts(mlflow: Told, tmp_path: Path) -> None:
    MlflowLog(tmp_path, {"a": list(range(250)), "long": "x" * 9000}).start(0)
    parts = [one[2] for one in mlflow if one[0] == "batch"]
    assert [len(part) for part in parts] == [100, 100, 51]
    assert len(parts[-1]["long"]) == 6000


def test_mlflow_takes_many_values_in_parts(mlflow: Told, tmp_path: Path) -> None:
    log = MlflowLog(tmp_path, {})
    log.start(0)
    log.write(Epoch(1, 0.5, 0.9), {f"layer{number}": 0.5 for number in range(1500)})
    values = [key for one in mlflow if one[0] == "batch" for key in one[2]]
    assert len(values) == len(set(values)) == 1504


def test_where_mlflow_writes(mlflow: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument, by variable, or into the run: never into the working directory."""
    stage = tmp_path / "seed-1"
    stage.mkdir()
    monkeypatch.chdir(tmp_path)
    MlflowLog("seed-1", {}).start(0)
    MlflowLog(stage, {}, store=".").start(0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    MlflowLog(stage, {}, store=tmp_path).start(0)
    MlflowLog(stage, {}, uri="sqlite:///mine.db").start(0)
    places = list(dict.fromkeys(one[1] for one in mlflow if one[0] == "client"))
    inside, shared = f"sqlite:///{stage}/mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"
    assert places == [inside, shared, "http://tracker", "sqlite:///mine.db"]


# ---------------------------------------------------------------- Weights & Biases


def test_wandb_is_told_recipe_epochs_and_test_in_order(wandb: Told, tmp_path: Path) -> None:
    log = WandbLog(tmp_path, SETTINGS, name="dense", group="g", project="mine")
    log.start(0)
    for number in (1, 2):
        log.write(Epoch(number, 0.5, 0.9, rate=0.1), {"w": 0.25})
    log.close()
    log.tested(TEST, 1)
    values = {"train_loss": 0.5, "train_acc": 0.9, "lr": 0.1, "sparsity": 0.0, "w_sparsity": 0.25}
    epochs = [("log", {"epoch": number, **values}, number) for number in (1, 2)]
    assert [one[0] for one in wandb] == ["init", "log", "log", "finish", "init", "log", "log", "summary", "finish"]
    assert wandb[1:4] == [*epochs, ("finish", 0)]
    assert wandb[5:] == [*epochs, ("summary", {"test_loss": 0.25, "test_acc": 0.75}), ("finish", 0)]
    begun, again = wandb[0][1], wandb[4][1]
    assert begun == again, "the same run"
    chosen = {key: begun[key] for key in ("name", "group", "project", "config", "dir", "mode", "reinit")}
    assert chosen == {
        "name": "dense",
        "group": "g",
        "project": "mine",
        "config": SETTINGS,
        "dir": str(tmp_path),
        "mode": "offline",
        "reinit": "create_new",
    }
    assert len(begun["id"]) == 32


def test_wandb_gets_the_epochs_that_stay_under_the_same_id(wandb: Told, tmp_path: Path) -> None:
    first = WandbLog(tmp_path, {})
    first.start(0)
    for number in (1, 2, 3):
        first.write(Epoch(number, 1 / number, 0.5), {})
    before, told = wandb[0][1]["id"], len(wandb)
    again = WandbLog(tmp_path, {})
    again.start(2)
    again.write(Epoch(3, 0.25, 0.5), {})
    assert wandb[told][1]["id"] == before
    assert [(one[1]["train_loss"], one[2]) for one in wandb[told + 1 :]] == [(1.0, 1), (0.5, 2), (0.25, 3)]


def test_wandb_is_offline_unless_something_says_otherwise(
    wandb: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WandbLog(tmp_path, {}).start(0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    WandbLog(tmp_path, {}).start(0)
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandbLog(tmp_path, {}).start(0)
    WandbLog(tmp_path, {}, mode="disabled").start(0)
    assert [one[1]["mode"] for one in wandb] == ["offline", "online", "offline", "disabled"]


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("make", [MlflowLog, WandbLog])
def test_an_error_on_its_way_is_told(make: Callable[..., Any], mlflow: Told, wandb: Told, tmp_path: Path) -> None:
    broken = [(torch.full((2, 3), torch.nan), torch.zeros(2).long())]
    with pytest.raises(SparsewoodError):
        fit(model(), broken, Training(1), log=make(tmp_path, {}))
    last = (mlflow if make is MlflowLog else wandb)[-1]
    assert last in (("end", "r0", "FAILED"), ("finish", 1))


@pytest.mark.parametrize("make", [MlflowLog, WandbLog])
def test_training_taken_up_again_tells_each_epoch_once(
    make: Callable[..., Any], mlflow: Told, wandb: Told, tmp_path: Path
) -> None:
    states: list[TrainingState] = []
    fit(model(), DATA, Training(4), log=make(tmp_path, {}), on_checkpoint=states.append)
    mlflow.clear()
    wandb.clear()
    fit(model(), DATA, Training(4), log=make(tmp_path, {}), state=states[1])
    steps = [one[2]["train_loss"][1] for one in mlflow if one[0] == "batch"] + [
        one[2] for one in wandb if one[0] == "log"
    ]
    assert steps == [1, 2, 3, 4]


@pytest.mark.usefixtures("mlflow", "wandb")
@pytest.mark.parametrize(("make", "name"), [(MlflowLog, "mlflow"), (WandbLog, "wandb")])
def test_notes(make: Callable[..., Any], name: str, tmp_path: Path) -> None:
    notes = tmp_path / f"{name}.jsonl"
    line = '{"epoch": 1, "time": 0.0, "values": {"train_loss": 0.5}}\n'
    notes.write_text(line + '{"epoch": 2, "ti')  # cut while it was written
    make(tmp_path, {}).start(5)
    assert notes.read_text() == line
    notes.write_text("a,b\n")
    with pytest.raises(FileFormatError, match=r"a line that is no epoch.*Move it away"):
        make(tmp_path, {}).start(1)
    make(tmp_path, {}).start(0)
    assert not notes.read_text(), "a new training begins anew"


@pytest.mark.parametrize(("make", "name"), [(MlflowLog, "mlflow"), (WandbLog, "wandb")])
def test_a_missing_library_is_named_with_its_extra(
    make: Callable[..., Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SparsewoodError, match=rf"pip install 'sparsewood\[{name}\]'"):
        make(tmp_path, {}).start(0)


def test_flat() -> None:
    assert flat({}) == {}
    assert flat({"a": {"b": [{"c": None}, []], "d": {}}}) == {"a.b.0.c": None, "a.b.1": [], "a.d": {}}


# ---------------------------------------------------------------- the libraries themselves


@pytest.mark.filterwarnings("default")
def test_real_mlflow_keeps_each_epoch_once(tmp_path: Path) -> None:
    reason = "MLflow is not installed: pip install 'sparsewood[mlflow]'"
    library = pytest.importorskip("mlflow", reason=reason)
    pytest.importorskip("sqlalchemy", reason=reason)
    states: list[TrainingState] = []
    fit(model(), DATA, Training(3), log=MlflowLog(tmp_path, SETTINGS, name="a"), on_checkpoint=states.append)
    log = MlflowLog(tmp_path, SETTINGS, name="a")
    history = fit(model(), DATA, Training(3), log=log, state=states[0]).history
    log.tested(TEST, 3)
    client = library.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("sparsewood")
    (run,) = client.search_runs([experiment.experiment_id])  # the deleted one is not among them
    found = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(one.step, one.value) for one in found] == [(epoch.number, epoch.loss) for epoch in history.epochs]
    assert run.data.params["training.optimizer.name"] == "SGD"
    assert (run.data.metrics["test_acc"], run.info.status, run.info.run_name) == (0.75, "FINISHED", "a")
    assert library.active_run() is None


@pytest.mark.filterwarnings("default")
def test_real_wandb_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'sparsewood[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = WandbLog(tmp_path, SETTINGS, name="a")
    fit(model(), DATA, Training(2), log=log)
    log.tested(TEST, 2)
    assert library.run is None
    library.teardown()
    newest = max(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    content = newest.read_bytes()
    assert all(word in content for word in (b"train_loss", b"test_acc", b"optimizer"))
