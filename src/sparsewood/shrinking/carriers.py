"""Constants at zero-padded borders: one unit stays and carries what the others add.

A constant c in a channel adds, at a zero-padded border, fewer of its products than in the interior: no bias can do
that. But all constant channels look alike: x_j = (c_j / c_k) x_k at every position. So unit k stays, and

    W[:, k] += sum over j of (c_j / c_k) W[:, j]

in each weight that reads them, after which the others add nothing that k does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.shrinking.consumers import Chosen, Consumer
from sparsewood.shrinking.observing import observe
from sparsewood.structure import Structure

__all__ = ["let_carry"]


def let_carry(
    model: nn.Module, structure: Structure, uneven: Mapping[Consumer, Chosen], batches: Sequence[Any]
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Let one unit of each group carry the others in the weights where they are uneven, in place.

    Returns the carriers, and by group the units that have to stay: the carriers, and what they cannot carry. That is
    all of a group if one of these layers does not read by channel or shares its weight with another layer, and units
    that are not a multiple of the carrier somewhere. The carrier is the unit whose smallest share, over these layers,
    of the largest constant is the largest.
    """
    carriers: dict[str, int] = {}
    stay: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for chosen in uneven.values() for name in chosen):
        readers = {one: chosen[name] for one, chosen in uneven.items() if name in chosen}
        riders = np.any(list(readers.values()), axis=0)
        stay[name] = riders
        if riders.sum() > 1 and all(one.by_channel and not one.tied for one in readers):
            places = {one: _places(structure, name, one) for one in readers}
            best = _strongest(model, places, np.flatnonzero(riders), batches)
            if best is not None:
                stay[name] = _ride(model, places, readers, best, batches)
                if (riders & ~stay[name]).any():
                    carriers[name] = best
    return carriers, stay


def _places(structure: Structure, name: str, consumer: Consumer) -> np.ndarray:
    """The positions of each unit of a group along the consumer's axis: int64[units, positions]."""
    for one in structure.group(name).slices:
        if (one.param, one.axis) == (consumer.weight, consumer.axis):
            order = np.argsort(one.owner, kind="stable")
            owned = order[one.owner[order] >= 0]
            return owned.reshape(structure.group(name).units, -1)
    raise AssertionError(f"{consumer} does not read {name}")


def _strongest(
    model: nn.Module, places: Mapping[Consumer, np.ndarray], riders: np.ndarray, batches: Iterable[Any]
) -> int | None:
    """The rider with the largest smallest share of the largest constant; None if each is 0 somewhere."""
    heights = {one: np.zeros(owned[riders].shape) for one, owned in places.items()}

    def see(consumer: Consumer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen = consumer.channels(arguments, keywords).abs().amax(1).cpu().numpy()
        heights[consumer] = np.maximum(heights[consumer], seen[places[consumer][riders]])

    observe(model, places, see, batches)
    shares = [height.min(1) / max(height.max(), np.finfo(float).tiny) for height in heights.values()]
    smallest = np.min(shares, axis=0)
    return int(riders[smallest.argmax()]) if smallest.max() > 0 else None


def _ride(
    model: nn.Module,
    places: Mapping[Consumer, np.ndarray],
    readers: Mapping[Consumer, np.ndarray],
    carrier: int,
    batches: Iterable[Any],
) -> np.ndarray:
    """Change the carrier's weights. The units that have to stay: the carrier, and those that are no multiple of it."""
    ratios: dict[Consumer, Tensor] = {}
    stay = np.arange(len(next(iter(readers.values())))) == carrier

    def see(consumer: Consumer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        x = consumer.channels(arguments, keywords)[torch.from_numpy(places[consumer])]
        mine = x[carrier]
        if consumer not in ratios:
            ratios[consumer] = (x * mine).sum(-1) / mine.square().sum(-1)
        error = (x - ratios[consumer].unsqueeze(-1) * mine).abs().amax((1, 2))
        limit = 64 * torch.finfo(consumer.value.dtype).eps * x.abs().amax((1, 2))
        stay[(readers[consumer] & (error > limit).cpu().numpy())] = True

    observe(model, places, see, batches)
    for one, uneven in readers.items():
        owned, carried = places[one], np.flatnonzero(uneven & ~stay)
        weight = one.value.double()
        taken = weight[:, torch.from_numpy(owned[carried])]  # [outputs, units, positions, ...]
        by = ratios[one][torch.from_numpy(carried)].reshape(1, *owned[carried].shape, *[1] * (weight.dim() - 2))
        weight[:, torch.from_numpy(owned[carrier])] += (taken * by).sum(1)
        with torch.no_grad():
            getattr(one.holder, one.leaf).copy_(weight)
    return stay
