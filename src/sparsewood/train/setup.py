"""What a training needs before its first step, checked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.recovery.distill import Distillation
from sparsewood.state import TrainingState
from sparsewood.train.devices import make_fabric
from sparsewood.train.loss import Objective, Teacher
from sparsewood.train.penalizing import Penalizer
from sparsewood.train.protocols import Batches, Loss
from sparsewood.train.settings import Training
from sparsewood.train.step import Stepper, teacher_in

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Span", "check_callbacks", "span_of", "stepper_for"]


@dataclass(frozen=True)
class Span:
    """Which steps are done, and how many an epoch has."""

    first: int
    steps: int
    per_epoch: int


def stepper_for(
    model: nn.Module, training: Training, fabric: Fabric | None, teacher: Teacher | None, loss: Loss | None, seed: int
) -> Stepper:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise SparsewoodError(f"{type(model).__name__} has no parameter to train: none has requires_grad=True.")
    if loss is not None and training.label_smoothing:
        raise SparsewoodError(
            f"label_smoothing={training.label_smoothing} belongs to the cross-entropy that is used without loss=...; "
            "build it into the loss that is given."
        )
    fabric = _fabric(model, training, fabric)
    optimizer = training.optimizer(parameters)
    module, outer = fabric.setup(model, optimizer)
    distillation = None if teacher is None else Distillation(teacher[1], teacher[2])
    objective = Objective(loss, training.label_smoothing, distillation)
    taught = teacher_in(fabric, teacher)
    penalizer = None if training.penalty is None else Penalizer(model, training.penalty, optimizer)
    return Stepper(
        model, module, optimizer, outer, training, objective, taught, fabric, seed, loss is not None, penalizer
    )


def _fabric(model: nn.Module, training: Training, fabric: Fabric | None) -> Fabric:
    """The one given, or a process on the device where the model is."""
    if fabric is None:
        first = next(chain(model.parameters(), model.buffers()))
        return make_fabric(str(first.device), precision=training.precision)
    if fabric._precision.precision != training.precision:
        raise SparsewoodError(
            f"The training asks for precision {training.precision!r}, and the Fabric was made for "
            f"{fabric._precision.precision!r}. Make it with make_fabric(..., precision=training.precision)."
        )
    from lightning_fabric.strategies.fsdp import FSDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if isinstance(fabric.strategy, FSDPStrategy | ModelParallelStrategy):
        raise SparsewoodError(
            f"fit trains whole copies of a network, in one process or several ('ddp'). Got a Fabric with "
            f"{type(fabric.strategy).__name__}, which shards it. Use strategy='ddp', or your own loop with enforce."
        )
    return fabric


def span_of(
    train: Batches, training: Training, first_step: int, steps: int | None, state: TrainingState | None
) -> Span:
    if not hasattr(train, "__len__"):
        raise SparsewoodError(
            f"The training data must have a length, the number of batches. Got {type(train).__name__}. Pass a Loader, "
            "a DataLoader or a list of batches."
        )
    if len(train) == 0:
        raise SparsewoodError("There is nothing to train on: the training data has no batch.")
    last = training.epochs * len(train) if steps is None else steps
    first = first_step if state is None else state.step
    if not 0 <= first <= last:
        raise SparsewoodError(f"Training goes from step {first} to step {last}; expected 0 <= {first} <= {last}.")
    return Span(first, last, len(train))


def check_callbacks(
    training: Training, span: Span, snapshots: Collection[int], checkpoint_every: int, validation: object
) -> None:
    beyond = sorted(step for step in snapshots if not 0 <= step <= span.steps)
    if beyond:
        raise SparsewoodError(
            f"Snapshots are taken after 0 to {span.steps} steps, all of this training. Got {beyond[0]}. Choose an "
            "earlier step, or train for longer."
        )
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int) or checkpoint_every < 1:
        raise SparsewoodError(f"checkpoint_every must be a whole number of epochs >= 1. Got {checkpoint_every!r}.")
    if training.patience is not None and validation is None:
        raise SparsewoodError(f"patience={training.patience} needs validation data to see whether a network improves.")
