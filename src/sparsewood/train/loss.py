"""The loss of one batch: cross-entropy with smoothed or mixed labels, a loss of one's own, and what a teacher adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import describe
from sparsewood.recovery.distill import Distillation
from sparsewood.train.protocols import Loss

__all__ = ["Mixed", "Objective", "Teacher", "mixed", "require_logits"]


class Teacher(NamedTuple):
    """A network to imitate, with the settings of `recovery.Distillation`, which says what they mean."""

    model: nn.Module
    temperature: float = 4.0
    weight: float = 0.9


class Mixed(NamedTuple):
    """Labels of the second examples of a mixed batch, and the weight of the first ones."""

    others: Tensor
    share: float


@dataclass(frozen=True)
class Objective:
    """The loss that is trained on."""

    loss: Loss | None
    label_smoothing: float
    distillation: Distillation | None

    def __call__(self, logits: Tensor, labels: Tensor, mix: Mixed | None, taught: Tensor | None) -> Tensor:
        """The mean over the batch; `taught` are the teacher's logits."""
        value = self._one(logits, labels)
        if mix is not None:
            value = mix.share * value + (1 - mix.share) * self._one(logits, mix.others)
        if taught is None:
            return value
        assert self.distillation is not None
        return self.distillation(value, logits, taught)

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return self.loss(logits, labels)


def require_logits(model: nn.Module, outputs: Tensor) -> None:
    """Raise `SparsewoodError` for outputs that are already probabilities or their logarithms.

    Cross-entropy takes the softmax itself; of probabilities it still falls, slowly, to a limit well above zero, so
    nothing else would show the mistake.
    """
    if outputs.ndim < 2 or outputs.shape[1] < 2 or not outputs.numel() or not outputs.is_floating_point():
        return
    values = outputs.detach().double()
    close = 1e-4 if outputs.dtype in (torch.float32, torch.float64) else 2e-2
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < close).all()):
        found, remedy = "probabilities (each row is >= 0 and sums to 1)", "leave out the last softmax"
    elif bool((values <= 0).all()) and bool(((values.exp().sum(1) - 1).abs() < close).all()):
        found, remedy = "log-probabilities (the exponentials of each row sum to 1)", "leave out the last log_softmax"
    else:
        return
    raise SparsewoodError(
        f"The outputs of {type(model).__name__} on the first batch are {found}, but the default loss is cross-entropy "
        f"of logits. In the model, {remedy}; or pass the loss for such outputs as loss=."
    )


def mixed(inputs: Any, labels: Tensor, alpha: float) -> tuple[Any, Mixed]:
    """share x_i + (1 - share) x_j, with share drawn from Beta(alpha, alpha) for the batch and j a permutation of i.

    Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412. Draws from the global random state.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise SparsewoodError(
            f"mixup averages inputs, so they must be one floating-point tensor. Got {describe(inputs)}. Use mixup=0."
        )
    share = float(torch.distributions.Beta(alpha, alpha, validate_args=False).sample())
    partners = torch.randperm(len(labels), device=inputs.device)
    return share * inputs + (1 - share) * inputs[partners], Mixed(labels[partners], share)
