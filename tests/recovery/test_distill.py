"""The distance between a student's and a teacher's outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sparsewood.errors import SparsewoodError
from sparsewood.recovery import Distill, Distillation, distillation_loss


def test_two_classes_by_hand() -> None:
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2), times T^2."""
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for temperature in (1.0, 2.0, 4.0):
        teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64) * temperature
        loss = distillation_loss(torch.zeros_like(teacher), teacher, temperature)
        assert loss.item() == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_equal_up_to_a_constant_is_no_loss() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64)
    assert distillation_loss(logits + 3, logits, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_at_high_temperature_gradients_are_those_of_the_squared_distance() -> None:
    """Hinton et al.: (student - teacher) / classes for centred logits, hence the factor T^2."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    student, teacher = student - student.mean(), teacher - teacher.mean()
    student.requires_grad_()
    distillation_loss(student, teacher, 1e4).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 5, rtol=0, atol=1e-3)


def test_no_gradient_flows_to_the_teacher_and_examples_are_averaged() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    loss = distillation_loss(student, teacher, 3.0)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    singles = [distillation_loss(s[None], t[None], 3.0) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(loss, torch.stack(singles).mean())


def test_positions_after_the_classes_count_as_examples() -> None:
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    flat = [tensor.movedim(1, -1).reshape(-1, 3) for tensor in (student, teacher)]
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0), distillation_loss(*flat, 2.0))


def test_half_precision_is_widened() -> None:
    student, teacher = torch.randn(4, 3).half(), torch.randn(4, 3).half()
    loss = distillation_loss(student, teacher, 2.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distillation_loss(student.float(), teacher.float(), 2.0))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_divides_between_teacher_and_labels(weight: float) -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    hard, soft = F.cross_entropy(student, labels), distillation_loss(student, teacher, 4.0)
    mixed = Distillation(4.0, weight)(hard, student, teacher)
    torch.testing.assert_close(mixed, weight * soft + (1 - weight) * hard)


@pytest.mark.parametrize("make", [Distillation, Distill])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a number above 0. Got 0.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"weight": 1.1}, r"weight must be a number in \[0, 1\]. Got 1.1"),
        ({"weight": True}, "weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: type, given: dict, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        make(**given)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(SparsewoodError, match=r"\(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    with pytest.raises(SparsewoodError, match="one shape"):
        distillation_loss(torch.zeros(3), torch.zeros(3), 1.0)
