"""One training of a run: its settings and where it begins, carried out in a stage, and the stage finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.masks import not_held
from sparsewood.measurement import Evaluation
from sparsewood.recovery import Follow
from sparsewood.run.bench import FINAL, Bench, Trained
from sparsewood.run.canonical import written
from sparsewood.run.directory import Stage
from sparsewood.run.recipe import Recipe
from sparsewood.state import TrainingState, capture
from sparsewood.train import CsvLog, Fitted, Log, Logs, MlflowLog, Teacher, TensorBoardLog, Training, WandbLog, fit
from sparsewood.types import Masks

__all__ = ["Course", "finish", "finished", "logs_of", "tell_test", "train"]


@dataclass(frozen=True)
class Course:
    """One training: settings, the seed of its order, from which step to which, and what it starts with."""

    settings: Training
    seed: int
    first: int
    steps: int
    follow: Follow
    picked: int | None = None
    optimizer_state: TrainingState | None = None


def train(
    bench: Bench, stage: Stage, model: nn.Module, course: Course, doing: str, *, dense: Trained | None, **options: Any
) -> Fitted:
    """Carry out a training, from the newest checkpoint of its stage on; `options` are those of `fit`."""
    distillation = course.follow.distillation
    teacher = None
    if distillation is not None and dense is not None:
        teacher = Teacher(bench.network_at(dense.state()), distillation.temperature, distillation.weight)
    return fit(
        model,
        bench.loader(course.settings, course.seed),
        course.settings,
        seed=course.seed,
        validation=bench.validation(),
        fabric=bench.fabric,
        teacher=teacher,
        first_step=course.first,
        steps=course.steps,
        optimizer_state=course.optimizer_state,
        state=stage.latest_checkpoint(),
        checkpoint_every=bench.recipe.checkpoint_every,
        on_checkpoint=stage.save_checkpoint,
        on_batch=lambda progress: bench.advance(f"seed {bench.seed}: {doing}, epoch {progress.epoch}", 1),
        log=_log(bench, stage),
        **options,
    )


def _log(bench: Bench, stage: Stage) -> Log | None:
    logs = logs_of(bench, stage)
    return Logs(list(logs.values())) if logs else None


def logs_of(bench: Bench, stage: Stage) -> dict[str, Log]:
    """The logs that the recipe names, by name, of a training in this stage; none where this process writes nothing.

    "auto" is a CSV file, and TensorBoard where it is installed. A dry run tells no server.
    """
    if not bench.writes:
        return {}
    recipe, root, dry = bench.recipe, bench.root.resolve(), bench.dry_run
    name = stage.directory.resolve().relative_to(root).as_posix()
    local = f"sqlite:///{(root / 'mlflow.db').as_posix()}" if dry else None

    def settings() -> dict[str, Any]:
        return written(recipe, Recipe) | {"seed": bench.seed, "stage": name}

    made: dict[str, Callable[[], Log]] = {
        "csv": lambda: CsvLog(stage.directory / "logs.csv"),
        "tensorboard": lambda: TensorBoardLog(stage.directory / "tensorboard"),
        "mlflow": lambda: MlflowLog(
            stage.directory, settings(), name=name, uri=local, store=root, experiment=recipe.name
        ),
        "wandb": lambda: WandbLog(
            stage.directory, settings(), name=name, group=root.name, mode="offline" if dry else None
        ),
    }
    usual = ("csv", "tensorboard") if find_spec("tensorboard") else ("csv",)
    names = [one for given in recipe.logs for one in (usual if given == "auto" else (given,))]
    return {one: made[one]() for one in dict.fromkeys(names)}


def tell_test(bench: Bench, trained: Trained, test: Evaluation) -> None:
    """Have the logs of a training keep what its network does on the test data, those that keep such a thing."""
    for log in logs_of(bench, trained.stage).values():
        if isinstance(log, TensorBoardLog | MlflowLog | WandbLog):
            log.tested(test, trained.notes.get("chosen_epoch") or 0)


def finished(stage: Stage, base: Trained) -> Trained | None:
    """What a stage that was made from `base` came to; None if it is not finished.

    Raises `SparsewoodError` if it was made from another network than is there now.
    """
    trained = Trained.of(stage)
    if trained is not None and trained.notes.get("from") != base.fingerprint:
        raise SparsewoodError(
            f"'{stage.directory}' was made from another network than the one that is there now: a stage before it was "
            "done again. Remove it, so that it is done again, too."
        )
    return trained


def finish(
    bench: Bench,
    stage: Stage,
    model: nn.Module,
    fitted: Fitted | None,
    notes: dict[str, Any],
    masks: Masks | None = None,
) -> Trained:
    """Save the weights, then mark the stage as finished."""
    if masks is not None:
        found = not_held(model, masks)
        if found is not None:
            raise SparsewoodError(
                f"{found[1]} masked weights of {found[0]!r} are not zero after training: the model's code sets them, "
                "or another optimizer does. The stage is not finished."
            )
        notes = notes | {"kept": masks.total - masks.removed, "of": masks.total, "sparsity": masks.sparsity}
    if fitted is not None:
        chosen = next((epoch for epoch in fitted.history.epochs if epoch.number == fitted.history.chosen), None)
        notes = notes | {
            "steps": fitted.steps,
            "completed_epochs": len(fitted.history.epochs),
            "chosen_epoch": fitted.history.chosen,
            "validation_loss": chosen.validation_loss if chosen else None,
            "validation_accuracy": chosen.validation_accuracy if chosen else None,
            "epochs": [asdict(epoch) for epoch in fitted.history.epochs],
        }
    if bench.writes:
        state = capture(model, step=fitted.steps if fitted else 0)
        state.save(stage.directory / FINAL)
        stage.finish(notes | {"fingerprint": state.fingerprint()})
    bench.together()
    trained = Trained.of(stage)
    assert trained is not None, f"{stage.directory} was just finished"
    return trained
