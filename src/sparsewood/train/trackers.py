"""Each epoch of a training for MLflow and for Weights & Biases: logs as those of `train.logs`, kept by a tracker.

Trackers cannot take back an epoch that they were told. So each log notes what it told in a file of its own (a line of
JSON for each epoch), and an attempt that goes on begins a new run at the tracker, tells it those epochs again that
stay, and has it take the place of the run before. Nothing global is set: no active run, no URI, no environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.files import write_atomically
from sparsewood.measurement import Evaluation
from sparsewood.train.history import Epoch
from sparsewood.train.logs import scalars

__all__ = ["MlflowLog", "WandbLog", "flat"]

Plain = str | os.PathLike[str]
MOST = 100  # parameters that MLflow takes at once
VALUES = 1000  # metrics that it takes at once
LETTERS = 6000  # of a parameter's value


class MlflowLog:
    """Losses, accuracies, learning rate and sparsities as metrics of a run of MLflow, by epoch, with the recipe.

    Keys are those of `TensorBoardLog`; `settings`, nested mappings and lists, become parameters "training.epochs".

    MLflow keeps every value that a step was ever given and draws them all. Therefore `start` begins a new run, copies
    what stays of the epochs up to `after`, and deletes the run of the earlier attempt (MLflow shows it among the
    deleted ones). A training that ended in an error is marked as failed.

    Args:
        directory: where the log's notes lie (mlflow.jsonl, mlflow-run.txt): one for each training.
        settings: what the training is, as plain values. name: what the run is called.
        uri: of the tracking server or store; None is what the environment variable MLFLOW_TRACKING_URI says, and
            without it the file mlflow.db (SQLite) in `store`, which is `directory` if nothing else is said.
        experiment: made if it is not there.

    Raises `SparsewoodError` if MLflow is not installed; what MLflow raises passes through.
    """

    def __init__(
        self,
        directory: Plain,
        settings: Mapping[str, Any],
        *,
        name: str = "",
        uri: str | None = None,
        store: Plain | None = None,
        experiment: str = "sparsewood",
    ) -> None:
        self._notes, self._mark = _Notes(Path(directory, "mlflow.jsonl")), Path(directory, "mlflow-run.txt")
        self._settings, self._name, self._experiment = settings, name, experiment
        database = Path(directory if store is None else store).resolve() / "mlflow.db"
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database.as_posix()}"

    def start(self, after: int) -> None:
        """Begin a run that has the epochs up to `after`."""
        mlflow, client = self._client()
        if self._mark.exists():
            with contextlib.suppress(mlflow.exceptions.MlflowException):  # it is gone, or in another store
                client.delete_run(self._mark.read_text(encoding="utf-8"))
        found = client.get_experiment_by_name(self._experiment)
        number = found.experiment_id if found else client.create_experiment(self._experiment)
        run = client.create_run(number, run_name=self._name or None).info.run_id
        write_atomically(self._mark, lambda temporary: temporary.write_text(run, encoding="utf-8"))
        listed = [mlflow.entities.Param(key, str(value)[:LETTERS]) for key, value in flat(self._settings).items()]
        for first in range(0, len(listed), MOST):
            client.log_batch(run, params=listed[first : first + MOST])
        for told in self._notes.keep(after):
            self._tell(told)

    def write(self, epoch: Epoch, layers: Mapping[str, float]) -> None:
        """One value of each metric."""
        self._tell(self._notes.add(epoch.number, scalars(epoch, layers)))

    def close(self) -> None:
        """Mark the run as finished, or as failed if an error is on its way."""
        if self._mark.exists():
            failed = sys.exc_info()[0] is not None
            self._client()[1].set_terminated(self._mark.read_text(encoding="utf-8"), "FAILED" if failed else "FINISHED")

    def tested(self, test: Evaluation, number: int) -> None:
        """What the final network does on the test data, as values at epoch `number`; after all training."""
        found = {"epoch": number, "time": time.time(), "values": {"test_loss": test.loss, "test_acc": test.top[1]}}
        if self._mark.exists():
            self._tell(found)
        else:  # of a network that was not trained here
            self.start(0)
            self._tell(found)
            self.close()

    def _tell(self, told: Mapping[str, Any]) -> None:
        mlflow, client = self._client()
        when, step = int(1000 * told["time"]), told["epoch"]
        metrics = [mlflow.entities.Metric(key, value, when, step) for key, value in told["values"].items()]
        for first in range(0, len(metrics), VALUES):
            client.log_batch(self._mark.read_text(encoding="utf-8"), metrics=metrics[first : first + VALUES])

    def _client(self) -> tuple[ModuleType, Any]:
        mlflow = _library("mlflow", "MLflow", "mlflow")
        return mlflow, mlflow.MlflowClient(tracking_uri=self._uri)


class WandbLog:
    """Losses, accuracies, learning rate and sparsities as a run of Weights & Biases, by epoch, with the recipe.

    Keys are those of `TensorBoardLog`, `epoch` is the step; `settings` are the run's config.

    Weights & Biases takes no step twice: what comes for a step that is past is dropped. Therefore `start` begins the
    run anew under the same id, which takes the place of the earlier attempt at the server, and tells the epochs up to
    `after` again. Offline each attempt is a directory wandb/offline-run-*; the newest has everything, so only that one
    is to be given to `wandb sync`.

    Args:
        directory: where the log's notes (wandb.jsonl, wandb-run.txt) and the directory wandb lie: one for each
            training.
        settings: what the training is, as plain values. name: what the run is called. group: runs that belong together.
        mode: "online", "offline" or "disabled"; None is what the environment variable WANDB_MODE says, and without it
            "online" where WANDB_API_KEY is set, else "offline".

    Raises `SparsewoodError` if wandb is not installed; what it raises passes through.
    """

    def __init__(
        self,
        directory: Plain,
        settings: Mapping[str, Any],
        *,
        name: str = "",
        group: str = "",
        project: str = "sparsewood",
        mode: str | None = None,
    ) -> None:
        self._directory, self._notes = Path(directory), _Notes(Path(directory, "wandb.jsonl"))
        self._called = {"name": name or None, "group": group or None, "project": project, "config": dict(settings)}
        usual = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._mode = mode or os.environ.get("WANDB_MODE") or usual
        self._run: Any = None

    def start(self, after: int) -> None:
        """Begin the run anew, with the epochs up to `after`."""
        wandb, mark = _library("wandb", "Weights & Biases", "wandb"), self._directory / "wandb-run.txt"
        if not mark.exists():
            write_atomically(mark, lambda temporary: temporary.write_text(uuid.uuid4().hex, encoding="utf-8"))
        quiet = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
        place = {"dir": str(self._directory), "mode": self._mode, "id": mark.read_text(encoding="utf-8")}
        self._run = wandb.init(**self._called, **place, reinit="create_new", settings=quiet)
        for told in self._notes.keep(after):
            self._tell(told)

    def write(self, epoch: Epoch, layers: Mapping[str, float]) -> None:
        """One value in each curve."""
        self._tell(self._notes.add(epoch.number, scalars(epoch, layers)))

    def close(self) -> None:
        """Write what is left and end the run, as failed if an error is on its way."""
        if self._run is not None:
            self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
            self._run = None

    def tested(self, test: Evaluation, number: int) -> None:  # noqa: ARG002 - a summary has no steps
        """What the final network does on the test data, in the run's summary; after all training."""
        self.start(sys.maxsize)  # all epochs, again
        self._run.summary.update({"test_loss": test.loss, "test_acc": test.top[1]})
        self.close()

    def _tell(self, told: Mapping[str, Any]) -> None:
        assert self._run is not None, "start comes before write"
        self._run.log({"epoch": told["epoch"], **told["values"]}, step=told["epoch"])


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping, with dots in the keys; what is empty stays as it is.

    >>> flat({"training": {"epochs": 3}, "seeds": [1, 2], "sharing": {}})
    {'training.epochs': 3, 'seeds.0': 1, 'seeds.1': 2, 'sharing': {}}
    """
    if isinstance(settings, Mapping) and settings:
        inside: Iterator[tuple[Any, Any]] = iter(settings.items())
    elif isinstance(settings, list | tuple) and settings:
        inside = enumerate(settings)
    else:
        return {prefix: settings} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in inside:
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


class _Notes:
    """What was told of each epoch, as lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, after: int) -> list[dict[str, Any]]:
        """The epochs up to `after`; all else goes, a line that an interruption cut short included."""
        text = self._path.read_text(encoding="utf-8") if after and self._path.exists() else ""
        try:
            told = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            kept = [one for one in told if one["epoch"] <= after]
        except (ValueError, TypeError, KeyError) as error:
            raise FileFormatError(
                f"'{self._path}' has a line that is no epoch ({error!r}). Move it away; the tracker then lacks the "
                "epochs before this attempt."
            ) from error
        lines = "".join(json.dumps(one) + "\n" for one in kept)
        write_atomically(self._path, lambda temporary: temporary.write_text(lines, encoding="utf-8"))
        return kept

    def add(self, number: int, values: Mapping[str, float]) -> dict[str, Any]:
        told = {"epoch": number, "time": time.time(), "values": dict(values)}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(told) + "\n")
        return told


def _library(module: str, called: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise SparsewoodError(
            f"Logs for {called} need it, and importing it failed: {error}. Run: pip install 'sparsewood[{extra}]'"
        ) from error
