"""One training of a run: its settings and where it begins, carried out in a stage, and the stage finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.masks import not_held
from sparsewood.recovery import Follow
from sparsewood.run.bench import FINAL, Bench, Trained
from sparsewood.run.directory import Stage
from sparsewood.state import TrainingState, capture
from sparsewood.train import CsvLog, Fitted, Log, Logs, Teacher, TensorBoardLog, Training, fit
from sparsewood.types import Masks

__all__ = ["Course", "finish", "finished", "train"]


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
    if not bench.writes or not bench.recipe.logs:
        return None
    made: dict[str, Callable[[], Log]] = {
        "csv": lambda: CsvLog(stage.directory / "logs.csv"),
        "tensorboard": lambda: TensorBoardLog(stage.directory / "tensorboard"),
    }
    return Logs([made[name]() for name in bench.recipe.logs])


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
