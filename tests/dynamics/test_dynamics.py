"""Masks that change while training: closed forms of the rules, and the contract over all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood import dynamics
from sparsewood.allocation import ERK, LAMP, Everywhere, PerLayer, PerRow, Uniform
from sparsewood.allocation.budgets import Layer
from sparsewood.dynamics import SET, Movement, RigL, Splicing, StraightThrough
from sparsewood.dynamics.base import Dynamics, Moment
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.schedules import Cubic, Exponential, Linear
from sparsewood.testing import check_dynamics

EXAMPLES: dict[str, list[Dynamics]] = {
    "SET": [SET(0.5), SET(0.7, drop=1.0, allocation=Uniform(), stop=1.0)],
    "Movement": [Movement(Cubic(0.5)), Movement(Linear(0.6), PerLayer(ERK()), start=0.3)],
    "RigL": [RigL(0.5), RigL(0.6, allocation=Uniform())],
    "Splicing": [Splicing(s=0.3), Splicing(sparsity=0.6, decay=0.1), Splicing(s={"*": -0.2}, decay=0.05)],
    "StraightThrough": [StraightThrough(Cubic(0.7)), StraightThrough(Exponential(0.5), PerLayer(), stop=1.0)],
}


def test_every_rule_has_examples() -> None:
    assert sorted(EXAMPLES) == sorted(dynamics.__all__)


@pytest.mark.parametrize("rule", [rule for rules in EXAMPLES.values() for rule in rules], ids=str)
def test_004_36_contract(rule: Dynamics) -> None:
    check_dynamics(rule)


def moment(weights: dict[str, Tensor], step: int = 1, steps: int = 10, **given_more: object) -> Moment:
    layers = tuple(Layer(n, (), tuple(w.shape), w.numel(), min(1, w.numel()), nn.Linear) for n, w in weights.items())
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    more = {"masks": masks, "generator": torch.Generator().manual_seed(0), **given_more}
    return Moment(step, steps, layers, weights, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("given_when", "steps", "expected"),
    [
        ({"every": 100}, 1000, [1, 101, 201, 301, 401, 501, 601, 701]),
        ({"every": 100, "start": 0.1, "stop": 0.3}, 1000, [100, 200, 300]),
        ({"every": 1, "stop": 1.0}, 3, [1, 2, 3]),
    ],
)
def test_when_masks_are_updated(given_when: dict[str, float], steps: int, expected: list[int]) -> None:
    assert list(StraightThrough(**given_when).times(steps)) == expected  # type: ignore[arg-type]


def test_what_cannot_be_is_refused() -> None:
    refused = [
        (lambda: SET(0.5, every=0), "every must be"),
        (lambda: SET(0.5, start=0.8), "start < stop"),
        (lambda: SET(1.5), "Sparsity"),
        (lambda: RigL(0.5, drop=0.0), "drop must be"),
        (lambda: RigL(0.5, allocation=0.3), "allocation must be"),  # type: ignore[arg-type]
        (Splicing, "s or sparsity, one of them"),
        (lambda: Splicing(s=1.0, sparsity=0.5), "s or sparsity, one of them"),
        (lambda: Splicing(s=1.0, lower=1.2), "lower <= upper"),
        (lambda: Splicing(s=1.0, decay=-1.0), "at least 0"),
        (lambda: StraightThrough(0.9), "curve must be"),  # type: ignore[arg-type]
        (lambda: Movement(Cubic(0.9), PerRow()), "scope must be"),  # type: ignore[arg-type]
        (lambda: Movement(Cubic(0.9), PerLayer({"a": 0.5})), "scope must be"),
        (lambda: StraightThrough(Cubic(0.9), PerLayer(LAMP())), r"scope must be .*Uniform\(\) or ERK\(\)"),
        (lambda: SET(0.5, stop=0.2).times(3), "no update falls"),
    ]
    for make, message in refused:
        with pytest.raises(SparsewoodError, match=message):
            make()


# ---------------------------------------------------------------- splicing


def spliced(rule: Splicing, weight: Tensor, mask: Tensor, base: float) -> Tensor:
    memory = {"mean": {"w": torch.tensor(base, dtype=torch.float64)}, "deviation": {"w": torch.tensor(0.0)}}
    return rule.update(moment({"w": weight}, masks={"w": mask}, memory=memory))["w"]


def test_004_36_truth_table_of_hysteresis() -> None:
    """Below a: 0; from a to below b: as it was; from b on: 1. Powers of two, so that the bounds are exact."""
    rule = Splicing(s=0.0, lower=0.5, upper=2.0)
    weight = torch.tensor([0.25, 0.5, 1.0, 1.5, 2.0, 4.0])
    for sign in (1, -1):
        of_kept = spliced(rule, sign * weight, torch.ones(6).bool(), 1.0)
        of_masked = spliced(rule, sign * weight, torch.zeros(6).bool(), 1.0)
        assert of_kept.tolist() == [False, True, True, True, True, True]
        assert of_masked.tolist() == [False, False, False, False, True, True]


def test_004_36_base_is_measured_once_per_layer() -> None:
    weights = {"a": torch.tensor([[1.0, -3.0]]), "b": torch.tensor([[2.0, 2.0]])}
    rule = Splicing(s={"a": 2.0, "*": 1.0})
    now = moment(weights)
    now = replace(now, memory=rule.remembered(now))
    assert [float(rule.base(now, name)) for name in "ab"] == [2.0 + 2.0 * 1.0, 2.0]
    later = replace(now, weights={name: 100 * weight for name, weight in weights.items()})
    assert [float(rule.base(later, name)) for name in "ab"] == [4.0, 2.0]


def layers(**names: tuple[str, ...]) -> tuple[Layer, ...]:
    """Of four weights each, by name and with other names."""
    return tuple(Layer(name.replace("_", "."), aliases, (4,), 4, 1, nn.Linear) for name, aliases in names.items())


def test_004_36_every_layer_has_its_s_before_the_training(caplog: pytest.LogCaptureFixture) -> None:
    known = layers(a_weight=(), b_weight=("tied.weight",))
    Splicing(s={"a": 1.0, "tied": 2.0}).require_layers(known, 1000)  # a tied weight by its other name
    Splicing(s={"a": 1.0, "*": 2.0}).require_layers(known, 1000)
    with pytest.raises(UnknownName, match=r"Unknown layer in Splicing's s 'tide'\. Did you mean 'tied'"):
        Splicing(s={"tide": 3.0, "*": 0.0}).require_layers(known, 1000)
    with pytest.raises(UnknownName, match=r"none of 'a' means 'b\.weight'"):
        Splicing(s={"a": 1.0}).require_layers(known, 1000)
    assert not caplog.text
    Splicing(s={"*": 1.0, "a": 2.0}).require_layers(known, 1000)
    assert "s of 'a' is not used" in caplog.text


def test_the_s_of_a_tied_weight_by_its_other_name() -> None:
    rule = Splicing(s={"tied": 2.0})
    now = replace(moment({"b.weight": torch.tensor([1.0, 3.0])}), layers=layers(b_weight=("tied.weight",)))
    now = replace(now, memory=rule.remembered(now))
    assert float(rule.base(now, "b.weight")) == 2.0 + 2.0 * 1.0


@pytest.mark.parametrize("alike", [torch.full((6,), 0.1), torch.tensor([0.1, -0.1, 0.1]), torch.zeros(4)], ids=str)
def test_weights_that_are_all_alike_have_no_spread_to_compete_by(alike: Tensor) -> None:
    now = moment({"a": torch.tensor([1.0, 2.0, 3.0]), "b": alike})
    with pytest.raises(SparsewoodError, match=r"weights of 'b' are all of one size.*exclude"):
        Splicing(sparsity=0.5).first(now)
    assert Splicing(s=1.0).first(now)["b"].all()  # base = mean, whatever the others are


@pytest.mark.parametrize(
    ("rule", "at"),
    [
        (StraightThrough(Cubic(0.9), every=1), r"sparsity 0\.8\d* at update 2 of 3"),
        (Movement(Cubic(0.9), every=1), r"sparsity 0\.8\d* at update 2 of 3"),
        (StraightThrough(Linear(0.9), PerLayer(ERK()), every=1), r"sparsity 0\.9 at update 3 of 3"),
        (Splicing(sparsity=0.9, every=1), r"sparsity 0\.8\d* at update 2 of 3"),
        (StraightThrough(Cubic(1.0), every=1), r"sparsity 0\.9\d* at update 2 of 3"),
        (RigL(0.9), r"sparsity 0\.9 would keep"),
        (SET(0.9, allocation=Uniform()), r"sparsity 0\.9 would keep"),
    ],
    ids=str,
)
def test_what_cannot_be_reached_is_found_before_the_training(rule: Dynamics, at: str) -> None:
    """Each of two layers keeps one of its four weights, unless all that there is shall go."""
    with pytest.raises(SparsewoodError, match=rf"{type(rule).__name__}.*: {at}.* [01] of 8 weights.*2 must stay"):
        rule.require_layers(layers(a=(), b=()), 4)


def test_what_can_be_reached_is_not_refused() -> None:
    for rule in (StraightThrough(Cubic(0.75)), SET(1.0), RigL(0.75), Splicing(sparsity=0.75), Splicing(s=1e9)):
        rule.require_layers(layers(a=(), b=()), 400)
    Movement(Linear(1.0), every=1, stop=0.5).require_layers(layers(a=(), b=()), 2)  # one update: all that there is


def test_004_36_no_layer_is_emptied() -> None:
    mask = spliced(Splicing(s=0.0), torch.tensor([0.1, -0.3, 0.2]), torch.ones(3).bool(), 100.0)
    assert mask.tolist() == [False, True, False]


def test_004_36_the_probability_of_an_update_decays() -> None:
    weights = {"w": torch.tensor([1.0, 100.0])}
    memory = {"mean": {"w": torch.tensor(10.0)}, "deviation": {"w": torch.tensor(0.0)}}
    rule, happened = Splicing(s=0.0, decay=1.0), 0
    for seed in range(400):
        now = moment(weights, step=3, memory=memory, generator=torch.Generator().manual_seed(seed))
        happened += not rule.update(now)["w"][0]
    assert 60 < happened < 140  # binomial(400, 1 / 4)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.floats(0.1, 0.9))
def test_004_36_a_target_is_hysteresis_with_another_s(seed: int, sparsity: float) -> None:
    """The masks that hit the target are those of the rule with an s that lies between two scores."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(4, 6, generator=generator), "b": 3 * torch.randn(5, 4, generator=generator)}
    masks = {name: torch.rand(w.shape, generator=generator) > 0.5 for name, w in weights.items()}
    rule = Splicing(sparsity=sparsity, every=10, stop=1.0)
    now = moment(weights, step=1, steps=10, masks=masks)  # the only update
    now = replace(now, memory=rule.remembered(now))
    found = rule.update(now)
    removed = sum(int((~mask).sum()) for mask in found.values())
    assert removed == round(sparsity * 44)
    low, high = -math.inf, math.inf
    for name, weight in weights.items():
        u = weight.abs().double() / torch.where(masks[name], 0.9, 1.1).double()
        s = (u - now.memory["mean"][name]) / now.memory["deviation"][name]
        low = max([low, *s[~found[name]].tolist()])
        high = min([high, *s[found[name]].tolist()])
    if low < high and all(mask.sum() > 1 for mask in found.values()):
        by_s = Splicing(s=(low + high) / 2).update(now)
        assert all(torch.equal(by_s[name], found[name]) for name in found)


# ---------------------------------------------------------------- scores


def test_straight_through_keeps_the_largest_exactly() -> None:
    weights = {"a": torch.tensor([1.0, -4.0, 2.0, 2.0]), "b": torch.tensor([2.0, 0.5])}
    rule = StraightThrough(Cubic(0.5), every=10, stop=1.0)
    masks = rule.update(moment(weights, step=1))
    # Of four weights of size 2 the first ones stay, but every layer keeps one.
    assert masks["a"].tolist() == [False, True, True, False]
    assert masks["b"].tolist() == [True, False]


def test_movement_sums_minus_weight_times_gradient() -> None:
    rule = Movement(Cubic(0.5), every=10, stop=1.0)
    weights = {"w": torch.tensor([2.0, 2.0, -1.0, 0.1])}
    now = moment(weights)
    now = replace(now, memory=rule.remembered(now), gradients={"w": torch.tensor([1.0, -1.0, 1.0, 0.0])})
    for _ in range(2):
        now = replace(now, memory=rule.observe(now))
    assert now.memory["score"]["w"].tolist() == [-4.0, 4.0, 2.0, 0.0]
    assert rule.update(now)["w"].tolist() == [False, True, True, False]


# ---------------------------------------------------------------- drop and grow


def test_rigl_drops_the_smallest_and_grows_the_steepest() -> None:
    rule = RigL(0.5, drop=0.5, stop=1.0)
    weights = {"w": torch.tensor([[5.0, 0.1, 3.0, 0.0, 0.0, 0.0, 4.0, 0.0]])}
    mask = torch.tensor([[True, True, True, False, False, False, True, False]])
    gradient = torch.tensor([[9.0, 0.0, 9.0, -3.0, 1.0, 2.0, 9.0, 0.0]])
    now = moment(weights, step=0, masks={"w": mask}, gradients={"w": gradient})
    assert rule.share(0, 10) == 0.5  # two of four
    kept = rule.update(now)["w"]
    # 0.1 and 3.0 go; of the six candidates (they among them) |gradient| 9 and 3 are the largest.
    assert kept.tolist() == [[True, False, True, True, False, False, True, False]]


def test_rigl_share_is_a_cosine() -> None:
    rule = RigL(0.9, drop=0.3, stop=0.5)
    assert [round(rule.share(step, 100), 6) for step in (0, 25, 50, 99)] == [0.3, 0.15, 0.0, 0.0]


@pytest.mark.parametrize("rule", [SET(0.8), RigL(0.8), SET(0.8, allocation=Uniform()), RigL(0.8, allocation=Uniform())])
def test_counts_per_layer_never_change(rule: SET | RigL) -> None:
    weights = {"a": torch.randn(30, 40), "b": torch.randn(10, 30), "c": torch.randn(4, 10)}
    now = moment(weights)
    masks = rule.first(now)
    wanted = {name: int(mask.sum()) for name, mask in masks.items()}
    assert sum(wanted.values()) == round(0.2 * 1540)
    if rule.allocation == ERK():  # denser where there are few: proportional to the sum of sides, or full
        assert wanted["c"] / 40 > wanted["b"] / 300 > wanted["a"] / 1200
    changed = False
    for step in range(1, 7):
        gradients = {name: torch.randn(weight.shape) for name, weight in weights.items()}
        generator = torch.Generator().manual_seed(step)
        now = moment(weights, step=step, masks=masks, gradients=gradients, generator=generator)
        new = rule.update(now)
        changed |= any(not torch.equal(new[name], masks[name]) for name in new)
        masks = new
        assert {name: int(mask.sum()) for name, mask in masks.items()} == wanted
    assert changed


def test_set_grows_at_random_but_the_same_for_a_seed() -> None:
    weights = {"a": torch.randn(20, 20)}
    masks = {"a": torch.rand(20, 20) > 0.5}
    by_seed = [
        SET(0.5).update(moment(weights, masks=masks, generator=torch.Generator().manual_seed(seed)))["a"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(by_seed[0], by_seed[1])
    assert not torch.equal(by_seed[0], by_seed[2])


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="NaN or infinite"):
        StraightThrough(Cubic(0.5), Everywhere()).update(moment({"w": torch.tensor([1.0, math.nan])}))
