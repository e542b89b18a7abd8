"""Penalties: closed forms and the contract. Requirement 004-08 (the gradient that slimming adds)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood import penalties
from sparsewood.errors import SparsewoodError
from sparsewood.parameters import entries
from sparsewood.penalties import GroupLasso, GroupScaled, GrowingL2, Penalty, ScaleL1, UnitMap, Weights
from sparsewood.testing import check_penalty

ALL = [ScaleL1(0.1), GroupLasso(0.1), GroupScaled(0.1), GrowingL2(0.5, step=0.01, every=5)]


def test_all_of_the_catalogue_is_checked() -> None:
    found = {getattr(penalties, name) for name in penalties.__all__} - {Penalty, Weights, UnitMap}
    assert {type(penalty) for penalty in ALL} == found


@pytest.mark.parametrize("penalty", ALL, ids=lambda penalty: type(penalty).__name__)
def test_contract(penalty: Penalty) -> None:
    check_penalty(penalty)


@dataclass(frozen=True)
class Wrong(Penalty):
    """value = sum w^2, with a gradient that lacks the 2. Source: none."""

    def value(self, weights: Weights) -> Tensor:
        return torch.stack([tensor.square().sum() for tensor in weights.tensors.values()]).sum()

    def __call__(self, weights: Weights) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in weights.tensors.items()}


def test_the_contract_finds_a_wrong_gradient() -> None:
    with pytest.raises(AssertionError, match="is not that of the value"):
        check_penalty(Wrong())


def mapped(model: nn.Module, *inputs: int) -> Weights:
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Weights(tensors, UnitMap.of(sw.trace(model, torch.zeros(1, *inputs)), tensors))


def test_004_08_scales_alone_are_covered() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.BatchNorm1d(3, affine=False))
    covered = [entry.name for entry in entries(model) if ScaleL1().covers(entry)]
    assert covered == ["1.weight"]


def test_sums_are_those_of_the_structure() -> None:
    """Elements on both axes of a recurrent weight count once for a unit, as in `Structure.to_units`."""
    torch.manual_seed(0)
    model = nn.LSTM(3, 5, batch_first=True)
    net = nn.ModuleDict({"rnn": model, "head": nn.Linear(5, 2)})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = net

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["head"](self.parts["rnn"](x)[0])

    whole = Net()
    structure = sw.trace(whole, torch.zeros(1, 4, 3))
    squares = {name: parameter.detach().square() for name, parameter in whole.named_parameters()}
    expected = structure.to_units(squares)
    found = UnitMap.of(structure, squares).sums(squares)
    assert expected
    assert found.keys() == expected.keys()
    for name, sums in found.items():
        assert torch.allclose(sums.double(), expected[name])
    assert any("weight_hh" in one.param for group in structure.prunable for one in group.slices)


def test_sizes_count_the_parameters_that_go_with_a_unit() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    weights = mapped(model, 2, 4, 4)
    assert weights.map.sizes["0"].tolist() == [2 * 9 + 1 + 2 + 4 * 4] * 3


def test_growing_begins_at_zero_and_stops_at_the_ceiling() -> None:
    penalty = GrowingL2(0.5, step=0.1, every=10, ceiling=0.25)
    assert [penalty.at(step) for step in (0, 9, 10, 29, 30, 1000)] == [0, 0, 0.1, 0.2, 0.25, 0.25]


def test_growing_keeps_the_lower_of_equal_units_and_one_of_each_group() -> None:
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    weights = mapped(model, 1)
    assert GrowingL2(0.5).decide(weights)["0"].tolist() == [False, False, True, True]
    assert GrowingL2(1.0).decide(weights)["0"].tolist() == [False, True, True, True]


def test_scaled_with_equal_norms_is_plain() -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    assert GroupScaled(0.25)(mapped(model, 1))["0.weight"].tolist() == [[0.5], [0.5]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaleL1(-1.0), "strength must be a finite number >= 0"),
        (lambda: GroupLasso(float("nan")), "strength must be"),
        (lambda: GroupScaled(alpha=65), "<= 64"),
        (lambda: GrowingL2(1.5), "sparsity must be .* <= 1"),
        (lambda: GrowingL2(0.5, every=0), "every must be a whole number"),
        (lambda: GroupLasso()(Weights({})), "pass units="),
    ],
)
def test_what_means_nothing_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(SparsewoodError, match=message):
        make()
