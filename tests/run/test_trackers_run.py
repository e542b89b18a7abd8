"""Which logs a run makes of what its recipe names, and what they are given."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsewood.measurement import Evaluation
from sparsewood.run import trainings
from sparsewood.run.directory import Stage
from sparsewood.run.recipe import parse_recipe
from sparsewood.run.trainings import logs_of, tell_test

TEXT = "{name: small, data: digits, model: small_conv, training: {epochs: 3}, logs: [%s]}"


def bench(root: Path, logs: str, **given: Any) -> Any:
    base = {"writes": True, "dry_run": False, "seed": 7, "root": root, "recipe": parse_recipe(TEXT % logs)}
    return SimpleNamespace(**(base | given))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "seed-7" / "dense").mkdir(parents=True)
    return Stage(tmp_path / "seed-7" / "dense")


@pytest.mark.parametrize(
    ("logs", "installed", "names"),
    [
        ("csv", True, ["csv"]),
        ("auto", True, ["csv", "tensorboard"]),
        ("auto", False, ["csv"]),
        ("tensorboard, auto, csv", True, ["tensorboard", "csv"]),
        ("csv, mlflow, wandb", True, ["csv", "mlflow", "wandb"]),
        ("", True, []),
    ],
)
def test_logs_by_name(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: str, installed: bool, names: list[str]
) -> None:
    spec = importlib.util.find_spec("sparsewood")
    monkeypatch.setattr(trainings, "find_spec", lambda name: spec if installed and name == "tensorboard" else None)
    assert list(logs_of(bench(tmp_path, logs), stage)) == names
    assert not logs_of(bench(tmp_path, logs, writes=False), stage)
    assert not any(stage.directory.iterdir()), "nothing is written before a training starts"


@pytest.mark.parametrize("dry", [False, True])
def test_trackers_get_the_recipe_the_stage_and_the_run(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    """A dry run stays in its directory, whatever servers the environment names."""
    told: list[tuple[str, Any, Any, Any]] = []

    def kind(name: str) -> type:
        class Recorder:
            def __init__(self, directory: Path, settings: Any, **given: Any) -> None:
                told.append((name, directory, settings, given))

            def tested(self, test: Evaluation, number: int) -> None:
                told.append((name, "tested", test, number))

        return Recorder

    monkeypatch.setattr(trainings, "MlflowLog", kind("mlflow"))
    monkeypatch.setattr(trainings, "WandbLog", kind("wandb"))
    one = bench(tmp_path, "csv, mlflow, wandb", dry_run=dry)
    logs_of(one, stage)
    (_, where, settings, mlflow), (_, _, same, wandb) = told
    assert where == stage.directory
    assert settings == same
    assert (settings["seed"], settings["stage"], settings["training"]["epochs"]) == (7, "seed-7/dense", 3)
    database = f"sqlite:///{tmp_path}/mlflow.db" if dry else None
    assert mlflow == {"name": "seed-7/dense", "uri": database, "store": tmp_path, "experiment": "small"}
    assert wandb == {"name": "seed-7/dense", "group": tmp_path.name, "mode": "offline" if dry else None}
    told.clear()
    test = Evaluation(0.5, {1: 0.75}, 4)
    tell_test(one, trainings.Trained(stage, {"chosen_epoch": 2}), test)
    assert told[2:] == [("mlflow", "tested", test, 2), ("wandb", "tested", test, 2)]


def test_logs_are_no_part_of_the_hash() -> None:
    assert len({parse_recipe(TEXT % logs).hash for logs in ("csv", "auto", "mlflow, wandb")}) == 1
