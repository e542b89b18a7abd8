"""Drop the smallest weights of a layer and grow as many others: what SET and RigL share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sparsewood.algebra import round_half_even
from sparsewood.allocation import ERK, PerLayer, Uniform
from sparsewood.dynamics.base import Moment
from sparsewood.dynamics.choosing import REMOVED, counts, highest
from sparsewood.errors import SparsewoodError
from sparsewood.types import Sparsity

__all__ = ["exchange", "random_masks", "require_exchange"]


def random_masks(moment: Moment, sparsity: float, allocation: ERK | Uniform) -> dict[str, Tensor]:
    """As many weights in each layer as `allocation` gives it, at random places."""
    kept = counts(moment.layers, sparsity, PerLayer(allocation))
    weights = moment.weights
    return {name: highest(name, _random(weights[name], moment.generator), keep) for name, keep in kept.items()}


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


def require_exchange(who: object, sparsity: float, drop: float, allocation: object) -> None:
    """Raise `SparsewoodError` for what SET and RigL cannot do."""
    Sparsity(sparsity)
    if not 0 < drop <= 1:
        raise SparsewoodError(f"{type(who).__name__}: drop must be a share in (0, 1]. Got {drop!r}.")
    if not isinstance(allocation, ERK | Uniform):
        raise SparsewoodError(f"{type(who).__name__}: allocation must be ERK() or Uniform(). Got {allocation!r}.")


def _only(scores: Tensor, where: Tensor) -> Tensor:
    return scores.where(where, torch.full_like(scores, REMOVED))


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the generator's device, so that the same seed gives the same masks on every device.
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.to(like.device)
