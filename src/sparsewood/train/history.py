"""What a training tells: how each epoch went, where it is, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sparsewood.types import Masks

__all__ = ["Epoch", "Fitted", "History", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Where the training is: the batch just done (both counted from 1), and the loss over the epoch so far.

    On an accelerator `loss` is as of the last time it was read, as reading makes the device wait.
    """

    epoch: int
    batch: int
    loss: float
    step: int
    steps: int


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch, each example with the same weight. Accuracies are fractions in [0, 1].

    `number` counts from 1. Training values are those of the network as it was at each batch, in train mode. `accuracy5`
    is None with five classes or fewer. `rate` is the learning rate of the last step, `sparsity` that of the masks at
    the end of the epoch. `seconds` is what this epoch took, None for an epoch done before training was taken up again;
    it does not count in comparisons, as it is the one value that differs from run to run.
    """

    number: int
    loss: float
    accuracy: float
    accuracy5: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    validation_accuracy5: float | None = None
    rate: float = 0.0
    sparsity: float = 0.0
    seconds: float | None = field(default=None, compare=False)

    def values(self) -> dict[str, Any]:
        """All but the time, as JSON values: the same training gives the same values."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.compare}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Epoch:
        """The epoch that `values` came from, without its time.

        >>> Epoch.of(Epoch(1, 0.5, 0.9, seconds=3.0).values())
        Epoch(number=1, loss=0.5, accuracy=0.9, accuracy5=None, ..., sparsity=0.0, seconds=None)
        """
        return cls(**values)


@dataclass(frozen=True)
class History:
    """What happened in each epoch, and the number of the epoch whose weights the model has now."""

    epochs: tuple[Epoch, ...]
    chosen: int


@dataclass(frozen=True)
class Fitted:
    """What `fit` did: the history, the masks in force at the end (None without any), and the step it came to.

    `stopped` says that it ended before its last step, for want of improvement (`Training.patience`).
    """

    history: History
    masks: Masks | None
    steps: int
    stopped: bool = False
