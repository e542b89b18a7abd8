"""Means over an epoch. Requirement 003-21, regression 7.20."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsewood.measurement.accuracy import top_k_credit
from sparsewood.train import meter as module
from sparsewood.train.meter import AHEAD, Answers, Batch, Meter

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # only its name counts; the tensors are on the CPU


def batch(number: int, size: int, loss: float = 0.5) -> Batch:
    generator = torch.Generator().manual_seed(number)
    scores = torch.randint(4, (size, 9), generator=generator).float()  # many ties
    labels = torch.randint(9, (size,), generator=generator)
    return Batch(torch.tensor(loss), (Answers(scores, labels),), size)


def credit(batches: list[Batch], k: int) -> float:
    each: list[Tensor] = [top_k_credit(a.scores, a.labels, k) for b in batches for a in b.answers]
    return float(torch.cat(each).mean())


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("kept", [1, 100, 2**20])
def test_chunked_equals_the_full_batch(device: torch.device, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """[003-21] However many batches are counted at once, and whatever their sizes: ties as in evaluation."""
    monkeypatch.setattr(module, "SCORES", kept)
    meter = Meter(device)
    batches = [batch(number, size) for number, size in enumerate([8, 8, 3, 1] * 30)]
    for one in batches:
        assert meter.add(one) is None
    assert meter.read() is None
    means = meter.means()
    assert means.samples == 600
    assert means.loss == 0.5
    assert means.accuracy == pytest.approx(credit(batches, 1), abs=1e-12)
    assert means.accuracy5 == pytest.approx(credit(batches, 5), abs=1e-12)


def test_losses_weigh_by_examples() -> None:
    meter = Meter(CPU)
    meter.add(batch(0, 3, loss=1.0))
    meter.add(batch(1, 1, loss=5.0))
    assert meter.loss == 2.0


def test_an_accelerator_is_read_now_and_then_and_names_the_batch() -> None:
    meter = Meter(CUDA)
    for number in range(AHEAD - 1):
        assert meter.add(batch(number, 2, loss=math.nan if number in (20, 30) else 0.0)) is None
        assert math.isnan(meter.loss)  # nothing was read yet
    assert meter.add(batch(0, 2)) == 20
    meter = Meter(CUDA)
    for number in range(AHEAD):
        meter.add(batch(number, 2))
    meter.add(batch(0, 2, loss=math.inf))
    assert meter.read() == AHEAD


def test_a_cpu_names_the_batch_at_once() -> None:
    meter = Meter(CPU)
    assert meter.add(batch(0, 2)) is None
    assert meter.add(batch(1, 2, loss=math.nan)) == 1


def test_mixed_labels_count_for_both_parts() -> None:
    scores = torch.eye(2)
    meter = Meter(CPU)
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    meter.add(Batch(torch.tensor(0.0), (Answers(scores, right, 0.75), Answers(scores, wrong, 0.25)), 2))
    meter.read()
    assert meter.means().accuracy == 0.75


def test_a_share_without_examples_counts_nothing() -> None:
    meter = Meter(CPU)
    meter.add(batch(0, 2))
    before = meter.loss
    assert meter.add(Batch(torch.tensor(math.nan), (), 0)) is None
    assert meter.loss == before


def test_going_on_from_a_state() -> None:
    whole, first, second = Meter(CPU), Meter(CPU), Meter(CPU)
    for number in range(7):
        whole.add(batch(number, 5))
        (first if number < 3 else second).add(batch(number, 5))
        if number == 2:
            first.read()
            second.load(first.state())
    whole.read()
    second.read()
    assert second.means() == whole.means()
    assert second.state() == whole.state()
