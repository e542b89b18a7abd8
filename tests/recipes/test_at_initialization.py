"""Named methods of pruning before training, and whether signals get through afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import WeightTimesGradient
from sparsewood.data import balanced
from sparsewood.recipes import (
    connection_sensitivity,
    ecs,
    find_collapse,
    force,
    grasp,
    iterative_snip,
    snip,
    synflow,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(9, 6, generator=generator), torch.randint(3, (9,), generator=generator)) for _ in range(count)]


METHODS: dict[str, Callable[[nn.Module, Any], sw.Masks]] = {
    "snip": lambda model, amount: snip(model, batches(), F.cross_entropy, amount),
    "iterative_snip": lambda model, amount: iterative_snip(model, batches(), F.cross_entropy, amount, iterations=5),
    "force": lambda model, amount: force(model, batches(), F.cross_entropy, amount, iterations=5),
    "grasp": lambda model, amount: grasp(model, batches(), F.cross_entropy, amount),
    "synflow": lambda model, amount: synflow(model, torch.ones(1, 6), amount, iterations=5),
    "ecs": lambda model, amount: ecs(model, batches(), F.cross_entropy, amount),
}


@pytest.mark.parametrize("method", METHODS)
def test_exactly_as_much_goes_as_is_asked_and_the_model_stays(method: str) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for amount in (0.0, 0.5, 0.93, sw.Count(17), sw.Compression(2.0)):
        masks = METHODS[method](model, amount)
        assert masks.removed == sw.prune(model, sw.Magnitude(), amount, protect_classifier=False).removed
        assert set(masks) == {"0.weight", "2.weight", "4.weight"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_001_01_scores_sum_to_1_and_ties_do_not_change_how_many_stay() -> None:
    model = network()
    assert sum(float(s.sum()) for s in connection_sensitivity(model, batches(), F.cross_entropy).values()) == (
        pytest.approx(1)
    )
    nn.init.constant_(dict(model.named_parameters())["0.bias"], -100.0)  # all dead: scores of two layers are 0
    scores = connection_sensitivity(model, batches(), F.cross_entropy)
    assert not scores["0.weight"].any()
    masks = snip(model, batches(), F.cross_entropy, 0.8)
    assert masks.removed == round(0.8 * masks.total)


def test_001_02_a_share_of_every_layer_or_of_some() -> None:
    model = network()
    even = snip(model, batches(), F.cross_entropy, 0.75, scope=sw.PerLayer())
    assert {name: int(mask.sum()) for name, mask in even.items()} == {"0.weight": 30, "2.weight": 60, "4.weight": 9}
    named = snip(model, batches(), F.cross_entropy, 0.9, scope={"0": 0.5, "2": None, "4": 0.0})
    assert {name: int(mask.sum()) for name, mask in named.items()} == {"0.weight": 60, "2.weight": 24, "4.weight": 36}
    with pytest.raises(sw.UnknownName):
        snip(model, batches(), F.cross_entropy, 0.9, scope={"nowhere": 0.5, "2": None})


def test_of_one_batch_and_of_all() -> None:
    model, data = network(), batches()
    one, all_of_them = (snip(model, some, F.cross_entropy, 0.8) for some in (data[:1], data))
    assert any(not torch.equal(one[name], all_of_them[name]) for name in one)
    joined = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    again = snip(model, joined, F.cross_entropy, 0.8)
    assert all(torch.equal(again[name], all_of_them[name]) for name in again)


def test_004_52_force_brings_weights_back_and_iterative_snip_does_not() -> None:
    model, data = network(), batches()
    first = sw.prune(
        model, WeightTimesGradient(), 1 - 0.1**0.5, data=data, loss=F.cross_entropy, protect_classifier=False
    )
    forced = force(model, data, F.cross_entropy, 0.9, iterations=2)
    held = iterative_snip(model, data, F.cross_entropy, 0.9, iterations=2)
    assert any(bool((forced[name] & ~first[name]).any()) for name in first)
    assert all(not bool((held[name] & ~first[name]).any()) for name in first)


# ---------------------------------------------------------------- collapse


def test_layers_that_are_empty_or_cut_off_are_named() -> None:
    model = network()
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    whole = find_collapse(model, masks, torch.ones(1, 6))
    assert (whole.empty, whole.blocked, whole.connected) == ((), (), True)
    assert str(whole) == "signals get through all 3 layers"
    masks["2.weight"][:] = False
    gone = find_collapse(model, masks, torch.ones(1, 6))
    assert gone.empty == ("2.weight",)
    assert gone.blocked == ("0.weight", "2.weight", "4.weight")
    assert not gone.connected
    assert "nothing gets through the whole network" in str(gone)


def test_where_every_layer_keeps_weights_that_do_not_meet_it_is_said() -> None:
    model = network()
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    for name, place in (("0.weight", (0, 0)), ("2.weight", (1, 1)), ("4.weight", (0, 1))):
        masks[name][place] = True
    found = find_collapse(model, masks, torch.ones(1, 6))
    assert (found.empty, found.connected) == ((), False)
    masks["0.weight"][1, 0] = True
    assert find_collapse(model, masks, torch.ones(1, 6)).connected


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.branch, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + torch.relu(self.branch(x)))


def test_an_empty_branch_does_not_cut_the_network() -> None:
    found = find_collapse(Shortcut(), {"branch.weight": torch.zeros(3, 3, dtype=torch.bool)}, torch.ones(1, 3))
    assert (found.empty, found.blocked, found.connected) == (("branch.weight",), ("branch.weight",), True)
    assert "some layers: branch.weight" in str(found)


class Placed(nn.Module):
    """What goes in is looked up or projected; positions and a token of its own are added to it."""

    def __init__(self, *, words: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.Embedding(7, 4) if words else nn.Linear(3, 4)
        self.token, self.positions = nn.Parameter(torch.rand(1, 1, 4)), nn.Parameter(torch.rand(1, 6, 4))
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.into(x)], 1) + self.positions
        return self.last(torch.relu(self.inner(x)).mean(1))


@pytest.mark.parametrize("words", [False, True])
def test_what_stems_from_added_parameters_does_not_count_as_getting_through(*, words: bool) -> None:
    model = Placed(words=words)
    x = torch.randint(7, (2, 5)) if words else torch.ones(2, 5, 3)
    assert find_collapse(model, {}, x).connected
    none = {"into.weight": torch.zeros_like(model.into.weight, dtype=torch.bool)}
    found = find_collapse(model, none, x)
    if words:  # all that is added to the embeddings comes out alone only where these go no further
        model.into.register_forward_hook(lambda _, __, out: out.detach())
        found = find_collapse(model, {}, x)
    assert not found.connected
    assert len(found.blocked) < len(found.flow)
    assert "the whole network, whose outputs stem from parameters that are added" in str(found)


def test_weights_of_a_tied_parameter_are_counted_under_all_its_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    rows, columns = torch.ones(3, 3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    rows[0], columns[:, 0] = False, False
    for masks, kept in (({"2.weight": rows}, 6), ({"0.weight": rows, "2.weight": columns}, 4)):
        found = find_collapse(model, masks, torch.ones(1, 3))
        assert (dict(found.kept), found.connected) == ({"0.weight": kept}, True)


def test_equal_scores_are_said_once_in_all_steps(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    synflow(model, torch.ones(1, 4), 0.9, iterations=6)
    ties = [record for record in caplog.records if "are equal: what stays was decided by position" in record.message]
    assert len(ties) == 1
    caplog.clear()
    for _ in range(2):
        synflow(model, torch.ones(1, 4), 0.9, iterations=6)
    assert len(caplog.records) == 2, "every call speaks for itself"


def test_7_11_a_floor_keeps_weights_in_every_layer() -> None:
    model = network()
    bare = snip(model, batches(), F.cross_entropy, 0.99, min_units=0)
    held = snip(model, batches(), F.cross_entropy, 0.99, min_units=1)
    assert bare.removed == held.removed
    assert min(int(mask.sum()) for mask in held.values()) == 1 > min(int(mask.sum()) for mask in bare.values())


# ---------------------------------------------------------------- examples of every class


def test_004_50_samples_are_balanced_and_a_class_that_is_missing_is_named() -> None:
    labels = torch.tensor([0] * 20 + [1] * 5 + [2] * 9)
    chosen = balanced(labels, 4, torch.Generator().manual_seed(0))
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, balanced(labels, 4, torch.Generator().manual_seed(0)))
    with pytest.raises(sw.SparsewoodError, match="6 examples of every class are wanted, and class 1 has 5"):
        balanced(labels, 6, torch.Generator())
    with pytest.raises(sw.SparsewoodError, match="per_class must be a whole number >= 1"):
        balanced(labels, 0, torch.Generator())
