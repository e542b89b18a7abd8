"""Plain copies compute what networks do, also where several modules have a weight in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.exporting import api
from sparsewood.exporting.plain import plain_copy


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Exponential(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.exp()


def largest(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=8)


def by_chance(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "weight", amount=8)


def exponential(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Exponential())


@pytest.mark.parametrize(
    ("made", "names", "tied"),
    [
        (largest, ["second"], False),
        (largest, ["first", "second"], True),
        (by_chance, ["first", "second"], False),
        (exponential, ["second"], False),
        (exponential, ["first", "second"], True),
    ],
)
def test_a_weight_of_two_layers_of_which_each_makes_its_own(
    made: Callable[[nn.Module], None], names: list[str], tied: bool
) -> None:
    """What one of them computes with is not what the other does; where it is the same it stays one weight."""
    torch.default_generator.manual_seed(0)
    model, x = Tied().eval(), torch.randn(3, 4)
    for name in names:
        made(model.get_submodule(name))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied: Any = plain_copy(model)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), model(x))
    assert (copied.first.weight is copied.second.weight) == tied
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_file_is_compared_with_the_network_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with the copy that it was made from, in which a mask may have got lost."""
    layer = nn.Linear(6, 4)
    prune.random_unstructured(layer, "weight", amount=12)

    def unmasked(_: nn.Module) -> nn.Module:
        return nn.Linear(6, 4).eval()

    monkeypatch.setattr(api, "plain_copy", unmasked)
    with pytest.raises(SparsewoodError, match="computes something else on example inputs"):
        sw.export(layer, tmp_path / "net.pt", torch.randn(2, 6))
    assert list(tmp_path.iterdir()) == []
