"""What a network's weights are set to after pruning, before it is trained again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError

Snapshot = Mapping[str, Tensor]


def snapshot(model: nn.Module) -> Snapshot:
    """A copy of all parameters and buffers; training the model later does not change it.

    >>> layer = nn.Linear(1, 1)
    >>> before = snapshot(layer)
    >>> _ = layer.weight.data.zero_()
    >>> bool(before["weight"] == 0)
    False
    """
    return MappingProxyType({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


class Recovery(ABC):
    """Sets the weights from which a pruned network is trained on."""

    @abstractmethod
    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        """Change `model` in place; `start` is what it was when pruning began."""


@dataclass(frozen=True)
class FineTune(Recovery):
    """Train on from the weights that were pruned."""

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del model, start, generator


@dataclass(frozen=True)
class Rewind(Recovery):
    """Go back to the weights and buffers that the network had when pruning began.

    Source: Frankle et al. 2019, "Stabilizing the Lottery Ticket Hypothesis", https://arxiv.org/abs/1903.01611.
    """

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del generator
        model.load_state_dict(dict(start))  # copies values, so that the snapshot stays what it is


@dataclass(frozen=True)
class Reinitialize(Recovery):
    """Draw new weights with every layer's own `reset_parameters`: the control that keeps only the structure.

    Source: the random re-initialisation control of Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635.
    """

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del start
        owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
        stuck = [type(module).__name__ for module in owners if not callable(_reset_method(module))]
        if stuck:
            raise SparsewoodError(
                f"Cannot draw new weights for {', '.join(sorted(set(stuck)))}: no reset_parameters method. Add one, or "
                "use FineTune() or Rewind()."
            )
        seed = int(torch.randint(2**62, (), generator=generator or torch.Generator().manual_seed(0)))
        devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not forked
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(seed)
            for module in owners:
                _reset_method(module)()


def _reset_method(module: nn.Module) -> Any:
    # nn.MultiheadAttention has the same under a private name.
    name = "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters"
    return getattr(module, name, None)
