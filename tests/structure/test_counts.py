"""What goes with one unit: entries and multiply-adds, by heart and against removing for real."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.structure.counts import (
    buffers_of_units,
    entries_of_groups,
    entries_prunable,
    share_prunable,
    total_macs,
    total_parameters,
)
from sparsewood.structure.structure import Structure


def images(channels: int, size: int) -> torch.Tensor:
    return torch.zeros(1, channels, size, size)


@pytest.fixture(scope="module")
def small() -> Structure:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    return sw.trace(model, images(3, 16))


def test_a_small_network_by_heart(small: Structure) -> None:
    assert [group.name for group in small.prunable] == ["0", "3"]
    assert small.parameters("0").tolist() == [3 * 9 + 2 + 16 * 9] * 8
    assert small.parameters("3").tolist() == [8 * 9 + 1 + 10] * 16
    assert buffers_of_units(small)["0"].tolist() == [2] * 8
    assert small.macs("0").tolist() == [27 * 14**2 + 16 * 9 * 12**2] * 8
    assert small.macs("3").tolist() == [72 * 12**2 + 10] * 16
    assert total_macs(small) == 8 * 27 * 14**2 + 16 * 72 * 12**2 + 160
    assert small.parameters(small.group("3")).dtype == small.macs("3").dtype == torch.int64


def test_shares_of_a_small_network(small: Structure) -> None:
    """Everything but the bias of the classifier lies in a unit."""
    assert total_parameters(small) == 8 * 27 + 16 + 16 * 72 + 16 + 170
    assert share_prunable(small) == pytest.approx(1 - 10 / total_parameters(small))
    assert entries_prunable(small)["6.bias"] == 0
    assert entries_of_groups(small) == {"0": 8 * 27 + 16 + 16 * 72, "3": 16 * 72 + 16 + 160}


def test_frozen_groups_have_no_numbers(small: Structure) -> None:
    frozen = next(group for group in small.groups if group.frozen_by)
    with pytest.raises(sw.SparsewoodError, match=f"The units of group '{frozen.name}' cannot be removed"):
        small.parameters(frozen)
    with pytest.raises(sw.UnknownName, match="Unknown group"):
        small.macs("conv")


class Twice(nn.Module):
    """A residual stream of 6: its units own a row and a column of `mix`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(x + torch.relu(self.mix(x)))


def test_a_unit_with_a_row_and_a_column() -> None:
    structure = sw.trace(Twice(), torch.zeros(4, 5))
    (group,) = structure.prunable
    assert structure.parameters(group).tolist() == [(5 + 1) + (6 + 6 - 1 + 1) + 2] * 6
    assert structure.macs(group).tolist() == [4 * (5 + (6 + 6 - 1) + 2)] * 6


def test_grouped_convolutions_multiply_less() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    structure = sw.trace(model, images(3, 4))
    (group,) = structure.prunable
    assert structure.macs(group).tolist() == [3 * 16 + 9 * 4 + 2 * 4] * 8
    assert structure.parameters(group).tolist() == [4 + 10 + 2] * 8


def test_counts_of_a_network_without_the_unit() -> None:
    """The numbers are those by which a network that is built narrower is smaller."""

    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 5, 3), nn.ReLU(), nn.Flatten(2))

    wide, narrow = network(7), network(6)
    structure = sw.trace(wide, images(3, 9))
    assert structure.group("0").units == 7
    assert structure.parameters("0")[0] == sum(p.numel() for p in wide.parameters()) - sum(
        p.numel() for p in narrow.parameters()
    )
    example = torch.zeros(1, 3, 9, 9)
    assert structure.macs("0")[0] == sw.measure(wide, example).macs - sw.measure(narrow, example).macs
    assert total_macs(structure) == sw.measure(wide, example).macs
