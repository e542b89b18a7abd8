"""What a recovery is: which weights a pruned network gets, and which training follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.recovery.distill import Distillation

Snapshot = Mapping[str, Tensor]
Settings = Literal["training", "retraining"]


def snapshot(model: nn.Module) -> Snapshot:
    """A copy of all parameters and buffers; training the model later does not change it.

    >>> layer = nn.Linear(1, 1)
    >>> before = snapshot(layer)
    >>> _ = layer.weight.data.zero_()
    >>> bool(before["weight"] == 0)
    False
    """
    return MappingProxyType({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


@dataclass(frozen=True)
class Follow:
    """The training after a recovery.

    `settings`: those with which the dense network was trained, or the separate ones for fine-tuning. `step`: where in
    that training's schedule it goes on. `restore_optimizer`: with the optimizer's state of the snapshot that was
    picked. `same_flops`: lengthened by dense multiply-adds / those of the masked network. `distillation`: with the
    dense network as a teacher.

    >>> Follow("training", step=500).step
    500
    """

    settings: Settings
    step: int = 0
    restore_optimizer: bool = False
    same_flops: bool = False
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        if self.settings not in get_args(Settings):
            raise SparsewoodError(f"Follow: settings must be one of {get_args(Settings)}. Got {self.settings!r}.")
        require_step(self.step)


class Recovery(ABC):
    """Sets the weights from which a pruned network is trained on, and says how."""

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The steps of the dense network's training whose state must be kept."""
        return ()

    @property
    def follow(self) -> Follow:
        """The training that follows; see `follow_from` where one of several snapshots is picked."""
        return Follow("retraining")

    def pick(self, score: Callable[[int], float]) -> int | None:  # noqa: ARG002 (who has one snapshot needs no score)
        """The snapshot to start from; `score(step)` is the quality (higher = better) of that snapshot, masked."""
        return self.snapshots[0] if self.snapshots else None

    def follow_from(self, picked: int | None) -> Follow:
        """`follow`, from the step of the snapshot that was picked."""
        return self.follow if picked is None else replace(self.follow, step=picked)

    @abstractmethod
    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        """Change `model` in place.

        `start` is the snapshot that was picked, and without one the network as it was when pruning began. Masked
        entries may get values again: who calls sets them to zero afterwards, with `apply_masks` or `enforce`.
        """


def require_step(step: object) -> None:
    """Raise `SparsewoodError` unless `step` is a whole number >= 0."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise SparsewoodError(f"A step of training must be a whole number >= 0. Got {step!r}.")
