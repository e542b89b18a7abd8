"""Straight-through masks against a parametrisation written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.masks import soften


class Seen(torch.autograd.Function):
    """w * mask; the gradient goes to w as it is."""

    @staticmethod
    def forward(_: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, None


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_004_36_masked_weights_learn_as_behind_a_parametrisation(optimizer: str) -> None:
    """Also while masks change: what a mask gives back has the value that it has learned by then."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator)
    layer = nn.Linear(4, 3, bias=False)
    layer.weight.data.copy_(weight)
    by_hand = nn.Parameter(weight.clone())
    one, other = OPTIMIZERS[optimizer](layer.parameters()), OPTIMIZERS[optimizer]([by_hand])
    masks = [torch.rand(3, 4, generator=generator) > 0.5 for _ in range(4)]
    with soften(layer, {"weight": masks[0]}, one) as keeper:
        for step in range(12):
            mask = masks[step // 3]
            keeper.masks = sw.Masks({"weight": mask})
            x = torch.randn(5, 4, generator=generator)
            assert torch.equal(layer.weight, keeper.dense["weight"] * mask)
            for built, result in ((one, layer(x)), (other, x @ Seen.apply(by_hand, mask).T)):  # pyright: ignore
                built.zero_grad()
                result.square().mean().backward()
                built.step()
            torch.testing.assert_close(keeper.dense["weight"], by_hand.detach())
            assert not layer.weight[~mask].any()
    torch.testing.assert_close(layer.weight.detach(), by_hand.detach() * masks[3])
    assert not layer.weight[~masks[3]].any()


def test_kept_alone_masked_weights_do_not_learn() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with soften(layer, {"weight": torch.tensor([[True, False]])}, optimizer, gradient="kept") as keeper:
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert keeper.dense["weight"].tolist() == [[0.0, 2.0]]
        keeper.masks = sw.Masks({"weight": torch.tensor([[False, True]])})
        assert layer.weight.tolist() == [[0.0, 2.0]]
