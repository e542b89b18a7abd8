"""How a network is trained, as one value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sparsewood.errors import SparsewoodError
from sparsewood.penalties import Penalty
from sparsewood.train.optimizers import SGD, OptimizerSettings
from sparsewood.train.rates import Cosine, Rate

__all__ = ["Training"]

PRECISIONS = ("32-true", "bf16-mixed", "64-true")
SELECTIONS = ("best", "last")


@dataclass(frozen=True)
class Training:
    """Epochs, optimizer, learning rate and what else a training goes by.

    Args:
        rate: the factor on the optimizer's learning rate, for each step.
        label_smoothing: the share of each label that is spread evenly over all classes.
        mixup: alpha of the Beta(alpha, alpha) distribution from which the weight of the second example is drawn
            (Zhang et al. 2018, https://arxiv.org/abs/1710.09412); 0 mixes nothing.
        clip_norm: the largest norm of the gradient of all parameters together; None does not clip.
        precision: "32-true", "bf16-mixed" (forward and loss in bfloat16 where that is safe) or "64-true".
        select: which weights stay: "best", those of the epoch with the highest validation accuracy (the first of
            equals), or "last".
        patience: stop after so many epochs in a row without a better validation accuracy; None never does.
        penalty: is added to the loss, see `sparsewood.penalties`; the losses that are told are without it.

    Raises `SparsewoodError` for values that mean nothing.

    >>> Training(epochs=160, optimizer=SGD(lr=0.1, weight_decay=1e-4)).batch_size
    128
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: OptimizerSettings = field(default_factory=SGD)
    rate: Rate = field(default_factory=Cosine)
    label_smoothing: float = 0.0
    mixup: float = 0.0
    clip_norm: float | None = None
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    select: Literal["best", "last"] = "best"
    patience: int | None = None
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        _whole("epochs", self.epochs, 0)
        _whole("batch_size", self.batch_size, 1)
        if not isinstance(self.optimizer, OptimizerSettings):
            raise _wrong("optimizer", "SGD(...), Adam(...) or AdamW(...)", self.optimizer)
        if not isinstance(self.rate, Rate):
            raise _wrong("rate", "a learning-rate schedule such as Cosine()", self.rate)
        if not _number(self.label_smoothing) or not 0 <= self.label_smoothing < 1:
            raise _wrong("label_smoothing", "a number in [0, 1)", self.label_smoothing)
        if not _number(self.mixup) or not 0 <= self.mixup < math.inf:
            raise _wrong("mixup", "a finite number >= 0", self.mixup)
        if self.clip_norm is not None and not (_number(self.clip_norm) and 0 < self.clip_norm < math.inf):
            raise _wrong("clip_norm", "None or a finite number > 0", self.clip_norm)
        if self.precision not in PRECISIONS:
            raise _wrong("precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        if self.select not in SELECTIONS:
            raise _wrong("select", f"one of {', '.join(SELECTIONS)}", self.select)
        if self.patience is not None:
            _whole("patience", self.patience, 1)
        if self.penalty is not None and not isinstance(self.penalty, Penalty):
            raise _wrong("penalty", "None or a penalty such as ScaleL1()", self.penalty)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _wrong(name, f"a whole number >= {least}", value)


def _wrong(name: str, expected: str, got: object) -> SparsewoodError:
    return SparsewoodError(f"Training: {name} must be {expected}. Got {got!r}.")
