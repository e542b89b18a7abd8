"""Budgets are met, closely, or refused with what can be had."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood.allocation import LAMP, Everywhere, Isomorphic, PerLayer, PerType
from sparsewood.allocation.scopes import Scope
from sparsewood.criteria import Magnitude, Random
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.budgets import Budget, Bytes, CountBudget, Latency, MACs, Params, meet, require_budget
from sparsewood.shrinking.choice import Choice, Chooser
from sparsewood.shrinking.costs import Costs, element_sizes
from sparsewood.shrinking.engines import Eager, OnnxRuntime
from sparsewood.testing import TOYS, Toy

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch.compile, when first called
]

SCOPES: list[Scope] = [Everywhere(), PerLayer(), PerLayer(LAMP()), PerType(), Isomorphic()]


class Search:
    """A network and its costs."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.model, self.structure = model, sw.trace(model, inputs)
        self.costs = Costs(self.structure, element_sizes(model))

    def meet(self, budget: CountBudget, held: dict[str, str] | None = None, **options: Any) -> Choice:
        options = {"criterion": Magnitude(), **options}
        return meet(Chooser(self.model, self.structure, **options), self.costs, budget, held)


@pytest.fixture(scope="module")
def resnet() -> Search:
    torch.default_generator.manual_seed(0)
    return Search(sw.models.resnet20(), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("scope", SCOPES, ids=str)
@pytest.mark.parametrize("kind", [Params, MACs, Bytes])
@pytest.mark.parametrize("share", [0.75, 0.5, 0.25, 0.1])
def test_budgets_are_met_within_one_per_cent(
    resnet: Search, scope: Scope, kind: type[CountBudget], share: float
) -> None:
    budget = kind(share)
    choice = resnet.meet(budget, scope=scope)
    now, left = budget.left(resnet.costs, {}), budget.left(resnet.costs, choice.keep)
    assert choice.budget == budget
    assert choice.allowed == int(share * now)
    assert choice.reached == left
    assert 0.99 * choice.allowed <= left <= choice.allowed
    assert choice.removed == sum(int((~stays).sum()) for stays in choice.keep.values())


@pytest.mark.parametrize("round_to", [4, 8])
@pytest.mark.parametrize("kind", [Params, MACs])
def test_budgets_are_met_in_multiples(resnet: Search, kind: type[CountBudget], round_to: int) -> None:
    """As closely as steps allow: no further step of any group fits, unless less than 1 % is left."""
    choice = resnet.meet(kind(0.5), round_to=round_to)
    assert choice.allowed is not None
    assert choice.reached is not None
    assert 0.9 * choice.allowed <= choice.reached <= choice.allowed
    sizes = {group.name: group.units for group in resnet.structure.prunable}
    assert all(stays.sum() % round_to == 0 or stays.all() for stays in choice.keep.values())
    if choice.reached < 0.99 * choice.allowed:
        for name, stays in choice.keep.items():
            more = np.arange(sizes[name]) < stays.sum() + round_to
            assert kind(0.5).left(resnet.costs, {**choice.keep, name: more}) > choice.allowed


def test_whole_numbers_are_numbers(resnet: Search) -> None:
    for kind, most in ((Params, 100_000), (MACs, 20_000_000), (Bytes, 400_000)):
        choice = resnet.meet(kind(most))
        assert choice.allowed == most
        assert choice.reached is not None
        assert 0.99 * most <= choice.reached <= most


def test_a_budget_that_is_met_removes_nothing(resnet: Search) -> None:
    for budget in (Params(1.0), MACs(10**12)):
        choice = resnet.meet(budget)
        assert (choice.keep, choice.asked, choice.removed) == ({}, 0, 0)
        assert choice.reached == budget.left(resnet.costs, {})


@pytest.mark.parametrize("toy", TOYS.values(), ids=str)
def test_toys_are_as_close_as_their_units_allow(toy: Toy) -> None:
    """Less than 1 % is left, or no unit that went fits."""
    search = Search(toy.build(), toy.inputs())
    chooser = Chooser(search.model, search.structure, criterion=Random())
    if not chooser.scores:
        return
    free = chooser.free({})
    least = search.costs.params(chooser.keep(free, free.least))
    for share in (0.3, 0.6, 0.9):
        allowed = round(least + share * (search.costs.params({}) - least))
        choice = meet(chooser, search.costs, Params(allowed))
        assert choice.reached is not None
        assert choice.reached <= allowed
        if choice.reached < 0.99 * allowed:
            for name, stays in choice.keep.items():
                more = stays.copy()
                more[np.flatnonzero(~stays)[0]] = True
                assert search.costs.params({**choice.keep, name: more}) > allowed


def mlp(*widths: int) -> nn.Sequential:
    torch.default_generator.manual_seed(0)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@given(st.floats(0.05, 1), st.integers(1, 4), st.integers(1, 6), st.sampled_from(SCOPES))
def test_never_more_than_allowed(share: float, round_to: int, min_units: int, scope: Scope) -> None:
    search = Search(mlp(5, 17, 23, 9, 2), torch.zeros(1, 5))
    try:
        choice = search.meet(Params(share), round_to=round_to, min_units=min_units, scope=scope)
    except SparsewoodError as error:
        least = re.search(r"least that can be reached is ([\d,]+)", str(error))
        assert least is not None
        assert int(least[1].replace(",", "")) > int(share * search.costs.params({}))
        return
    assert choice.reached == search.costs.params(choice.keep)
    assert choice.allowed is not None
    assert search.costs.params(choice.keep) <= choice.allowed


def test_the_least_is_reachable() -> None:
    search = Search(mlp(5, 17, 23, 2), torch.zeros(1, 5))
    least = (5 * 2 + 2) + (2 * 2 + 2) + (2 * 2 + 2)
    choice = search.meet(Params(least), min_units=2)
    assert (choice.reached, choice.removed) == (least, 15 + 21)
    with pytest.raises(SparsewoodError, match=rf"The least that can be reached is {least}"):
        search.meet(Params(least - 1), min_units=2)


def test_a_budget_out_of_reach_says_why() -> None:
    """5-10-10-2: 60 + 110 + 22 = 192. With 4 of each: 24 + 20 + 10 = 54, 2 of them the last bias."""
    search = Search(mlp(5, 10, 10, 2), torch.zeros(1, 5))
    with pytest.raises(SparsewoodError) as caught:
        search.meet(Params(0.1), min_units=4)
    assert str(caught.value) == (
        "Params(0.1) allows 19 of 192 parameters. The least that can be reached is 54 (28.1 %): 2 lie in no "
        "unit that can be removed, 52 with units that stay in every group (min_units=4). Ask for Params(0.282) or "
        "more, protect less, or lower min_units and round_to."
    )
    with pytest.raises(SparsewoodError, match=r"40 go with units that are held \(2: a reason\).*Ask for Params\(48\)"):
        search.meet(Params(20), {"2": "a reason"})
    with pytest.raises(SparsewoodError, match=r"min_units=1, round_to=4"):
        search.meet(MACs(0.01), round_to=4)


def test_what_it_asks_for_can_be_had() -> None:
    search = Search(mlp(5, 10, 10, 2), torch.zeros(1, 5))
    assert search.meet(Params(0.282), min_units=4).reached == 54
    assert search.meet(Params(48), {"2": "a reason"}).reached == 48


def test_held_and_protected_units_stay(resnet: Search) -> None:
    protected = resnet.structure.prunable[0].name
    other = resnet.structure.prunable[1].name
    choice = resnet.meet(Params(0.5), {other: "a reason"}, protect=protected)
    assert choice.held == {protected: "it is protected", other: "a reason"}
    assert not {protected, other} & set(choice.keep)
    assert choice.reached is not None
    assert choice.allowed is not None
    assert 0.99 * choice.allowed <= choice.reached <= choice.allowed


def test_units_that_come_back_are_the_best() -> None:
    """A unit of the first group is worth some 100 parameters, one of the second at most 12: these fill what is left."""
    search = Search(mlp(90, 10, 20, 1), torch.zeros(1, 90))
    chooser = Chooser(search.model, search.structure, criterion=Magnitude())
    came_back = 0
    for allowed in range(300, 1100, 50):
        choice = meet(chooser, search.costs, Params(allowed))
        free = chooser.free({})
        without = chooser.chosen(free, chooser.counts(free, choice.asked), choice.asked)
        assert search.costs.params(without.keep) <= search.costs.params(choice.keep) <= allowed
        came_back += without.removed - choice.removed
        for name, stays in choice.keep.items():
            assert (stays | ~without.keep[name]).all()
            scores = chooser.scores[name].numpy()
            assert scores[stays].min() >= scores[~stays].max()
    assert came_back > 0


def test_amounts_of_single_layers_and_budgets_exclude_each_other(resnet: Search) -> None:
    with pytest.raises(SparsewoodError, match=r"needs a scope that shares a total out"):
        resnet.meet(Params(0.5), scope=PerLayer({"*": 0.5}))


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [Params, MACs, Bytes])
@pytest.mark.parametrize("bad", [0, 0.0, 1.5, -1, -0.5, True, "0.5", None, float("nan")])
def test_budgets_that_are_none(kind: type[CountBudget], bad: Any) -> None:
    with pytest.raises(SparsewoodError, match=rf"{kind.__name__} must be a float in \(0, 1\]"):
        kind(bad)


@pytest.mark.parametrize(
    "bad", [{}, {"fraction": 0.5, "seconds": 1.0}, {"fraction": 1.5}, {"seconds": 0}, {"fraction": "x"}]
)
def test_latencies_that_are_none(bad: dict[str, Any]) -> None:
    with pytest.raises(SparsewoodError, match=r"Latency must be a share in \(0, 1\]"):
        Latency(**bad)


@pytest.mark.parametrize("engine", [Eager, "eager", None])
def test_engines_are_values(engine: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"'engine' must be Eager\(\) or OnnxRuntime\(\)"):
        Latency(0.5, engine=engine)


@pytest.mark.parametrize("value", [0.5, 1, "MACs", MACs, Latency, None])
def test_what_is_no_budget(value: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"budget must say what it counts: sw.Params\(0.5\)"):
        require_budget(value)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (MACs(0.5), "MACs(0.5)"),
        (Bytes(1000), "Bytes(1000)"),
        (Latency(0.5), "Latency(0.5)"),
        (Latency(seconds=0.01), "Latency(seconds=0.01)"),
        (Latency(0.5, engine=OnnxRuntime()), "Latency(0.5, engine=OnnxRuntime())"),
    ],
)
def test_budgets_are_short_in_messages(budget: Budget, text: str) -> None:
    require_budget(budget)
    assert str(budget) == text


def test_budgets_are_values() -> None:
    assert Params(0.5) == Params(0.5) != MACs(0.5)
    assert Params(amount=3).allowed(Search(mlp(2, 3, 1), torch.zeros(1, 2)).costs) == 3
    assert Latency(0.5) == Latency(fraction=0.5)
    assert Latency(seconds=0.01).fraction is None
