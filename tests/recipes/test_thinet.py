"""ThiNet: greedy reconstruction, and least squares after it (requirements 6, number 28; 004-41)."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.recipes import ThiNet
from sparsewood.recipes.thinet import _order


def scores_of(model: nn.Module, x: torch.Tensor, criterion: ThiNet) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return criterion(model, sw.trace(model, x), data=[(x, None)], loss=None, generator=generator)


def test_the_greedy_order_is_that_of_trying_every_unit() -> None:
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = _order(x.T @ x)
    gone: list[int] = []
    for step in range(6):
        left = [unit for unit in range(6) if unit not in gone]
        errors = {unit: float(x[:, [*gone, unit]].sum(1).square().sum()) for unit in left}
        best = min(errors, key=lambda unit: errors[unit])
        assert steps[best] == step
        gone.append(best)


def test_units_that_cancel_go_together() -> None:
    """Two units of the same size and opposite sign add nothing together, although each by itself is large."""
    net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Identity(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[5.0], [-5.0], [4.0]]))
        net[2].weight.fill_(1.0)
    order = scores_of(net, torch.ones(8, 1), ThiNet())["0"] * 3
    # Alone the third is the smallest; with it gone, the second leaves (4 - 5)^2, then the first.
    assert order.tolist() == [2.0, 1.0, 0.0]


def test_scores_of_a_convolution_are_those_of_its_windows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1, bias=False))
    x = torch.randn(20, 1, 6, 6)
    with torch.no_grad():
        a = net[1](net[0](x))
        parts = torch.stack(
            [nn.functional.conv2d(a[:, c : c + 1], net[2].weight[:, c : c + 1], padding=1).flatten() for c in range(3)],
            1,
        ).double()
    expected = _order(parts.T @ parts)
    assert torch.equal(scores_of(net, x, ThiNet(samples=16))["0"] * 3, expected)  # all positions, one output


def test_shrinking_with_least_squares_leaves_less_error_than_without() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))
    x = torch.randn(64, 1, 8, 8)
    data = [(part, None) for part in x.split(16)]
    errors = {}
    for name, criterion in (("thinet", ThiNet()), ("random", sw.Random())):
        shrunk = sw.shrink(net, x[:2], {"0": 0.5}, criterion=criterion, data=data)
        assert shrunk.report.exact
        found = sw.recovery.reconstruct(shrunk.model, net, data, kept=shrunk.plan.kept)
        errors[name] = found.layers["2"]
        assert found.layers["2"].after <= found.layers["2"].before
    assert errors["thinet"].before < errors["random"].before


def test_groups_that_nothing_reads_linearly_are_held() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert list(scores_of(net, torch.randn(2, 2, 6, 6), ThiNet())) == ["0"], "the pointwise layer behind it reads it"


def test_what_is_refused() -> None:
    with pytest.raises(sw.SparsewoodError, match="whole number of samples"):
        ThiNet(0)
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    structure = sw.trace(net, torch.ones(1, 1))
    for data, message in ((None, "needs data"), ([], "data is empty")):
        with pytest.raises(sw.SparsewoodError, match=message):
            ThiNet()(net, structure, data=data, loss=None, generator=torch.Generator())
    assert len(list(itertools.chain(net._forward_hooks, net[2]._forward_hooks))) == 0


def test_inputs_by_keyword_are_seen() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.relu, self.last = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
            self.by_name = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.first(x))
            return self.last(input=x) if self.by_name else self.last(x)

    model, x = Keyword(), torch.randn(12, 3)
    found = scores_of(model, x, ThiNet())["first"]
    model.by_name = False
    assert torch.equal(found, scores_of(model, x, ThiNet())["first"])
