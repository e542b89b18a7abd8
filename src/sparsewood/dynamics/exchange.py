"""Drop the smallest weights of a layer and grow as many others: what SET and RigL share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.algebra import round_half_even
from sparsewood.allocation import ERK, PerLayer, Uniform
from sparsewood.allocation.budgets import Layer
from sparsewood.dynamics.base import Dynamics, Moment
from sparsewood.dynamics.choosing import REMOVED, counts, highest, require_sparsity
from sparsewood.errors import SparsewoodError
from sparsewood.types import Sparsity

__all__ = ["Exchange", "exchange", "random_worth"]


@dataclass(frozen=True)
class Exchange(Dynamics):
    """Sparse from the first step to the last; every layer keeps as many weights as `allocation` gives it."""

    sparsity: float = 0.9
    drop: float = 0.3
    allocation: ERK | Uniform = ERK()

    def require(self) -> None:
        Sparsity(self.sparsity)
        who = type(self).__name__
        if not 0 < self.drop <= 1:
            raise SparsewoodError(f"{who}: drop must be a share in (0, 1]. Got {self.drop!r}.")
        if not isinstance(self.allocation, ERK | Uniform):
            raise SparsewoodError(f"{who}: allocation must be ERK() or Uniform(). Got {self.allocation!r}.")

    def require_layers(self, layers: Sequence[Layer], steps: int) -> None:
        del steps
        require_sparsity(self, layers, self.sparsity)

    @property
    def target(self) -> float | None:
        return self.sparsity

    def first(self, moment: Moment) -> dict[str, Tensor]:
        """As many weights in each layer as `allocation` gives it, at random places."""
        kept = counts(moment.layers, self.sparsity, PerLayer(self.allocation))
        worth = random_worth(moment)
        return {name: highest(name, worth(name), keep) for name, keep in kept.items()}


def exchange(moment: Moment, share: float, worth: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """In each layer drop the share `share` of the kept weights, the smallest, and grow as many: the most worthy.

    What may grow are all weights that are not kept then, the dropped ones included; of these one that is grown at once
    stays as it was.
    """
    masks = {}
    for layer in moment.layers:
        name, mask = layer.name, moment.masks[layer.name]
        kept = int(mask.count_nonzero())
        going = round_half_even(share * kept)
        staying = highest(name, _only(moment.weights[name].abs(), mask), kept - going)
        grown = highest(name, _only(worth(name), ~staying), going)
        masks[name] = staying | grown
    return masks


def random_worth(moment: Moment) -> Callable[[str], Tensor]:
    """A draw for every weight."""
    weights: Mapping[str, Tensor] = moment.weights
    return lambda name: _random(weights[name], moment.generator)


def _only(scores: Tensor, where: Tensor) -> Tensor:
    return scores.where(where, torch.full_like(scores, REMOVED))


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the generator's device, so that the same seed gives the same masks on every device.
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.to(like.device)
