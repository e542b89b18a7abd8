"""Whole units by masks: exact numbers, both ends, nothing revived, silence, and what is recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.allocation import LAMP, Everywhere, Isomorphic, PerLayer, PerType
from sparsewood.allocation.scopes import Scope
from sparsewood.criteria import LpNorm, Magnitude, Random
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import Coupled
from sparsewood.masks import apply_masks
from sparsewood.pruning import Pruning
from sparsewood.schedules import Levels, OneShot
from sparsewood.shrinking.unit_masks import Select, choose_units, prune_units, removed_units, units_left
from sparsewood.structure import Structure
from sparsewood.types import Count, Masks, Remaining, Sparsity, Threshold
from sparsewood.unit_criteria import MeanReplacement

SCOPES: list[Scope] = [Everywhere(), PerLayer(), PerLayer(LAMP()), PerType(), Isomorphic()]


class Given:
    """Scores of units that are written down."""

    def __init__(self, scores: Mapping[str, list[float]]) -> None:
        self.found = scores

    def __call__(self, model: nn.Module, structure: Structure, **_: Any) -> dict[str, Tensor]:
        del model, structure
        return {name: torch.tensor(one, dtype=torch.float64) for name, one in self.found.items()}


def dense(*widths: int) -> nn.Sequential:
    """Linear layers; the groups are called 0, 2, 4 ..."""
    torch.default_generator.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def left(structure: Structure, masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: np.flatnonzero(alive).tolist() for name, alive in units_left(structure, masks).items()}


def gone(structure: Structure, masks: Mapping[str, Tensor]) -> int:
    return sum(int((~alive).sum()) for alive in units_left(structure, masks).values())


NET = dense(2, 4, 5, 3)
INPUTS = torch.ones(1, 2)
STRUCTURE = sw.trace(NET, INPUTS)
SCORES = {"0": [0.4, 0.1, 0.8, 0.3], "2": [0.9, 0.2, 0.7, 0.6, 0.5]}


def chosen(sparsity: Any, **options: Any) -> dict[str, list[int]]:
    masks = prune_units(NET, INPUTS, Given(SCORES), sparsity, structure=STRUCTURE, **options)
    return left(STRUCTURE, masks)


# ---------------------------------------------------------------- which go


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("lowest", {"0": [0, 2], "2": [0, 2, 3, 4]}),  # without .1 .2 .3
        ("highest", {"0": [0, 1, 3], "2": [1, 3, 4]}),  # without .9 .8 .7
        ("hybrid", {"0": [0, 2, 3], "2": [2, 3, 4]}),  # without .1 .9 .2
    ],
)
def test_three_of_nine(select: Select, expected: dict[str, list[int]]) -> None:
    """[000-04] By hand."""
    assert chosen(3, select=select) == expected


def test_hybrid_in_every_pool() -> None:
    """[000-04] Four go: two of each layer, one from each end of it."""
    assert chosen(4, select="hybrid", scope=PerLayer()) == {"0": [0, 3], "2": [2, 3, 4]}


@given(st.lists(st.integers(0, 6), min_size=9, max_size=9), st.integers(0, 7))
def test_both_ends_are_disjoint_and_exact(scores: list[int], count: int) -> None:
    """[000-04] ceil(n / 2) lowest and floor(n / 2) highest, ties included, where no floor stands in the way."""
    given_scores = Given({"0": [float(s) for s in scores[:4]], "2": [float(s) for s in scores[4:]]})
    logging.disable(logging.WARNING)
    try:
        masks = prune_units(NET, INPUTS, given_scores, count, select="hybrid", structure=STRUCTURE)
    finally:
        logging.disable(logging.NOTSET)
    alive = [bool(unit) for one in units_left(STRUCTURE, masks).values() for unit in one]
    assert alive.count(False) == count
    order = sorted(range(9), key=lambda j: (scores[j], -j))
    expected = set(order[: -(-count // 2)]) | set(order[9 - count // 2 :])
    removed = {j for j in range(9) if not alive[j]}
    emptied = {0, 1, 2, 3} <= expected or {4, 5, 6, 7, 8} <= expected
    assert removed == expected or emptied


@given(
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
    st.integers(0, 7),
    st.sampled_from(["lowest", "highest", "hybrid"]),
    st.sampled_from(SCOPES[:2]),
)
def test_exact_deterministic_and_never_empty(scores: list[int], count: int, select: Select, scope: Scope) -> None:
    """[000-04] [7.9] [7.11] Whatever ties there are."""
    given_scores = Given({"0": [float(s) for s in scores[:4]], "2": [float(s) for s in scores[4:]]})
    logging.disable(logging.WARNING)
    try:
        first, second = (
            prune_units(NET, INPUTS, given_scores, count, select=select, scope=scope, structure=STRUCTURE)
            for _ in range(2)
        )
    finally:
        logging.disable(logging.NOTSET)
    assert gone(STRUCTURE, first) == count
    assert first == second
    assert all(alive.any() for alive in units_left(STRUCTURE, first).values())


def test_ties_leave_the_lower_index() -> None:
    """[000-04] For either end."""
    flat = Given({"0": [1.0, 1.0, 2.0, 2.0], "2": [1.5, 1.5, 1.5, 1.6, 1.4]})
    low, high = (
        left(STRUCTURE, prune_units(NET, INPUTS, flat, 1, select=select, structure=STRUCTURE))
        for select in ("lowest", "highest")
    )
    assert low["0"] == [0, 2, 3]
    assert high["0"] == [0, 1, 2]


def test_floors_hold_where_all_low_scores_are_in_one_layer() -> None:
    """[000-04] [7.11] The original emptied such a layer."""
    scores = Given({"0": [0.1, 0.2, 0.3, 0.4], "2": [1.0, 1.1, 1.2, 1.3, 1.4]})
    masks = prune_units(NET, INPUTS, scores, 5, structure=STRUCTURE, min_units=2)
    assert left(STRUCTURE, masks) == {"0": [2, 3], "2": [3, 4]}
    with pytest.raises(SparsewoodError, match="At most 5 of 9 units"):
        prune_units(NET, INPUTS, scores, 6, structure=STRUCTURE, min_units=2)


def test_include_and_protect() -> None:
    assert chosen(2, include="0") == {"0": [0, 2], "2": [0, 1, 2, 3, 4]}
    assert chosen(2, protect="0.weight") == {"0": [0, 1, 2, 3], "2": [0, 2, 3]}
    with pytest.raises(SparsewoodError, match="means no unit that can be removed"):
        chosen(2, include="4")
    with pytest.raises(UnknownName, match="9"):
        chosen(2, include="9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "select must be one of lowest, highest, hybrid"),
        ({"select": "highest", "sparsity": Threshold(0.3)}, "select must be 'lowest'"),
        ({"min_units": 0}, "min_units must be a whole number >= 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        chosen(options.pop("sparsity", 2), **options)


def test_thresholds_count_what_is_left() -> None:
    masks = prune_units(NET, INPUTS, Given(SCORES), Threshold(0.35), structure=STRUCTURE)
    assert left(STRUCTURE, masks) == {"0": [0, 2], "2": [0, 2, 3, 4]}
    again = prune_units(NET, INPUTS, Given(SCORES), Threshold(0.35), structure=STRUCTURE, masks=masks)
    assert again == masks


# ---------------------------------------------------------------- over time


@pytest.mark.parametrize("scope", SCOPES, ids=str)
@pytest.mark.parametrize("select", ["lowest", "highest", "hybrid"])
def test_what_is_gone_stays_gone(scope: Scope, select: Select) -> None:
    """[000-04] [7.10] Fresh scores in every round, totals and shares of what is left."""
    masks, before = Masks({}), 0
    for number, (amount, total) in enumerate([(Count(2), 2), (Sparsity(4 / 9), 4), (Remaining(0.4), 6), (Count(6), 6)]):
        generator = torch.Generator().manual_seed(number)
        earlier, masks = masks, prune_units(
            NET, INPUTS, Random(), amount, scope=scope, select=select, masks=masks, structure=STRUCTURE,
            generator=generator,
        )  # fmt: skip
        assert gone(STRUCTURE, masks) == total >= before
        assert all(not bool((masks[name] & ~mask).any()) for name, mask in earlier.items())
        before = total


def test_totals_that_fall_are_refused() -> None:
    """[7.10] Nothing comes back."""
    masks = prune_units(NET, INPUTS, Given(SCORES), 4, structure=STRUCTURE)
    with pytest.raises(SparsewoodError, match="have already removed 4"):
        prune_units(NET, INPUTS, Given(SCORES), 3, structure=STRUCTURE, masks=masks)


def test_units_that_were_emptied_elsewhere_stay_so() -> None:
    """A group of which masks left nothing is held."""
    nothing = {"0.weight": torch.zeros(4, 2).bool(), "0.bias": torch.zeros(4).bool()}
    masks = prune_units(NET, INPUTS, Given(SCORES), 2, structure=STRUCTURE, masks=nothing)
    assert left(STRUCTURE, masks) == {"0": [], "2": [0, 2, 3]}


def test_masks_of_single_weights_go_on() -> None:
    """Where a unit keeps any entry, it is alive; scores see the masked weights, and the model is as before."""
    net = dense(2, 2, 1)
    structure = sw.trace(net, INPUTS)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[9.0, 1.0], [2.0, 2.0]]))
        net[0].bias.zero_()
        net[2].weight.fill_(1.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    versions = [parameter._version for parameter in net.parameters()]
    single = Masks({"0.weight": torch.tensor([[False, True], [True, True]])})
    masks = prune_units(net, INPUTS, Magnitude(), 1, structure=structure, masks=single)
    assert masks["0.weight"].tolist() == [[False, False], [True, True]]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    prune_units(net, INPUTS, Magnitude(), 1, structure=structure)
    assert [parameter._version for parameter in net.parameters()][1:] == versions[1:]


LEVELS = [5.0, 9.75, 14.26, 18.55, 22.62, 26.49, 30.17, 33.66, 36.98, 40.13, 43.12, 45.96, 48.67, 51.23, 53.67, 55.99,
          58.19, 60.28]  # fmt: skip


def test_eighteen_levels_of_five_percent() -> None:
    """[000-05] The golden list, and every level within one unit of it, where the original drifted away by 0.7 %."""
    plan = Levels.compounded(5)(18)
    assert [round(100 * event.amount.fraction, 2) for event in plan] == LEVELS
    net, masks = dense(2, 40, 97, 3), Masks({})
    structure = sw.trace(net, INPUTS)
    for event, nominal in zip(plan, LEVELS, strict=True):
        masks = prune_units(net, INPUTS, Random(), event.amount, masks=masks, structure=structure)
        assert abs(gone(structure, masks) - nominal / 100 * 137) <= 1


# ---------------------------------------------------------------- silence


def test_masked_units_give_zero_and_can_be_removed(network: tuple[nn.Module, Any]) -> None:
    """[000-09] [7.2] Also behind BatchNorm and shortcuts; what shrink removes then is what was masked."""
    model, inputs = network
    structure = sw.trace(model, inputs)
    masks = prune_units(model, inputs, LpNorm(1), 0.4, structure=structure)
    apply_masks(model, masks)
    shrunk = sw.shrink(model, inputs, masks=masks, structure=structure)
    assert shrunk.report.removed == gone(structure, masks)


def test_a_pruned_channel_is_silent_behind_batchnorm_and_shortcut(conv: tuple[nn.Module, Tensor]) -> None:
    """[000-09] [7.2] The original left ReLU(beta - gamma mu / sigma), and the shortcut filled the channel again."""
    model, inputs = conv
    structure = sw.trace(model, inputs)
    masks = prune_units(model, inputs, Random(), 9, structure=structure)
    apply_masks(model, masks)
    alive = units_left(structure, masks)
    for group in structure.prunable:
        for tap in group.taps:
            seen: list[Tensor] = []
            module = model.get_submodule(tap.module)
            hook = module.register_forward_hook(
                lambda _, given, made, tap=tap, seen=seen: seen.append(made if tap.at == "output" else given[tap.index])
            )
            try:
                model(torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
            finally:
                hook.remove()
            silent = np.flatnonzero((tap.owner >= 0) & ~alive[group.name][tap.owner])
            assert len(silent)
            values = seen[tap.call].movedim(tap.axis, 0)
            assert not values[torch.from_numpy(silent)].any()


# ---------------------------------------------------------------- what is recorded


@pytest.mark.parametrize("criterion", [Random(), LpNorm(1)], ids=str)
def test_what_is_recorded_is_what_is_zero(conv: tuple[nn.Module, Tensor], criterion: Any) -> None:
    """[000-06] [7.3] Level by level, recorded indices are the zero slices of the masks."""
    model, inputs = conv
    structure, masks = sw.trace(model, inputs), Masks({})
    total: dict[str, set[int]] = {}
    for count in (3, 7, 12):
        before = masks
        masks = prune_units(model, inputs, criterion, count, masks=masks, structure=structure)
        for layer, numbers in removed_units(structure, masks, before).items():
            assert numbers == sorted(numbers)
            assert not total.setdefault(layer, set()) & set(numbers)
            total[layer] |= set(numbers)
        for layer, numbers in total.items():
            zero = ~masks[f"{layer}.weight"].flatten(1).any(1)
            assert set(zero.nonzero().flatten().tolist()) == numbers
    assert removed_units(structure, masks, masks) == {}
    assert {name for name, mask in masks.items() if name.endswith("weight") and mask.dim() > 1} >= {
        f"{layer}.weight" for layer in total
    }


def test_random_is_the_same_for_the_same_seed() -> None:
    """[000-06] [7.24]"""
    one, same, other = (
        prune_units(NET, INPUTS, Random(), 4, structure=STRUCTURE, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert one == same != other


def test_random_takes_from_every_layer_by_its_size() -> None:
    """[000-06] Chi-square of 300 draws of 10 of 60 units over layers of 10, 20 and 30; 1 % bound for 2 degrees."""
    net = dense(2, 10, 20, 30, 1)
    structure, counts = sw.trace(net, INPUTS), dict.fromkeys(("0", "2", "4"), 0)
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        masks = prune_units(net, INPUTS, Random(), 10, structure=structure, generator=generator)
        for layer, numbers in removed_units(structure, masks).items():
            counts[layer] += len(numbers)
    expected = {"0": 500.0, "2": 1000.0, "4": 1500.0}
    assert sum(counts.values()) == 3000
    assert sum((counts[name] - expected[name]) ** 2 / expected[name] for name in counts) < 9.21


def test_a_criterion_that_reads_twice_sees_the_same_few_batches_of_a_generator() -> None:
    torch.manual_seed(0)
    net = dense(2, 4, 3)
    data = [(torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(3)]
    pruning = Pruning(schedule=OneShot(0.5), criterion=MeanReplacement(), granularity=Coupled(), score_batches=2)
    structure = sw.trace(net, INPUTS)
    loss = nn.functional.cross_entropy
    found = choose_units(pruning, net, structure, pruning.plan[0], {}, data=iter(data), loss=loss)
    directly = prune_units(net, INPUTS, MeanReplacement(), 0.5, data=data[:2], loss=loss)
    assert left(structure, found) == left(structure, directly)
