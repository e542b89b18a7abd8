"""Dead, constant and saturated units, and APoZ (004-37)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsewood as sw


def test_004_37_apoz_is_the_fraction_of_zeros_of_each_unit() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1))
        net[0].bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    x = torch.tensor([[[[1.0, -1.0], [-1.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    found = sw.apoz(net, [x[:1], x[1:]])
    assert found.scores["0"].tolist() == [3 / 8, 0.0, 1.0]
    assert found.scores["3"].shape == (4,), "one number for each neuron"
    assert found.of_groups()["0"].tolist() == [3 / 8, 0.0, 1.0]


def test_kinds_of_units_exclude_one_another() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [0.01]]))
        net[0].bias.copy_(torch.tensor([0.0, 0.5, -1.0, 1.0]))
    found = sw.dead_units(net, [torch.tensor([[1.0], [-1.0], [0.5]])])
    assert found.dead["0"].tolist() == [False, False, True, False]
    assert found.constant["0"].tolist() == [False, True, False, False]
    assert found.saturated["0"].tolist() == [False, False, False, True]
    assert found.counts == {"0": {"units": 4, "dead": 1, "constant": 1, "saturated": 1}}
    assert sw.dead_units(net, [torch.tensor([[1.0], [-1.0]])], threshold=0.0).counts["0"]["saturated"] == 0
    with pytest.raises(sw.SparsewoodError, match=r"threshold must be a number in \[0, 1\)"):
        sw.dead_units(net, [torch.ones(1, 1)], threshold=2)


def test_layers_can_be_named() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    assert list(sw.apoz(net, [torch.ones(2, 1)], layers="2").scores) == ["2"]
    with pytest.raises(sw.UnknownName, match="Unknown layer"):
        sw.apoz(net, [torch.ones(2, 1)], layers="4")
