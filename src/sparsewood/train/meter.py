"""Means over an epoch, gathered at little cost and without making an accelerator wait after each batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsewood.distributed import rank, total, world

__all__ = ["Answers", "Batch", "Means", "Meter"]

# How many batches an accelerator runs ahead between two reads of the loss.
AHEAD = 50
# Answers are counted for many batches at once, as a dozen small operations for each would show in the time of a step;
# up to so many scores are kept until then.
SCORES = 2**20


class Answers(NamedTuple):
    """Scores (examples, classes, ...) without a graph, the labels to find in them, and what a right one counts."""

    scores: Tensor
    labels: Tensor
    weight: float = 1.0


class Batch(NamedTuple):
    """Of one batch of one process: the mean loss, the answers (two of each example if mixed), and how many examples."""

    loss: Tensor
    answers: tuple[Answers, ...]
    size: int


class Means(NamedTuple):
    """Of an epoch so far, over the examples of all processes."""

    loss: float
    accuracy: float
    accuracy5: float
    samples: int


class Meter:
    """Sums over the examples of one epoch. Each example counts once, so a smaller last batch weighs less."""

    def __init__(self, device: torch.device) -> None:
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        # On a CPU reading costs nothing, and a loss that is not finite is found before it reaches the weights.
        self._ahead = 1 if device.type == "cpu" else AHEAD
        self._losses: list[tuple[Tensor, int]] = []
        self._answers: list[Answers] = []
        self._scores = 0
        self._sums = [0.0, 0.0, 0.0]
        self._samples = 0
        self._read = 0

    def add(self, batch: Batch) -> int | None:
        """Take in one batch. Now and then losses are read, with the result of `read`."""
        self._losses.append((batch.loss.detach(), batch.size))
        for answers in batch.answers:
            self._answers.append(answers)
            self._scores += answers.scores.numel()
        if self._scores >= SCORES:
            self._count()
        return self._read_losses() if len(self._losses) >= self._ahead else None

    def read(self) -> int | None:
        """Wait for the device and add up. The number, from 0, of the first batch whose loss is not finite, if any."""
        self._count()
        return self._read_losses()

    @property
    def loss(self) -> float:
        """The mean loss over this process's examples as of the last read."""
        return self._sums[0] / self._samples if self._samples else math.nan

    def means(self) -> Means:
        """Over all processes; every one must call it, after `read`."""
        *sums, samples = self._totals()
        return Means(sums[0] / samples, sums[1] / samples, sums[2] / samples, int(samples))

    def state(self) -> dict[str, Any]:
        """What `load` goes on from, over all processes; every one must call it, after `read`."""
        *sums, samples = self._totals()
        return {"sums": sums, "samples": int(samples), "batches": self._read}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. The sums are those of all processes, so one of them takes them over."""
        self._read = state["batches"]
        if rank() == 0:
            self._sums, self._samples = list(state["sums"]), state["samples"]

    def _read_losses(self) -> int | None:
        if not self._losses:
            return None
        if len(self._losses) == 1:
            values = [float(self._losses[0][0])]
        else:
            values = torch.stack([loss for loss, _ in self._losses]).to(self._dtype).tolist()
        bad = None
        for number, (value, (_, size)) in enumerate(zip(values, self._losses, strict=True), start=self._read):
            if not size:
                continue
            if bad is None and not math.isfinite(value):
                bad = number
            self._sums[0] += value * size
            self._samples += size
        self._read += len(self._losses)
        self._losses.clear()
        return bad if world() == 1 else _earliest(bad)

    def _count(self) -> None:
        if not self._answers:
            return
        for answers, right, right5 in zip(self._answers, *_right(self._answers, self._dtype), strict=True):
            self._sums[1] += answers.weight * right
            self._sums[2] += answers.weight * right5
        self._answers.clear()
        self._scores = 0

    def _totals(self) -> list[float]:
        own = [*self._sums, float(self._samples)]
        return own if world() == 1 else total(torch.tensor(own, dtype=torch.float64)).tolist()


def _right(every: Sequence[Answers], dtype: torch.dtype) -> list[list[float]]:
    """For k = 1 and 5, how many labels of each batch are among the k best.

    Ties count as in `measurement.top_k_credit`, as the mean over all orders of the tied classes. Where an example has
    a label for each of many positions, it counts as their mean.
    """
    rows = [_rows(answers.scores) for answers in every]
    scores = torch.cat(rows)
    own = scores.gather(1, torch.cat([answers.labels.reshape(-1) for answers in every]).unsqueeze(1))
    above = (scores > own).sum(1).to(dtype)
    tied = (scores == own).sum(1).to(dtype)
    sizes = [len(part) for part in rows]
    positions = [max(answers.labels[:1].numel(), 1) for answers in every]
    found = []
    for k in (1, 5):
        credit = ((k - above) / tied).clamp(0, 1)
        found.append([value / number for value, number in zip(_sums(credit, sizes), positions, strict=True)])
    return found


def _rows(scores: Tensor) -> Tensor:
    """The scores of each label in a row of their own."""
    return scores if scores.ndim == 2 else scores.movedim(1, -1).flatten(0, -2)


def _sums(values: Tensor, sizes: Sequence[int]) -> list[float]:
    """The sum of each stretch of so many values."""
    alike = next((number for number, size in enumerate(sizes) if size != sizes[0]), len(sizes))
    first = values[: alike * sizes[0]].view(alike, sizes[0]).sum(1)  # in one go, as all but the last batch are alike
    rest = [part.sum() for part in values[alike * sizes[0] :].split(list(sizes[alike:]))]
    return torch.cat([first, torch.stack(rest)]).tolist() if rest else first.tolist()


def _earliest(bad: int | None) -> int | None:
    """The smallest of all processes' numbers, so that all stop together."""
    beyond = 2**53
    own = torch.zeros(world(), dtype=torch.float64)
    own[rank()] = beyond if bad is None else bad
    smallest = int(total(own).min())
    return None if smallest == beyond else smallest
