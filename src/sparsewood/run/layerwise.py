"""Networks that are alike layer by layer: as much removed in each, or all of them narrower."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.allocation import Everywhere, PerLayer
from sparsewood.criteria import Criterion, Magnitude, Random
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Element
from sparsewood.measurement.counting import count
from sparsewood.pruning import Pruning, prune
from sparsewood.recovery.initializers import LayerDefault
from sparsewood.run.bench import Bench
from sparsewood.shrinking import shrink
from sparsewood.shrinking.choice import Chooser
from sparsewood.shrinking.unit_masks import units_left
from sparsewood.structure import trace
from sparsewood.types import Masks, Sparsity

__all__ = ["drawn_alike", "masks_by_layer", "narrowed"]

STEPS = 12
FEW = 64
UNLIKE = 1.3  # of the standard deviations of at least `FEW` weights that were drawn alike the ratio is closer to 1


def masks_by_layer(
    bench: Bench, pruning: Pruning, model: nn.Module, source: Masks, generator: torch.Generator
) -> Masks:
    """Masks that remove as many weights of every parameter as `source` does (of whole units: of every group).

    Which go is decided by the criterion of `pruning`, and in units of its granularity (filters, blocks, N:M); where
    `source` was not made of such units, single weights go.
    """
    if pruning.coupled:
        return _units_by_group(bench, pruning, model, source, generator)
    if not isinstance(pruning.granularity, Element):
        shaped = _in_units(pruning, model, source, generator)
        if _removed(shaped) == _removed(source):
            return shaped
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


def _in_units(pruning: Pruning, model: nn.Module, source: Masks, generator: torch.Generator) -> Masks:
    """Filters, blocks or N:M inside the layers of which `source` removes some, but not all."""
    removed = _removed(source)
    some = {name: removed[name] / mask.numel() for name, mask in source.items() if 0 < removed[name] < mask.numel()}
    if not some:
        return source
    assert isinstance(pruning.criterion, Criterion)
    # N:M says itself how much goes.
    fixed = isinstance(pruning.granularity, NM)
    scope = Everywhere() if fixed else PerLayer({name: Sparsity(share) for name, share in some.items()})
    chosen = prune(
        model, pruning.criterion, granularity=pruning.granularity, include=list(some), protect_classifier=False,
        min_units=0, generator=generator, scope=scope,
    )  # fmt: skip
    return Masks.adopt({name: chosen.get(name, mask) for name, mask in source.items()})


def _removed(masks: Masks) -> dict[str, int]:
    return {name: mask.numel() - int(mask.count_nonzero()) for name, mask in masks.items()}


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


def drawn_alike(model: nn.Module, own: nn.Module, generator: torch.Generator) -> None:
    """Draw new weights for `model` as its layers do, in place, and as large as in `own`: a new network of full size.

    A model's function may draw them in its own way (He et al. 2015 for residual networks). Networks from scratch would
    then begin with other scales than the dense network, and learn at other rates.
    """
    LayerDefault()(model, {}, generator)
    usual = copy.deepcopy(own)
    LayerDefault()(usual, {}, generator)
    theirs, plain = dict(own.named_parameters()), dict(usual.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in theirs or theirs[name].numel() < FEW:
                continue
            low, high = theirs[name].aminmax()
            if low == high:  # such as biases that are all zero
                parameter.fill_(low.item())
                continue
            ratio = float(theirs[name].std() / plain[name].std())
            if math.isfinite(ratio) and not 1 / UNLIKE < ratio < UNLIKE:
                parameter.mul_(ratio)


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
