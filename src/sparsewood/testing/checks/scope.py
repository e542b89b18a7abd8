"""The contracts of scopes and of allocations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsewood.allocation.budgets import Layer
from sparsewood.allocation.lamp import LAMP
from sparsewood.allocation.scopes import PerLayer, Scope
from sparsewood.allocation.select import best_in_rows
from sparsewood.criteria import Magnitude, Random
from sparsewood.granularity import Element, Filter
from sparsewood.pruning import score
from sparsewood.testing.checks.shared import SPARSITIES, check_value, count_units, expect, prune_toy
from sparsewood.testing.toys import ARCHITECTURES


def check_scope(scope: Scope) -> None:
    """The contract of a scope.

    It is a dataclass. For every amount it keeps exactly what was asked (if `shares_total`), empties no layer, decides
    the same way twice, revives nothing that earlier masks removed, and prefers higher scores: in no row of a parameter
    does a removed score exceed one that stays.
    """
    expect(dataclasses.is_dataclass(scope), f"{scope!r} must be a dataclass")
    expect(isinstance(scope, Scope), f"{scope!r} must be a Scope")
    for toy in (a for a in ARCHITECTURES if a.name in {"mlp", "grouped"}):
        model = toy.build()
        earlier = prune_toy(Random(), model, 0.2, protect_classifier=False)
        for granularity, sparsity in ((g, s) for g in (Element(), Filter()) for s in SPARSITIES):
            given = {"scope": scope, "granularity": granularity, "protect_classifier": False}
            masks = prune_toy(Magnitude(), model, sparsity, **given)
            expect(
                masks == prune_toy(Magnitude(), model, sparsity, **given),
                f"{scope} decides differently the second time",
            )
            expect(all(mask.any() for mask in masks.values()), f"{scope} empties a layer at sparsity {sparsity}")
            if scope.shares_total:
                total, kept = count_units(model, masks, granularity)
                expect(kept == total - round(sparsity * total), f"{scope} keeps {kept} of {total} units at {sparsity}")
        after = prune_toy(Magnitude(), model, 0.77, scope=scope, masks=earlier, protect_classifier=False)
        expect(after & earlier == after, f"{scope} revives what earlier masks removed")
        _check_preference(scope, model)


def _check_preference(scope: Scope, model: nn.Module) -> None:
    masks, scores = prune_toy(Magnitude(), model, 0.5, scope=scope, protect_classifier=False), score(model, Magnitude())
    for name, mask in masks.items():
        rows = scores[name].reshape(len(mask), -1)
        kept = mask.reshape(len(mask), -1)
        best = best_in_rows(rows, kept.sum(1))
        expect(torch.equal(best, kept), f"{scope}: a row of {name} keeps a score that is lower than one it removes")


def check_allocation(allocation: Any) -> None:
    """The contract of an allocation, the value that `PerLayer` takes.

    A frozen dataclass whose repr rebuilds it; its `weights` are whole numbers >= 0, one for each layer;
    `PerLayer(allocation)` is a scope; every layer's share lies between its floor and its size, whatever the amount.
    """
    check_value(allocation, object)
    if not isinstance(allocation, LAMP):  # which has no weights: its shares depend on the model
        _check_weights(allocation)
    check_scope(PerLayer(allocation))
    for toy in ARCHITECTURES:
        model = toy.build()
        for sparsity, floor in ((0.1, 1), (0.5, 3), (0.9, 2)):
            masks = prune_toy(Magnitude(), model, sparsity, scope=PerLayer(allocation), min_units=floor)
            kept = [int(mask.sum()) for mask in masks.values()]
            expect(
                sum(kept) == masks.total - round(sparsity * masks.total),
                f"{allocation} keeps {sum(kept)} of {masks.total} weights of {toy} at sparsity {sparsity}",
            )
            expect(min(kept) >= floor, f"{allocation} keeps {min(kept)} weights of a layer of {toy}; floor {floor}")


def _check_weights(allocation: Any) -> None:
    shapes = ((8, 4, 3, 3), (8, 4), (8,), (0, 4))
    layers = [Layer(str(shape), (), shape, math.prod(shape), 0, nn.Linear) for shape in shapes]
    weights = np.asarray(allocation.weights(layers))
    whole = np.issubdtype(weights.dtype, np.integer) and weights.shape == (len(layers),)
    expect(whole and bool((weights >= 0).all()), f"{allocation}: weights must be whole numbers >= 0. Got {weights}")
