"""The sensitivity pruner."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.recipes import sensitivity_thresholds
from sparsewood.schedules import Levels


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 4))
    for scale, layer in ((0.1, model[0]), (3.0, model[2])):
        nn.init.normal_(dict(layer.named_parameters())["weight"], std=scale)
    return model


@pytest.mark.parametrize("s", [0.5, 0.86, 1.5])
def test_004_05_of_gaussian_weights_erf_goes_whatever_their_scale(s: float) -> None:
    model = network()
    masks = sw.prune(model, sw.Magnitude(), scope=sw.Named({**sensitivity_thresholds(model, s)}))
    assert set(masks) == {"0.weight", "2.weight"}, "the classifier stays"
    for mask in masks.values():
        assert float((~mask).float().mean()) == pytest.approx(math.erf(s / math.sqrt(2)), abs=0.005)


def test_004_05_both_definitions_are_named() -> None:
    model = network()
    signed, absolute = (sensitivity_thresholds(model, 1.0, of=of) for of in ("signed", "absolute"))
    for name in signed:
        ratio = absolute[name].value / signed[name].value
        assert ratio == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=0.01)  # 0.603 for Gaussian weights


def test_004_32_thresholds_stay_while_weights_are_pruned_and_trained() -> None:
    """Every epoch by the same thresholds: what went stays away, and what has become small goes too."""
    model = network()
    thresholds = sensitivity_thresholds(model, 0.86)
    pruning = sw.Pruning(
        scope=sw.Named({name: one for name, one in thresholds.items()}),
        schedule=Levels([0.5, 0.5, 0.5]), rounds=3, unit="step", every=2,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.5)
    pruner = sw.Pruner(model, optimizer, pruning)
    first = pruner.masks
    for _ in range(5):
        optimizer.zero_grad()
        (1e-6 * model(torch.randn(8, 200)).square().mean()).backward()
        optimizer.step()
        pruner.step()
    last = pruner.finish()
    assert all(not bool((last[name] & ~first[name]).any()) for name in first)
    assert last.removed > first.removed
    assert sensitivity_thresholds(model, 0.86) != thresholds, "measured anew they would be others"


def test_what_is_refused() -> None:
    with pytest.raises(sw.SparsewoodError, match="s must be a number >= 0"):
        sensitivity_thresholds(network(), -1)
    with pytest.raises(sw.SparsewoodError, match="of must be one of signed, absolute"):
        sensitivity_thresholds(network(), 1, of="both")  # pyright: ignore[reportArgumentType]
