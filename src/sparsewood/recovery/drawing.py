"""What an initializer is, and how the layers of a network are given new weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsewood.errors import SparsewoodError

__all__ = ["Initializer", "LayerWeights", "Shape", "given", "require_positive", "reset_layers"]

Shape = tuple[int, ...]
Draw = Callable[[Shape, torch.Generator], Tensor]


class Initializer(ABC):
    """A rule for new weights."""

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The steps of the dense network's training whose state `start` must hold."""
        return ()

    @abstractmethod
    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        """Set all weights of `model` in place."""


class LayerWeights(Initializer):
    """Weights of convolutions and linear layers by `draw`, their biases 0; other layers as `LayerDefault`."""

    @abstractmethod
    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """float64 weights of shape (outputs, inputs, *space), for a layer or for one group of a convolution."""

    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        del start
        generator = given(generator)
        reset_layers(model, generator)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, _ConvNd | nn.Linear):
                    module.weight.copy_(_by_group(module, self.draw, generator))
                    if module.bias is not None:
                        module.bias.zero_()


def reset_layers(model: nn.Module, generator: torch.Generator) -> None:
    """Call every layer's `reset_parameters` and forget running statistics, as if the network were new.

    The random state of the process is left alone.

    Raises `SparsewoodError` for layers that have none, and for those whose weight is computed from other parameters.
    """
    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    stuck = [type(module).__name__ for module in owners if not callable(_reset_method(module)) or _computed(module)]
    if stuck:
        raise SparsewoodError(
            f"Cannot draw new weights for {', '.join(sorted(set(stuck)))}: no reset_parameters method, or a weight "
            "that is computed from other parameters (weight_norm, torch.nn.utils.prune). Add the one, remove the "
            "other, or use FineTune() or Rewind()."
        )
    seed = int(torch.randint(2**62, (), generator=generator))
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not forked
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        for module in owners:
            _reset_method(module)()
        for module in model.modules():
            if isinstance(module, _NormBase):  # without a weight it has statistics all the same
                module.reset_running_stats()
            if isinstance(module, nn.MultiheadAttention) and module.out_proj.bias is not None:
                module.out_proj.bias.zero_()  # as in a new one; the projection was reset after the attention


def _reset_method(module: nn.Module) -> Any:
    # nn.MultiheadAttention has the same under a private name.
    name = "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters"
    return getattr(module, name, None)


def _computed(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd | nn.Linear) and "weight" not in module._parameters


def _by_group(module: _ConvNd | nn.Linear, draw: Draw, generator: torch.Generator) -> Tensor:
    """Weights in the order of the module's, each group drawn as a layer of its own."""
    groups = module.groups if isinstance(module, _ConvNd) else 1
    first, second, *space = module.weight.shape
    if isinstance(module, _ConvTransposeNd):  # [inputs of all groups, outputs of one group, ...]
        shape = (second, first // groups, *space)
        return torch.cat([draw(shape, generator).transpose(0, 1) for _ in range(groups)])
    shape = (first // groups, second, *space)
    return torch.cat([draw(shape, generator) for _ in range(groups)])


def given(generator: torch.Generator | None) -> torch.Generator:
    """Never the global one, so that a call neither depends on it nor changes it."""
    return generator if generator is not None else torch.Generator().manual_seed(0)


def require_positive(name: str, value: float) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not 0 < value < math.inf:
        raise SparsewoodError(f"{name} must be a number above 0. Got {value!r}.")
