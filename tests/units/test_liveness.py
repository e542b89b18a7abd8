"""Dead, constant and saturated units, and APoZ (004-37)."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.units import Liveness


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


def test_naming_layers_does_not_hold_all_data_at_once() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    waiting: list[int] = []
    net.register_forward_pre_hook(lambda *_: waiting.clear())

    def batches() -> Iterator[Tensor]:
        for number in range(4):
            assert len(waiting) < 2, "read ahead"
            waiting.append(number)
            yield torch.ones(2, 1)

    assert sw.dead_units(net, batches(), layers="0").examples == 8


def kinds(found: Liveness, layer: str) -> str:
    """One letter for each unit of a layer."""
    flags = zip(found.dead[layer], found.constant[layer], found.saturated[layer], strict=True)
    return "".join(
        "d" if dead else "c" if constant else "s" if saturated else "-" for dead, constant, saturated in flags
    )


def test_a_unit_for_one_example_of_many_is_not_saturated() -> None:
    """Its deviation is small beside its largest value, but not beside its mean."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
    x = torch.zeros(1000, 2)
    x[7, 0] = 1.0
    x[:, 1] = 1.0 + 0.04 * (-1.0) ** torch.arange(1000)
    assert kinds(sw.dead_units(net, [x]), "0") == "-s"
    assert kinds(sw.dead_units(net, [x], threshold=0.03), "0") == "--"


def test_convolutions_are_judged_over_places() -> None:
    """One channel changes over places and not over examples, one over examples only."""
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, -1.0]]).view(4, 2, 1, 1))
        net[0].bias.copy_(torch.tensor([0.0, 0.0, 3.0, 0.0]))
    x = torch.ones(3, 2, 2, 2)
    x[:, 0, 0] = 5.0
    x[1, 1] = 5.0
    found = sw.dead_units(net, [x])
    assert kinds(found, "0") == "--cd"
    assert found.zeros["0"].tolist() == [0, 0, 0, 1]
    assert found.lowest["0"].tolist() == [1, 1, 3, 0]
    assert {name: one.tolist() for name, one in found.of_groups().items()} == {"0": [False, False, False, True]}


def test_a_saturated_tanh_and_values_below_zero() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.0], [0.1], [100.0], [0.1]]))
        net[0].bias.copy_(torch.tensor([-50.0, -3.0, 0.0, 0.0]))
    found = sw.dead_units(net, [torch.tensor([[1.0], [-1.0]])])
    assert kinds(found, "0") == "cs--", "one that jumps between -1 and 1 says something"


def test_tokens_are_places() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.up, self.act, self.head = nn.Embedding(3, 2), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.up(self.embed(x))).mean(1))

    net = Net()
    with torch.no_grad():
        net.embed.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        net.up.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        net.up.bias.copy_(torch.tensor([0.0, 0.0, 2.0]))
    x = torch.tensor([[0, 0, 1, 0], [1, 0, 1, 0]])
    assert kinds(sw.dead_units(net, [x]), "up") == "-dc"
    assert sw.apoz(net, [x]).scores["up"].tolist() == [5 / 8, 1, 0]


def test_steps_of_recurrent_networks_are_places() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0].mean(1))

    net = Net()
    with torch.no_grad():
        for one in net.lstm.parameters():
            one.view(4, 3, -1)[2, 1] = 0.0  # the cell gate of unit 1: its state stays 0
    x = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    found, zeros = sw.dead_units(net, [x]), sw.apoz(net, [x])
    assert found.dead
    assert all(kinds(found, name) == "-d-" for name in found.dead)
    assert all(one.tolist() == [0, 1, 0] for one in zeros.scores.values())


class Block(nn.Module):
    """One ReLU for everything, also behind the sum with the shortcut; `first` is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.first(x) + x)
        return self.last(self.relu(self.first(x) + x))


def test_units_are_what_they_are_where_they_do_most() -> None:
    """A shared activation function, a shortcut, and a weight that is used twice."""
    net = Block()
    with torch.no_grad():
        net.stem.weight.zero_()
        net.stem.bias.fill_(-9.0)
        net.first.weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
        net.first.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    found = sw.dead_units(net, [torch.tensor([[1.0, 1.0], [2.0, 0.0]])])
    assert kinds(found, "stem") == "ddd", "0 where the stem's units are seen"
    assert kinds(found, "first") == "ccd", (
        "unit 0 is 0 behind the first sum and 1 behind the second, unit 1 the reverse"
    )
    assert found.zeros["first"].tolist() == [0.5, 0.5, 1]
    assert [one.tolist() for one in found.of_groups().values()] == [[False, False, True]]


class Counting(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.sizes = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.inner(x)


@settings(max_examples=20)
@given(st.integers(1, 7), st.randoms(use_true_random=False))
def test_batches_and_order_do_not_matter(size: int, random: Random) -> None:
    """004-37, 7.6: and the model runs once on every batch, in eval mode, and is left as it was."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.ReLU())
    net = Counting(nn.Sequential(*net, nn.Linear(5, 2)))
    with torch.no_grad():
        for one in net.parameters():
            one.copy_(torch.randn(one.shape, generator=generator))
    before = {name: one.clone() for name, one in net.state_dict().items()}
    x = torch.randn(7, 3, generator=generator)
    order = random.sample(range(7), 7)
    whole, zeros = sw.dead_units(net, [x]), sw.apoz(net, [x])
    net.sizes.clear()
    cut, parts = sw.dead_units(net, list(x[order].split(size))), sw.apoz(net, list(x[order].split(size)))
    assert net.sizes == 2 * [len(one) for one in x.split(size)]
    assert whole.counts == cut.counts
    for name, one in zeros.scores.items():
        torch.testing.assert_close(parts.scores[name], one)
    assert net.training
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


def test_nan_is_no_state() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight[1] = torch.nan
    with pytest.raises(sw.SparsewoodError, match="1 of 4 units seen at '1' have activations that are NaN or infinite"):
        sw.dead_units(net, [torch.ones(2, 1)])
