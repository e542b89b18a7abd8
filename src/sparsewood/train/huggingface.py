"""A `Pruning` carried out by the Trainer of transformers, without which this module cannot be imported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sparsewood import checkpoint
from sparsewood.errors import SparsewoodError
from sparsewood.models.wheels import ensure_torchvision
from sparsewood.pruning import Pruning
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.train.pruner import Pruner, State
from sparsewood.types import Masks

__all__ = ["SparsityTrainerCallback"]

FILE = "sparsewood.safetensors"


def _library() -> Any:
    ensure_torchvision()  # transformers imports torchvision where it is installed
    try:
        import transformers
    except ImportError as error:
        raise SparsewoodError(
            "SparsityTrainerCallback needs transformers, which is not installed. Run: pip install 'sparsewood[hf]'"
        ) from error
    return transformers


if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    TrainerCallback = _library().TrainerCallback


class SparsityTrainerCallback(TrainerCallback):
    """Prunes the model that a transformers Trainer trains, and holds the zeros: a `Pruner` as a callback.

    With unit "epoch", an epoch has as many steps as the Trainer takes in it, accumulated batches being one. The
    sparsity is added to the Trainer's log history. Every checkpoint of the Trainer gets a file `sparsewood.safetensors`
    with what is needed to go on; `masks` are the final ones after `train`.

    Args:
        data, loss, masks, seed, structure: as for `Pruner`. A batch is a mapping of keyword inputs, which is also the
            target: with labels in it, `loss=lambda output, batch: output.loss`.
        resume_from: the checkpoint directory that `train(resume_from_checkpoint=...)` gets, if it is not one of the
            Trainer's own in its output directory.

    Raises `SparsewoodError` at the end of `train` if the training was too short for the plan, and, naming the
    parameter, if zeros did not hold; `load_best_model_at_end` may bring back weights from before the last event.

    >>> from sparsewood.schedules import Cubic
    >>> callback = SparsityTrainerCallback(Pruning(schedule=Cubic(0.9), rounds=3, unit="step", every=10))
    >>> isinstance(callback, TrainerCallback)  # Trainer(callbacks=[callback])
    True
    """

    def __init__(
        self,
        pruning: Pruning,
        *,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        masks: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        resume_from: str | Path | None = None,
        structure: Structure | None = None,
    ) -> None:
        super().__init__()
        self._pruning = pruning
        self._options: dict[str, Any] = {
            "data": data, "loss": loss, "masks": masks, "seed": seed, "structure": structure,
        }  # fmt: skip
        self._resume_from = resume_from
        self._pruner: Pruner | None = None

    @property
    def masks(self) -> Masks:
        """The masks now, or the final ones after `train`. Raises `SparsewoodError` before the training has begun."""
        return self._active().masks

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del control
        if self._pruner is not None:  # of a training that was broken off
            self._pruner.close()
        model: nn.Module = kwargs["model"]
        self._pruner = Pruner(
            model,
            kwargs["optimizer"],
            self._pruning,
            steps_per_epoch=self._steps_per_epoch(args, kwargs["train_dataloader"]),
            state=self._state_of(args, state) if state.global_step else None,
            **self._options,
        )

    # Not on_optimizer_step: only here the Trainer has counted the step.
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control, kwargs
        pruner = self._active()
        while pruner.steps < state.global_step:
            pruner.step()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control, kwargs
        if self._pruner is not None and state.log_history:
            state.log_history[-1]["sparsity"] = self._pruner.sparsity

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del control, kwargs
        if args.should_save:
            tensors, values = self._active().state()
            checkpoint.write(_directory(args, state) / FILE, tensors, values)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, state, control, kwargs
        self._active().finish()

    def _active(self) -> Pruner:
        if self._pruner is None:
            raise SparsewoodError("SparsityTrainerCallback: there are no masks before the Trainer has begun to train.")
        return self._pruner

    def _state_of(self, args: TrainingArguments, state: TrainerState) -> State:
        own = _directory(args, state)
        # The Trainer does not read the argument of that name, but scripts pass it on to `train`.
        places = [self._resume_from] if self._resume_from else [args.resume_from_checkpoint, own]
        path = next((Path(place) / FILE for place in places if place and (Path(place) / FILE).is_file()), None)
        if path is None:
            raise SparsewoodError(
                f"The Trainer goes on from step {state.global_step}, but there is no '{FILE}' with the masks of that "
                f"step in {self._resume_from or own}. Pass resume_from=... with the directory that "
                "train(resume_from_checkpoint=...) gets, saved with SparsityTrainerCallback."
            )
        tensors, values = checkpoint.read(path)
        if values["steps"] != state.global_step:
            raise SparsewoodError(
                f"'{path}' is of step {values['steps']}, the Trainer goes on from step {state.global_step}. Pass "
                "resume_from=... with the directory that train(resume_from_checkpoint=...) gets."
            )
        return tensors, values

    def _steps_per_epoch(self, args: TrainingArguments, loader: Any) -> int | None:
        if self._pruning.unit != "epoch":
            return None
        try:
            batches = len(loader)
        except TypeError as error:
            raise SparsewoodError(
                "SparsityTrainerCallback: the training data has no length, so an epoch has no number of steps. Use "
                "Pruning(unit='step')."
            ) from error
        return math.ceil(batches / args.gradient_accumulation_steps)


def _directory(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer puts the checkpoint of the present step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
