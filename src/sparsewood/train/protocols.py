"""What the training loop is given: data, and what prunes while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.types import Masks

__all__ = ["Batches", "InTraining", "Loss", "PrunerFactory"]

Loss = Callable[[Any, Any], Tensor]
"""`loss(logits, labels)`, the mean over the batch."""


class Batches(Protocol):
    """Batches of (inputs, labels) that can be counted and gone through again: a `Loader`, a `DataLoader`, a list.

    Where it has a method `epoch(number, start)`, as `sparsewood.data.Loader` has, that gives the batches of epoch
    `number` (from 0) from batch `start` on; else it is gone through anew for each epoch.
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class InTraining(Protocol):
    """Prunes a model while it is trained: the loop calls `step` after every step of the optimizer.

    It keeps its own masks enforced. `masks` are those in force, `done` says that no event is left, `state` and `load`
    are what a training that goes on later needs, and `finish` is called once, when the weights that stay are in place.
    """

    @property
    def masks(self) -> Masks: ...
    @property
    def done(self) -> bool: ...
    def step(self) -> None: ...
    def state(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]: ...
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None: ...
    def finish(self) -> object: ...


PrunerFactory = Callable[[nn.Module, Optimizer, int], InTraining]
"""Called once, before the first step, with the model, the PyTorch optimizer and the number of steps in an epoch."""
