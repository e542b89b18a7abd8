"""A minimal training loop. Whoever has one needs nothing of this: masks are enforced on the optimizer, not here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.measurement import evaluate

__all__ = ["Epoch", "History", "Progress", "constant", "cosine", "fit"]


class Batches(Protocol):
    """Batches of (inputs, labels) that can be counted and gone through again: a `DataLoader`, or a list."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Progress:
    """Where the training is: the batch just done (both counted from 1), and the loss over the epoch so far."""

    epoch: int
    batch: int
    loss: float


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch, each example with the same weight. Accuracies are fractions in [0, 1]."""

    number: int
    loss: float
    accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class History:
    """What happened in each epoch, and which epoch's weights the model has now."""

    epochs: tuple[Epoch, ...]
    chosen: int


def cosine(progress: float) -> float:
    """(1 + cos(pi t)) / 2 for the share t of training that is done: the factor on the learning rate.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983 (without restarts).

    >>> cosine(0.0), round(cosine(0.5), 6), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:  # noqa: ARG001 - a schedule takes the progress
    """The factor 1 throughout.

    >>> constant(0.5)
    1.0
    """
    return 1.0


def fit(
    model: nn.Module,
    train: Batches,
    *,
    optimizer: Optimizer,
    epochs: int,
    loss: Loss | None = None,
    schedule: Callable[[float], float] = cosine,
    generator: torch.Generator | None = None,
    validation: Batches | None = None,
    on_batch: Callable[[Progress], None] | None = None,
) -> History:
    """Train `model` in place for `epochs` passes over `train`: batches of (inputs, labels), as a loader or a list.

    The learning rate of each step is the optimizer's own times `schedule(steps done / steps in all)`; the optimizer
    gets its own back at the end. With `validation`, the weights and buffers of the epoch with the highest validation
    accuracy (the first of equals) are put back at the end; without, those of the last epoch stay. `loss(logits,
    labels)` is a mean over the batch (default: cross-entropy). With a `generator`, what draws from the global random
    state (dropout, a loader without a generator of its own) follows from it, and that state is left as it was.

    Raises `SparsewoodError` if there is no batch, or when the loss stops being finite.

    To keep pruned weights at zero, call it inside `with enforce(model, masks, optimizer):`.

    >>> model = nn.Linear(2, 2)
    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))]
    >>> history = fit(model, data, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), epochs=20)
    >>> len(history.epochs), history.epochs[-1].accuracy
    (20, 1.0)
    """
    run = _Run(model, optimizer, loss or nn.functional.cross_entropy, schedule, on_batch or _ignore)
    steps = _steps(train, epochs)
    done: list[Epoch] = []
    best: dict[str, Tensor] = {}
    chosen = epochs
    with _drawn_from(generator), _rates_kept(optimizer) as rates:
        for number in range(1, epochs + 1):
            epoch = _train_epoch(run, train, number, rates, steps)
            if validation is not None:
                epoch = _validated(run, epoch, validation)
                if not best or _accuracy(epoch) > _accuracy(done[chosen - 1]):
                    best, chosen = _snapshot(model), number
            done.append(epoch)
    if best:
        model.load_state_dict(best)
    return History(tuple(done), chosen)


@dataclass(frozen=True)
class _Run:
    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    schedule: Callable[[float], float]
    on_batch: Callable[[Progress], None]


@dataclass
class _Means:
    """Running means in which each example counts once, so that a smaller last batch weighs less."""

    loss: float = 0.0
    correct: int = 0
    samples: int = 0

    def add(self, loss: float, logits: Tensor, labels: Tensor) -> None:
        self.loss += loss * len(labels)
        self.correct += int((logits.argmax(1) == labels).sum())
        self.samples += len(labels)

    def read(self) -> tuple[float, float]:
        return self.loss / self.samples, self.correct / self.samples


def _train_epoch(run: _Run, train: Batches, number: int, rates: list[float], steps: int) -> Epoch:
    means = _Means()
    done = (number - 1) * len(train)
    run.model.train()
    for batch, (inputs, labels) in enumerate(_on_device(train, run.model), start=1):
        for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * run.schedule((done + batch - 1) / steps)
        run.optimizer.zero_grad()
        logits = run.model(inputs)
        loss = run.loss(logits, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise SparsewoodError(
                f"The training loss of {type(run.model).__name__} became {value} in epoch {number}, batch {batch}. "
                "Try a smaller learning rate, and look for non-finite inputs."
            )
        loss.backward()
        run.optimizer.step()
        means.add(value, logits, labels)
        run.on_batch(Progress(number, batch, means.loss / means.samples))
    if not means.samples:
        raise SparsewoodError(
            f"The training data gave no example in epoch {number}. A generator can be read only once."
        )
    return Epoch(number, *means.read())


def _validated(run: _Run, epoch: Epoch, validation: Batches) -> Epoch:
    measured = evaluate(run.model, validation, loss=run.loss, topk=(1,))
    return replace(epoch, validation_loss=measured.loss, validation_accuracy=measured.top[1])


def _accuracy(epoch: Epoch) -> float:
    assert epoch.validation_accuracy is not None
    return epoch.validation_accuracy


def _ignore(progress: Progress) -> None:
    pass


def _steps(train: Batches, epochs: int) -> int:
    if epochs < 0:
        raise SparsewoodError(f"The number of epochs must be >= 0. Got {epochs}.")
    if len(train) == 0:
        raise SparsewoodError("There is nothing to train on: the training data has no batch.")
    return epochs * len(train)


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _on_device(data: Batches, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for inputs, labels in data:
        yield inputs.to(device), labels.to(device)


@contextmanager
def _rates_kept(optimizer: Optimizer) -> Iterator[list[float]]:
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        yield rates
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


@contextmanager
def _drawn_from(generator: torch.Generator | None) -> Iterator[None]:
    with torch.random.fork_rng(enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
