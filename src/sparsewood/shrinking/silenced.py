"""The units that masks have left nothing to do: which of them go, and which stay all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.shrinking.choice import Choice, Chooser
from sparsewood.shrinking.filled import Filled
from sparsewood.shrinking.folding import constant_units
from sparsewood.shrinking.plan import Keep
from sparsewood.structure import Structure

__all__ = ["Silenced"]


class Silenced:
    """Chooses the units that are the same number whatever the input, instead of units of low scores.

    `masked` is the network `model` with the masks; the other arguments are those of `Chooser`. Silenced units that
    stay because of `round_to` or `min_units` stay as they are in `masked`, lower indices first, so that the function
    is the same.
    """

    def __init__(self, model: nn.Module, masked: nn.Module, structure: Structure, **limits: Any) -> None:
        self._left = {name: ~constant for name, constant in constant_units(masked, structure).items()}
        scores = partial(_left_first, self._left)
        self._chooser = Chooser(model, structure, criterion=scores, normalize=False, **limits)

    @property
    def count(self) -> int:
        """How many units are silenced, whether they may go or not."""
        return sum(int((~left).sum()) for left in self._left.values())

    def choose(self, held: Mapping[str, str]) -> Choice:
        """All that can go if the groups in `held` (name -> reason) lose nothing."""
        free = self._chooser.free(held)
        left = np.array([self._left[group.name].sum() for group in free.groups], np.int64)
        kept = np.array([free.above(number, int(count)) for number, count in enumerate(left)], np.int64)
        return self._chooser.chosen(free, kept, int((free.units - left).sum()))

    def filled(self, held: Mapping[str, str], fill: Callable[[Keep], Filled]) -> Filled:
        """What `fill` makes of the network without them.

        Where it says that some have to stay, these count for what `round_to` and `min_units` ask for.
        """
        keep = {name: stays for name, stays in self._left.items() if name in self._free(held)}
        while True:
            filled = fill(keep)
            more = self._more(filled.keep, held)
            if not more:
                return filled
            keep = {name: stays | more[name] if name in more else stays for name, stays in keep.items()}

    def _free(self, held: Mapping[str, str]) -> set[str]:
        return {group.name for group in self._chooser.free(held).groups}

    def _more(self, keep: Keep, held: Mapping[str, str]) -> dict[str, np.ndarray]:
        """The units that have to stay in addition, by group, for the numbers to be allowed."""
        free = self._chooser.free(held)
        found = {}
        for number, group in enumerate(free.groups):
            stays = keep[group.name]
            count = int(stays.sum())
            missing = free.above(number, count) - count
            if missing:
                found[group.name] = np.isin(np.arange(group.units), np.flatnonzero(~stays)[:missing])
        return found


def _left_first(left: Mapping[str, np.ndarray], *_: Any, **__: Any) -> dict[str, Tensor]:
    """Scores by which silenced units go first, and of these and of the others the later ones."""
    return {
        name: torch.from_numpy(units + np.arange(len(units), 0, -1) / (len(units) + 1)) for name, units in left.items()
    }
