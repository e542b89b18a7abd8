"""One training step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.distributed import rank, total, world
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import arguments, call, describe, map_tensors
from sparsewood.train.loss import Objective, Teacher, mixed, require_logits
from sparsewood.train.meter import Answers, Batch
from sparsewood.train.penalizing import Penalizer
from sparsewood.train.randomness import seed_step
from sparsewood.train.settings import Training
from sparsewood.train.validation import InPrecision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Stepper"]


@dataclass
class Stepper:
    """Forward, loss, backward and the optimizer's step. `module` and `outer` are `model` and `optimizer` as wrapped."""

    model: nn.Module
    module: nn.Module
    optimizer: Optimizer
    outer: Any
    training: Training
    objective: Objective
    teacher: InPrecision | None
    fabric: Fabric
    seed: int
    checked: bool
    penalizer: Penalizer | None = None
    many_classes: bool = False  # more than five

    def forward(self, batch: Any, step: int, where: str) -> tuple[Tensor, Batch]:
        """The loss, and what it counts for. Whatever is random is drawn from the seed and `step`."""
        device = self.fabric.device
        seed_step(self.seed, step, rank(), device)
        inputs, labels = map_tensors(lambda tensor: tensor.to(device), pair(batch, where))
        size = _size(labels, where)
        if size == 0:
            return self._nothing(inputs, where)
        if self.penalizer is not None:
            self.penalizer.prepare(inputs)
        mix = None
        if self.training.mixup:
            inputs, mix = mixed(inputs, labels, self.training.mixup)
        logits = self._outputs(inputs, where)
        _require_scores(logits, labels, where)
        self.many_classes = logits.shape[1] > 5
        if not self.checked:
            require_logits(self.model, logits)
            self.checked = True
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = call(self.teacher, inputs)
        loss = self._loss(logits, labels, mix, taught, where)
        scores = logits.detach()
        if mix is None:
            return loss, Batch(loss, (Answers(scores, labels),), size)
        answers = Answers(scores, labels, mix.share), Answers(scores, mix.others, 1 - mix.share)
        return loss, Batch(loss, answers, size)

    def backward(self, loss: Tensor, size: int, factor: float) -> None:
        """The gradient of the mean over the examples of all processes, and the optimizer's step."""
        rate = self.training.optimizer.rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if world() > 1:
            # Processes average their gradients as if each had as many examples as any other.
            everywhere = total(torch.full_like(loss.detach(), size))
            loss = loss * (world() * size / everywhere)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.penalizer is not None:
            # Not by its hook, so that the norm to clip by is that of the whole gradient.
            self.penalizer.add()
            self.penalizer.steps += 1
        if self.training.clip_norm is not None:
            # Without error_if_nonfinite the device need not be waited for; the loss is looked at anyway.
            self.fabric.clip_gradients(
                self.module, self.outer, max_norm=self.training.clip_norm, error_if_nonfinite=False
            )
        self.outer.step()

    def _outputs(self, inputs: Any, where: str) -> Any:
        positional, keywords = arguments(inputs)
        try:
            # Fabric converts outputs to the default dtype, which in this context is that of the precision.
            with self.fabric.autocast():
                return self.module(*positional, **keywords)
        except (SparsewoodError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise SparsewoodError(
                f"The forward of {type(self.model).__name__} (on {self.fabric.device}) failed in {where} on the inputs "
                f"({describe(inputs)}): {type(error).__name__}: {error}. Inputs are one tensor, a tuple of positional "
                "inputs, or a dict of keyword inputs."
            ) from error

    def _nothing(self, inputs: Any, where: str) -> tuple[Tensor, Batch]:
        """A share without examples: gradients of zero, for the processes that wait for them.

        In eval mode, as normalisation has no mean over nothing.
        """
        mode = self.model.training
        self.model.eval()
        zero = self._outputs(inputs, where).sum() * 0.0
        self.model.train(mode)
        return zero, Batch(zero, (), 0)

    def _loss(self, logits: Tensor, labels: Tensor, mix: Any, taught: Tensor | None, where: str) -> Tensor:
        try:
            loss = self.objective(logits, labels, mix, taught)
        except (SparsewoodError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a loss may be the caller's code, and fail in any way
            raise SparsewoodError(
                f"The loss failed in {where} on outputs ({describe((logits,))}) and labels ({describe((labels,))}): "
                f"{type(error).__name__}: {error}. It is called as loss(outputs, labels)."
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise SparsewoodError(f"The loss must return one number, the mean over the batch. Got {describe((loss,))}.")
        return loss.reshape(())


def pair(batch: Any, where: str) -> tuple[Any, Tensor]:
    """Inputs and labels of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise SparsewoodError(
            f"The training data gave no pair (inputs, labels) in {where}. Got {describe((batch,))}. "
            "Wrap the loader in one that gives pairs."
        )
    return batch[0], batch[1]


def _size(labels: Tensor, where: str) -> int:
    if labels.ndim == 0:
        raise SparsewoodError(f"The labels of {where} have no axis of examples. Got {describe((labels,))}.")
    return labels.shape[0]


def _require_scores(logits: Any, labels: Tensor, where: str) -> None:
    fits = isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[:1] + logits.shape[2:] == labels.shape
    if not fits or labels.dtype != torch.int64:
        raise SparsewoodError(
            f"Training needs scores (examples, classes, ...) and class indices (examples, ...), int64. Got outputs "
            f"({describe((logits,))}) and labels ({describe((labels,))}) in {where}. Wrap model or data to give these."
        )


def teacher_in(fabric: Fabric, teacher: Teacher | None) -> InPrecision | None:
    """The teacher in eval mode where the training runs: a copy, so that the original stays as and where it is."""
    if teacher is None:
        return None
    adapted = InPrecision(copy.deepcopy(teacher.model), fabric).to(fabric.device)
    return adapted.eval().requires_grad_(False)
