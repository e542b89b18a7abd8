"""Whether signals still get through a pruned network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsewood.batches import prepared
from sparsewood.masks import by_first_name, masked
from sparsewood.parameters import choose
from sparsewood.snapshot import kernels_with_backward, untouched
from sparsewood.statistics import SynapticFlow
from sparsewood.statistics.collect import gradients_enabled
from sparsewood.statistics.synaptic_flow import Precision

__all__ = ["Collapse", "find_collapse"]


@dataclass(frozen=True)
class Collapse:
    """How many weights each layer keeps, and how much flows through them; layers in the order of the model.

    `flow` is the sum over a layer's weights of |w| dR/d|w|, R the sum of the outputs for an input of ones in the
    network of absolute weights (`statistics.SynapticFlow`). It is 0 where no path of kept weights leads through the
    layer to an output, from the inputs or from parameters that are added to what flows, such as embeddings of
    positions. Layers that only feed gates, or that are not used, have none whatever they keep, and are not in it.
    `inputs` is the sum of dR/dx over the inputs alone, of whole numbers over their embeddings; None if the
    model has neither numbers nor embeddings to differentiate by.
    """

    kept: Mapping[str, int]
    flow: Mapping[str, float]
    inputs: float | None = None

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
        """Whether anything that goes in comes out: dR/dx is not 0; if that is not known, not all layers are blocked."""
        return len(self.blocked) < len(self.flow) if self.inputs is None else self.inputs != 0

    def __str__(self) -> str:
        if not self.blocked and self.connected:
            return f"signals get through all {len(self.flow)} layers"
        what = "some layers" if self.connected else "the whole network"
        if not self.connected and len(self.blocked) < len(self.flow):
            what += ", whose outputs stem from parameters that are added"
        blocked = f": {', '.join(self.blocked)}" if self.blocked else ""
        empty = f"; no weight is left in {', '.join(self.empty)}" if self.empty else ""
        return f"nothing gets through {what}{blocked}{empty}"


def find_collapse(
    model: nn.Module, masks: Mapping[str, Tensor], example_inputs: Any, *, precision: Precision = "float64"
) -> Collapse:
    """Which layers of the masked network are empty or cut off. Data-free; the model is not changed.

    A layer collapses when pruning takes its last weight, or its last path: also where each layer keeps some weights,
    these need not meet (layer collapse: Tanaka et al. 2020, https://arxiv.org/abs/2006.05467). `precision` is that of
    the pass, for models that cannot run in float64.

    Raises as `apply_masks` and `statistics.SynapticFlow` do.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.tensor([[False, True]])}
    >>> print(find_collapse(net, masks, torch.ones(1, 2)))
    nothing gets through the whole network: 0.weight, 2.weight
    """
    batch = (example_inputs, None) if isinstance(example_inputs, list | tuple) else example_inputs
    chosen, held = choose(model, protect_classifier=False), by_first_name(model, masks)
    with masked(model, held), untouched(model), gradients_enabled(chosen), kernels_with_backward(model):
        found = SynapticFlow(precision).flow(model, prepared(batch, model), chosen)
        pairs = [(e, one) for e, one in zip(chosen, found.weights, strict=True) if one is not None]
        flow = {e.name: float((e.parameter.detach().abs() * one).sum()) for e, one in pairs}
    sizes = {entry.name: entry.parameter.numel() for entry in chosen}
    kept = {name: int(held[name].sum()) if name in held else size for name, size in sizes.items()}
    return Collapse(kept, flow, found.inputs)
