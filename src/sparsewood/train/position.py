"""Where a training is, with all that going on from there takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from sparsewood.distributed import world
from sparsewood.errors import SparsewoodError
from sparsewood.state import TrainingState, capture, restore
from sparsewood.train.history import Epoch
from sparsewood.train.meter import Meter
from sparsewood.train.penalizing import Penalizer
from sparsewood.train.protocols import InTraining
from sparsewood.train.selection import Selection

__all__ = ["Position", "require_finite", "share_buffers"]

BEST, PRUNER, PENALTY = "best", "pruner", "penalty"


@dataclass
class Position:
    """Everything that changes while training goes on."""

    model: nn.Module
    optimizer: Optimizer
    pruner: InTraining | None
    selection: Selection
    meter: Meter
    step: int
    epochs: list[Epoch] = field(default_factory=list)
    penalizer: Penalizer | None = None

    def capture(self) -> TrainingState:
        """A copy to go on from. Every process must call it, after reading the meter; the result is the same in each."""
        tensors, values = ({}, {}) if self.pruner is None else self.pruner.state()
        extra = {f"{BEST}/{name}": tensor for name, tensor in self.selection.tensors().items()}
        extra |= {f"{PRUNER}/{name}": tensor for name, tensor in tensors.items()}
        if self.penalizer is not None:
            extra |= {f"{PENALTY}/{name}": tensor for name, tensor in self.penalizer.state().items()}
        own = {
            "history": [epoch.values() for epoch in self.epochs],
            "selection": self.selection.values(),
            "meter": self.meter.state(),
            PRUNER: dict(values) if self.pruner is not None else None,
        }
        return capture(self.model, self.optimizer, step=self.step, extra_tensors=extra, values=own)

    def go_on(self, state: TrainingState) -> None:
        """Be where `state` was captured."""
        if "meter" not in state.values or (state.values[PRUNER] is None) != (self.pruner is None):
            found = "a pruner" if state.values.get(PRUNER) is not None else "no pruner"
            raise SparsewoodError(
                f"The state of step {state.step} cannot be gone on from here: it is of a training with {found}. Pass a "
                "state that on_checkpoint was given by the same training."
            )
        restore(state, self.model, self.optimizer)
        if self.pruner is not None:
            self.pruner.load(state.part(PRUNER), state.values[PRUNER])
        if self.penalizer is not None:
            self.penalizer.load(state.part(PENALTY), state.step)
        self.selection.load(state.part(BEST), state.values["selection"])
        self.meter.load(state.values["meter"])
        self.epochs = [Epoch.of(values) for values in state.values["history"]]
        self.step = state.step

    def remember(self, state: TrainingState) -> None:
        """Give the optimizer the memory that it has in `state`; weights and all else stay."""
        now = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        memory = {name: tensor for name, tensor in state.tensors.items() if name.startswith("optimizer/")}
        restore(TrainingState(now | memory, state.values), self.model, self.optimizer)


def require_finite(model: nn.Module, where: str) -> None:
    """Raise `SparsewoodError` if weights or buffers are not finite, so that such are never kept or written."""
    floating = {name: t for name, t in model.state_dict().items() if t.is_floating_point() or t.is_complex()}
    if not floating or bool(torch.stack([tensor.isfinite().all() for tensor in floating.values()]).all()):
        return
    name = next(name for name, tensor in floating.items() if not bool(tensor.isfinite().all()))
    raise SparsewoodError(
        f"{name!r} of {type(model).__name__} is no longer finite after {where}. Try a smaller learning rate or "
        "clip_norm, and look for operations without a finite gradient, such as the root of zero."
    )


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of process 0. Running statistics of normalisation are those of its own share."""
    if world() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
