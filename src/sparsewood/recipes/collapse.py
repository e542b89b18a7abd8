"""Whether signals still get through a pruned network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsewood.criteria import SynFlow
from sparsewood.masks import masked
from sparsewood.pruning import score
from sparsewood.types import Masks

__all__ = ["Collapse", "find_collapse"]


@dataclass(frozen=True)
class Collapse:
    """How many weights each layer keeps, and how much flows through them; layers in the order of the model.

    `flow` is the sum over a layer's weights of |w| dR/d|w|, R the sum of the outputs for an input of ones in the
    network of absolute weights. It is 0 where no path of kept weights leads from the inputs through the layer to an
    output.
    """

    kept: Mapping[str, int]
    flow: Mapping[str, float]

    @property
    def empty(self) -> tuple[str, ...]:
        """Layers that keep no weight."""
        return tuple(name for name, count in self.kept.items() if count == 0)

    @property
    def blocked(self) -> tuple[str, ...]:
        """Layers through which nothing flows, though they may keep weights."""
        return tuple(name for name, flow in self.flow.items() if flow == 0)

    @property
    def connected(self) -> bool:
        """Whether anything that goes in comes out: not all layers are blocked."""
        return len(self.blocked) < len(self.flow)

    def __str__(self) -> str:
        if not self.blocked:
            return f"signals get through all {len(self.flow)} layers"
        what = "some layers" if self.connected else "the whole network"
        empty = f"; no weight is left in {', '.join(self.empty)}" if self.empty else ""
        return f"nothing gets through {what}: {', '.join(self.blocked)}{empty}"


def find_collapse(model: nn.Module, masks: Mapping[str, Tensor], example_inputs: Any) -> Collapse:
    """Which layers of the masked network are empty or cut off. Data-free; the model is not changed.

    A layer collapses when pruning takes its last weight, or its last path: also where each layer keeps some weights,
    these need not meet (layer collapse: Tanaka et al. 2020, https://arxiv.org/abs/2006.05467).

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.tensor([[False, True]])}
    >>> print(find_collapse(net, masks, torch.ones(1, 2)))
    nothing gets through the whole network: 0.weight, 2.weight
    """
    with masked(model, masks):
        scores = score(model, SynFlow(), example_inputs=example_inputs)
    held = Masks(masks)
    kept = {name: int(held[name].sum()) if name in held else one.numel() for name, one in scores.items()}
    return Collapse(kept, {name: float(one.sum()) for name, one in scores.items()})
