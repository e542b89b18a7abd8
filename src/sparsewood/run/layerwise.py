"""Networks that are alike layer by layer: as much removed in each, or all of them narrower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.allocation import PerLayer
from sparsewood.criteria import Magnitude, Random
from sparsewood.errors import SparsewoodError
from sparsewood.measurement.counting import count
from sparsewood.pruning import Pruning
from sparsewood.run.bench import Bench
from sparsewood.shrinking import shrink
from sparsewood.shrinking.choice import Chooser
from sparsewood.shrinking.unit_masks import units_left
from sparsewood.structure import trace
from sparsewood.types import Masks

__all__ = ["masks_by_layer", "narrowed"]

STEPS = 12


def masks_by_layer(
    bench: Bench, pruning: Pruning, model: nn.Module, source: Masks, generator: torch.Generator
) -> Masks:
    """Masks that remove as many weights of every parameter as `source` does (of whole units: of every group).

    Which go is decided by the criterion of `pruning`. Weights of other shapes than single ones (filters, blocks) are
    counted as single ones: their number is what decides the size.
    """
    if pruning.coupled:
        return _units_by_group(bench, pruning, model, source, generator)
    found: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for name, mask in source.items():
        removed = mask.numel() - int(mask.count_nonzero())
        if removed == mask.numel() or removed == 0:
            found[name] = mask.clone()
            continue
        if isinstance(pruning.criterion, Random):
            place = torch.randperm(mask.numel(), generator=generator).to(mask.device)
            found[name] = mask.flatten()[place].view_as(mask)
            continue
        size = parameters[name].detach().abs().flatten().double()
        order = torch.argsort(size, stable=True, descending=True)
        kept = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
        kept[order[: mask.numel() - removed]] = True
        found[name] = kept.view_as(mask)
    return Masks.adopt(found)


def _units_by_group(
    bench: Bench, pruning: Pruning, model: nn.Module, source: Masks, generator: torch.Generator
) -> Masks:
    structure = bench.structure(model)
    scores = Chooser(
        model, structure, criterion=pruning.criterion, scope=PerLayer(), amount=0.0, data=None, loss=None, protect=(),
        min_units=1, normalize=None, generator=generator,
    ).scores  # fmt: skip
    keep: dict[str, Tensor] = {}
    for name, left in units_left(structure, source).items():
        count_left = int(left.sum())
        if count_left == len(left):
            continue
        order = torch.argsort(scores[name], stable=True, descending=True)
        keep[name] = torch.zeros(len(left), dtype=torch.bool)
        keep[name][order[:count_left]] = True
    return structure.to_masks(keep)


def narrowed(model: nn.Module, example: Any, parameters: int) -> nn.Module:
    """A network like `model` whose layers have all lost the same share of units, with at most so many parameters.

    It is the widest such network; the narrowest there is, if even that one has more.

    >>> net = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2))
    >>> narrowed(net, torch.ones(1, 4), 72)[0].out_features
    10
    """
    low, high = 0.0, 1.0
    best: nn.Module | None = None
    narrowest: nn.Module | None = None
    reason: SparsewoodError | None = None
    structure = trace(model, example)
    for _ in range(STEPS):
        share = (low + high) / 2
        try:
            small = shrink(
                model, example, share, criterion=Magnitude(), scope=PerLayer(), structure=structure, verify=False
            ).model
        except SparsewoodError as error:  # so large a share leaves some layer without units
            high, reason = share, error
            continue
        if count(small).params <= parameters:
            high, best = share, small
        else:
            low, narrowest = share, small
    found = narrowest if best is None else best
    if found is None:
        assert reason is not None
        raise reason
    return found
