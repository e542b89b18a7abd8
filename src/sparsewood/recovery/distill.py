"""Learning from the dense network: what a student's outputs are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsewood.errors import SparsewoodError


@dataclass(frozen=True)
class Distillation:
    """loss = weight * T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - weight) * loss on the labels.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.

    >>> Distillation(weight=0.5)
    Distillation(temperature=4.0, weight=0.5)
    """

    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        _require_temperature(self.temperature)
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or not 0 <= self.weight <= 1:
            raise SparsewoodError(f"Distillation: weight must be a number in [0, 1]. Got {self.weight!r}.")

    def __call__(self, loss: Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The weighted sum of `loss`, which is that of the student on the labels, and the distance to the teacher."""
        soft = distillation_loss(student_logits, teacher_logits, self.temperature)
        return self.weight * soft + (1 - self.weight) * loss


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over examples.

    With the factor T^2 the gradient keeps its size when the temperature changes.

    Args:
        student_logits, teacher_logits: [examples, classes, ...] of equal shape. What follows the classes (positions,
            say) counts as examples. No gradient flows to the teacher. Narrow types are computed in float32.

    Raises `SparsewoodError` for unequal shapes and a temperature that is not above 0.
    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> distillation_loss(logits + 5, logits, temperature=2.0).abs() < 1e-6
    tensor(True)
    """
    _require_temperature(temperature)
    if student_logits.shape != teacher_logits.shape or student_logits.ndim < 2:
        raise SparsewoodError(
            "Student and teacher must give logits of one shape [examples, classes, ...]. Got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    wide = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
    student = F.log_softmax(student_logits.to(wide) / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().to(wide) / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean()


def _require_temperature(temperature: float) -> None:
    ok = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not ok or not 0 < temperature < float("inf"):
        raise SparsewoodError(f"Distillation: temperature must be a number above 0. Got {temperature!r}.")
