"""Filters by their L1 norms, layer by layer with layers left out: the published cuts of ResNet-56."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.measurement import count_macs
from sparsewood.types import Count
from sparsewood.unit_criteria import FilterNorm

A = ((16, 20, 38, 54), (0.1, 0.1, 0.1))
B = ((16, 18, 20, 34, 38, 54), (0.6, 0.3, 0.1))


def amounts(skip: tuple[int, ...], shares: tuple[float, ...]) -> dict[str | type[nn.Module], Count]:
    """The first convolution of each block keeps int(C (1 - p)); those are the even ones when all are numbered."""
    found: dict[str | type[nn.Module], Count] = {}
    for block in range(27):
        stage, inside = divmod(block, 9)
        width = (16, 32, 64)[stage]
        if 2 * block + 2 not in skip:
            found[f"layer{stage + 1}.{inside}.conv1"] = Count(width - int(width * (1 - shares[stage])))
    return found


@pytest.mark.parametrize(
    ("cut", "parameters", "macs", "layers"), [(A, 9.4, 10.4, 23), (B, 13.7, 27.6, 21)], ids=["A", "B"]
)
def test_004_06_resnet56_loses_what_was_published(
    cut: tuple[tuple[int, ...], tuple[float, ...]], parameters: float, macs: float, layers: int
) -> None:
    """Parameters and multiply-adds within 0.1 points of Li et al. 2016, https://arxiv.org/abs/1608.08710, table 1.

    The smallest sums |w| go, and `shrink` proves in float64 that the small network computes what the masked one does.
    """
    torch.manual_seed(0)
    model, inputs = sw.models.resnet_cifar(56), torch.randn(1, 3, 32, 32)
    chosen = amounts(*cut)
    assert len(chosen) == layers
    small = sw.shrink(model, inputs, chosen, criterion=FilterNorm(1)).model
    before, after = (sum(p.numel() for p in network.parameters()) for network in (model, small))
    assert before == 853_018
    assert 100 * (1 - after / before) == pytest.approx(parameters, abs=0.1)
    fewer = count_macs(small, inputs).macs / count_macs(model, inputs).macs
    assert 100 * (1 - fewer) == pytest.approx(macs, abs=0.1)
    for name, amount in chosen.items():
        weight, left = (network.get_parameter(f"{name}.weight").detach() for network in (model, small))
        assert torch.equal(left, best(weight, len(weight) - amount.n))


def best(weight: Tensor, count: int) -> Tensor:
    """The filters with the largest sums of |w|, in their order."""
    return weight[weight.abs().sum((1, 2, 3)).topk(count).indices.sort().values]
