"""What is left is counted as if it were built: against slicing for real, and against networks that are narrower."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood.shrinking.costs import Costs, element_sizes
from sparsewood.structure import Structure
from sparsewood.testing import TOYS, Toy

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch.compile, when first called
]


def costs_of(model: nn.Module, inputs: object) -> tuple[Structure, Costs]:
    structure = sw.trace(model, inputs)
    return structure, Costs(structure, element_sizes(model))


def random_keep(structure: Structure, seed: int) -> dict[str, np.ndarray]:
    """Of every group some units, at least one; of every third all."""
    chance = np.random.default_rng(seed)
    keep = {}
    for number, group in enumerate(structure.prunable):
        kept = chance.random(group.units) < chance.random()
        kept[chance.integers(group.units)] = True
        if (number + seed) % 3:
            keep[group.name] = kept
    return keep


def sliced(model: nn.Module, structure: Structure, keep: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """All parameters and persistent buffers, tied ones once, without the positions of units that go."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    axes: dict[str, dict[int, np.ndarray]] = {}
    for name, kept in keep.items():
        for one in structure.group(name).slices:
            mine = axes.setdefault(one.param, {})
            mine[one.axis] = mine.get(one.axis, True) & np.append(kept, True)[one.owner]
    for name, found in axes.items():
        for axis, kept in found.items():
            tensors[name] = tensors[name].detach().index_select(axis, torch.from_numpy(np.flatnonzero(kept)))
    return {name: tensor for name, tensor in tensors.items() if name in model.state_dict()}


@pytest.mark.parametrize("toy", TOYS.values(), ids=str)
def test_entries_are_those_of_sliced_tensors(toy: Toy) -> None:
    model = toy.build()
    structure, costs = costs_of(model, toy.inputs())
    parameters = dict(model.named_parameters())
    for seed in range(3):
        keep = random_keep(structure, seed)
        left = sliced(model, structure, keep)
        assert costs.params(keep) == sum(left[name].numel() for name in parameters)
        assert costs.bytes(keep) == sum(tensor.numel() * tensor.element_size() for tensor in left.values())


@pytest.mark.parametrize("toy", [toy for toy in TOYS.values() if toy.name != "bilinear"], ids=str)
def test_what_is_whole_is_what_is_measured(toy: Toy) -> None:
    model = toy.build()
    _, costs = costs_of(model, toy.inputs())
    whole = sw.measure(model, toy.inputs(), repeats=0)
    assert (costs.params({}), costs.bytes({}), costs.macs({})) == (whole.params, whole.bytes, whole.macs)


@pytest.mark.parametrize("toy", TOYS.values(), ids=str)
def test_one_unit_costs_what_the_structure_says(toy: Toy) -> None:
    structure, costs = costs_of(toy.build(), toy.inputs())
    for group in structure.prunable:
        for unit in (0, group.units - 1):
            keep = {group.name: np.arange(group.units) != unit}
            assert costs.params({}) - costs.params(keep) == structure.parameters(group)[unit]
            assert costs.macs({}) - costs.macs(keep) == structure.macs(group)[unit]


class Block(nn.Module):
    """A residual stream of `width`, with a bottleneck of `inner` whose middle is depthwise."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, inner, 1)
        self.deep = nn.Conv2d(inner, inner, 3, padding=1, stride=2, groups=inner)
        self.project = nn.Conv2d(inner, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = self.project(torch.relu(self.deep(torch.relu(self.expand(x)))))
        return self.head((x[:, :, ::2, ::2] + y).mean((2, 3)))


@given(st.integers(1, 7), st.integers(1, 11))
def test_costs_are_those_of_a_narrower_network(width: int, inner: int) -> None:
    example = torch.zeros(2, 3, 6, 6)
    structure, costs = costs_of(Block(7, 11), example)
    stream, middle = (structure.group(name).name for name in ("stem", "expand"))
    keep = {stream: np.arange(7) < width, middle: np.arange(11) >= 11 - inner}
    narrow = sw.measure(Block(width, inner), example, repeats=0)
    assert (costs.params(keep), costs.bytes(keep), costs.macs(keep)) == (narrow.params, narrow.bytes, narrow.macs)


class Attention(nn.Module):
    """Fused queries, keys and values of `heads` heads of 4, and a gated layer of `inner`."""

    def __init__(self, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(6, 12 * heads), nn.Linear(4 * heads, 6)
        self.up, self.down = nn.Linear(6, 2 * inner, bias=False), nn.Linear(inner, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        x = self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        gate, up = self.up(x).chunk(2, -1)
        return self.down(torch.sigmoid(gate) * up)


@given(st.integers(1, 3), st.integers(1, 9))
def test_units_of_fused_layers_are_counted_whole(heads: int, inner: int) -> None:
    example = torch.zeros(2, 5, 6)
    structure, costs = costs_of(Attention(3, 9), example)
    units = {group.units: group.name for group in structure.prunable}
    keep = {units[3]: np.arange(3) < heads, units[9]: np.arange(9) < inner}
    narrow = sw.measure(Attention(heads, inner), example, repeats=0)
    assert (costs.params(keep), costs.macs(keep)) == (narrow.params, narrow.macs)


def test_bytes_follow_the_dtype_of_each_tensor() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2).bfloat16())
    model[1].register_buffer("scratch", torch.zeros(6), persistent=False)
    sizes = element_sizes(model)
    assert sizes["3.weight"] == 2
    assert sizes["1.num_batches_tracked"] == 8
    assert "1.scratch" not in sizes
    structure = sw.trace(nn.Sequential(*model[:3], nn.Linear(6, 2)), torch.zeros(3, 4))
    half = {"0": np.arange(6) < 3}
    costs = Costs(structure, sizes)
    assert costs.bytes({}) == 4 * (24 + 6 + 4 * 6) + 8 + 2 * 14
    assert costs.bytes(half) == 4 * (12 + 3 + 4 * 3) + 8 + 2 * 8


def test_units_that_own_unequally_many_positions_are_counted_one_by_one() -> None:
    """A row in which one unit appears twice: what each unit costs depends on which it is."""
    structure, _ = costs_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4))
    record = structure.record
    first, *others = record.costs
    row = first.rows[-1] if first.rows[-1] is not None and len(first.rows[-1]) == 3 else first.rows[1]
    assert row is not None
    twice = np.append(row, row[0])
    uneven = type(first)(first.op, first.module, (5, 4), (None, twice))
    changed = type(record)(**{**vars(record), "costs": (uneven, *others)})
    costs = Costs(type(structure)(structure.groups, structure.shapes, structure.barriers, changed), {})
    (name,) = (group.name for group in structure.prunable)
    assert not costs.uniform
    assert costs.macs({name: np.array([False, True, True])}) == 5 * 2 + 2 * 2
    assert costs.macs({name: np.array([True, False, True])}) == 5 * 3 + 2 * 2


def test_evaluation_is_quick() -> None:
    """Thousands of units in a hundred groups take well under a millisecond: a search asks for many."""
    layers = [layer for _ in range(60) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    structure, costs = costs_of(nn.Sequential(*layers), torch.zeros(2, 64))
    keep = {group.name: np.arange(64) < 32 for group in structure.prunable}
    assert len(keep) == 59
    times = []
    for _ in range(20):
        began = time.perf_counter()
        costs.macs(keep)
        times.append(time.perf_counter() - began)
    assert min(times) < 1e-3


def test_a_network_without_units() -> None:
    _, costs = costs_of(nn.Linear(3, 2), torch.zeros(1, 3))
    assert (costs.params({}), costs.bytes({}), costs.macs({})) == (8, 32, 6)
