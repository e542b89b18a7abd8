"""Every scope keeps exactly what is asked; known results of published procedures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood import allocation as module
from sparsewood import criteria
from sparsewood.allocation import ERK, LAMP, Everywhere, Isomorphic, Named, PerLayer, PerRow, PerType, Uniform
from sparsewood.allocation.budgets import Layer, total_kept
from sparsewood.allocation.scopes import Request, Scope
from sparsewood.criteria import Magnitude, Random
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import Block, Channel, Element, Filter, Granularity, Kernel, Vector, to_units
from sparsewood.masks import apply_masks
from sparsewood.pruning import prune, score
from sparsewood.testing import ARCHITECTURES, Architecture, check_allocation, check_scope, counting_linear
from sparsewood.testing.checks.shared import count_units, units_of
from sparsewood.testing.strategies import networks
from sparsewood.types import Amount, Compression, Count, Density, Masks, Remaining, Sparsity

SCOPES: list[Scope] = [
    Everywhere(),
    PerLayer(),
    PerLayer(ERK()),
    PerLayer(LAMP()),
    PerType(),
    Isomorphic(),
    PerRow(),
]
OWN: list[Scope] = [Named({"*": None}), PerLayer({"*": None}), PerType({nn.Module: None})]


def matrices(*shapes: tuple[int, int], seed: int = 0) -> nn.Sequential:
    """Linear layers without bias, with random weights; they need not fit together."""
    model = nn.Sequential(*(nn.Linear(inputs, outputs, bias=False) for outputs, inputs in shapes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def nonzero(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


# ---------------------------------------------------------------- contracts


@pytest.mark.parametrize("scope", [*SCOPES, *OWN], ids=str)
def test_scope_contract(scope: Scope) -> None:
    check_scope(scope)


def test_every_public_allocation_has_been_checked() -> None:
    checked = {type(scope).__name__ for scope in [*SCOPES, *OWN]} | {"Uniform", "ERK", "LAMP"}
    assert checked == set(module.__all__)


@pytest.mark.parametrize("allocation", [Uniform(), ERK(), LAMP()], ids=str)
def test_allocation_contract(allocation: object) -> None:
    check_allocation(allocation)


# ---------------------------------------------------------------- exact totals


@given(
    networks(),
    st.sampled_from([*SCOPES, *OWN]),
    st.sampled_from([Element(), Filter(), Channel(), Kernel()]),
    st.sampled_from([Count, Sparsity, Density, Remaining]),
    st.floats(0, 0.9),
)
def test_any_scope_granularity_and_amount(
    network: tuple[nn.Module, Tensor], scope: Scope, granularity: Granularity, kind: type, share: float
) -> None:
    """[002-01] [001-02] The total is exact, or the request is refused."""
    model, _ = network
    total, _ = count_units(model, prune(model, Magnitude(), 0, granularity=granularity), granularity)
    amount: Amount = Count(int(share * total)) if kind is Count else kind(share)
    removed = int(share * total) if kind is Count else round(share * total)
    expected = round(share * total) if kind is Density else total - removed
    own = not scope.shares_total and isinstance(scope, PerLayer)  # rounds in each layer
    try:
        masks = prune(model, Magnitude(), amount, scope=scope, granularity=granularity)
    except SparsewoodError as error:
        message = str(error)
        assert "must stay" in message or (own and kind is Count)
        return
    if not own:
        assert count_units(model, masks, granularity)[1] == expected
    least = min(kept for _, kept in units_of(model, masks, granularity))
    assert least >= (1 if expected and not own else 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("name", criteria.__all__)
@pytest.mark.parametrize("granularity", [Element(), Filter()], ids=str)
def test_any_criterion_on_any_architecture(architecture: Architecture, name: str, granularity: Granularity) -> None:
    """[002-01] [7.21] Structure x scoring x scope."""
    model = architecture.build()
    data = [(architecture.inputs(3), torch.arange(3))]
    if name == "BatchNormScale" and not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        with pytest.raises(SparsewoodError, match="Nothing to prune"):
            prune(model, criteria.BatchNormScale(), 0.5)
        return
    unseen = {"attention": ["attention"], "recurrent": ["lstm"], "raw_parameter": ["weight"]}
    exclude = unseen.get(architecture.name) if name == "ActivationMagnitude" else None
    include = "head" if name == "ActivationMagnitude" and architecture.name in {"recurrent", "raw_parameter"} else None
    for scope in (Everywhere(), PerLayer(ERK()), PerRow()):
        masks = prune(
            model,
            getattr(criteria, name)(),
            0.5,
            scope=scope,
            granularity=granularity,
            data=data,
            loss=nn.functional.cross_entropy,
            include=include,
            exclude=None if include else exclude,
        )
        total, kept = count_units(model, masks, granularity)
        assert kept == total - round(0.5 * total)


@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from(SCOPES[:5]))
def test_min_units(floor: int, seed: int, scope: Scope) -> None:
    """[7.11] [000-04] A floor in every layer, and still the exact total."""
    model = matrices((2, 3), (10, 10), (3, 3), seed=seed)
    masks = prune(model, Magnitude(), Count(97), scope=scope, min_units=floor, protect_classifier=False)
    assert masks.removed == 97
    assert min(nonzero(masks).values()) >= floor


def test_min_units_that_do_not_fit() -> None:
    with pytest.raises(
        SparsewoodError, match=r"would keep 3 of 24 units of 0.weight ... 1.weight .2 parameters.*20 must"
    ):
        prune(matrices((4, 3), (4, 3)), Magnitude(), 21, min_units=10, protect_classifier=False)


@pytest.mark.parametrize("bad", [-1, True, 1.5, None])
def test_bad_min_units(bad: object) -> None:
    with pytest.raises(SparsewoodError, match=rf"min_units must be a whole number >= 0. Got {bad!r}"):
        prune(matrices((4, 3)), Magnitude(), 0.5, min_units=bad)  # type: ignore[arg-type]


def test_extreme_sparsity_leaves_one_weight_in_each_layer() -> None:
    """[7.11] 99.9 % of a net whose layers differ a hundredfold in scale."""
    model = matrices((40, 40), (40, 40), (40, 40))
    model[1].weight.data *= 1e-3
    masks = prune(model, Magnitude(), 0.999, protect_classifier=False)
    assert masks.removed == round(0.999 * 4800)
    assert nonzero(masks)["1.weight"] == 1
    empty = prune(model, Magnitude(), 0.999, protect_classifier=False, min_units=0)
    assert nonzero(empty)["1.weight"] == 0
    assert empty.removed == masks.removed


def test_everything_goes_if_that_is_what_was_asked() -> None:
    for amount in (1.0, Count(12), Density(0.0), Remaining(1.0)):
        assert prune(matrices((4, 3)), Magnitude(), amount).sparsity == 1


# ---------------------------------------------------------------- one scope at a time


def test_everywhere_by_hand() -> None:
    """[002-03] |w|, not w: -8 is the largest."""
    masks = prune(counting_linear(2, 4), Magnitude(), 5)
    assert masks["weight"].tolist() == [[False] * 4, [False, True, True, True]]


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (3, 3), (6, 6)])
def test_counts_per_layer(count: int, expected: int) -> None:
    """[002-04] The n smallest of each layer; n >= size zeroes it."""
    masks = prune(
        matrices((2, 3), (2, 2), (5, 5)),
        Magnitude(),
        scope=PerLayer({"*": count}),
        protect_classifier=False,
    )
    assert [int((~mask).sum()) for mask in masks.values()] == [expected, min(expected, 4), expected]


def test_a_count_beyond_a_layer_does_not_leak_into_later_ones() -> None:
    """[002-04]"""
    masks = prune(matrices((1, 2), (4, 4)), Magnitude(), scope=PerLayer({"*": 5}), protect_classifier=False)
    assert nonzero(masks) == {"0.weight": 0, "1.weight": 11}


def test_uniform_keeps_the_same_share() -> None:
    masks = prune(matrices((10, 10), (20, 10), (30, 10)), Magnitude(), 0.9, scope=PerLayer(), protect_classifier=False)
    assert nonzero(masks) == {"0.weight": 10, "1.weight": 20, "2.weight": 30}


def test_uniform_settles_fractions_by_largest_remainder() -> None:
    """Kept 5 of 3 x 3: 5/3 each, so 2, 2, 1."""
    masks = prune(matrices((1, 3), (1, 3), (1, 3)), Magnitude(), 4, scope=PerLayer(), protect_classifier=False)
    assert list(nonzero(masks).values()) == [2, 2, 1]


def test_erk_by_hand() -> None:
    """Densities in proportion to (n_out + n_in) / (n_out n_in): shares 110, 200, 20 of the weights kept."""
    model = matrices((100, 10), (100, 100), (10, 10))
    masks = prune(model, Magnitude(), 11_100 - 330, scope=PerLayer(ERK()), protect_classifier=False)
    assert list(nonzero(masks).values()) == [110, 200, 20]


def test_erk_caps_a_layer_at_dense() -> None:
    """At twelvefold those counts the third layer, of 100, is dense; 3,860 are shared out as 110 : 200."""
    model = matrices((100, 10), (100, 100), (10, 10))
    keep = 1_340
    masks = prune(model, Magnitude(), 11_100 - keep * 2, scope=PerLayer(ERK()), protect_classifier=False)
    rest = keep * 2 - 100
    expected = [round(rest * 110 / 310), round(rest * 200 / 310), 100]
    assert list(nonzero(masks).values()) == expected


def test_erk_of_convolutions() -> None:
    """(out + in + kh + kw) / (out in kh kw)."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.Conv2d(8, 16, 3, bias=False))
    masks = prune(model, Magnitude(), Density(48 / 1440), scope=PerLayer(ERK()), protect_classifier=False)
    assert list(nonzero(masks).values()) == [18, 30]  # 8+4+3+3 and 16+8+3+3


def test_lamp_shares_are_those_of_the_lamp_criterion() -> None:
    model = matrices((20, 30), (30, 10), (10, 10))
    model[1].weight.data *= 100
    by_share = prune(model, Magnitude(), 0.8, scope=PerLayer(LAMP()), protect_classifier=False)
    by_score = prune(model, criteria.LAMP(), 0.8, scope=Everywhere(), protect_classifier=False)
    assert by_share == by_score
    random = prune(model, Random(), 0.8, scope=PerLayer(LAMP()), protect_classifier=False)
    assert nonzero(random) == nonzero(by_share)
    assert random != by_share


def test_per_type_amounts() -> None:
    """[002-09] Convolutions 20 %, linear layers 40 %."""
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(400, 120), nn.Linear(120, 84))
    masks = prune(model, Magnitude(), scope=PerType({nn.Conv2d: 0.2, nn.Linear: 0.4}), protect_classifier=False)
    conv, linear = 6 * 25 + 16 * 6 * 25, 400 * 120 + 120 * 84
    removed = [int((~mask).sum()) for mask in masks.values()]
    assert removed[0] + removed[1] == round(0.2 * conv)
    assert removed[2] + removed[3] == round(0.4 * linear)
    assert masks == prune(model, Magnitude(), scope=PerType({"Conv2d": 0.2, "Linear": 0.4}), protect_classifier=False)


def test_the_tutorial_by_hand() -> None:
    """[002-09] 50 % of 6 filters by L2: 3 go; 3 smallest biases; global 20 %: 20.00 %."""
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(400, 120), nn.Linear(120, 10))
    filters = prune(model, criteria.LpNorm(2), 0.5, granularity=Filter(), include="0.weight")["0.weight"]
    assert int((~filters).flatten(1).all(1).sum()) == 3
    bias = prune(model, Magnitude(), 3, include="0.bias")
    assert bias.removed == 3
    everywhere = prune(model, Magnitude(), 0.2, protect_classifier=False)
    assert f"{100 * everywhere.sparsity:.2f}" == "20.00"


def test_types_that_are_not_named_stay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2))
    masks = prune(model, Magnitude(), scope=PerType({nn.Linear: 0.5}), protect_classifier=False)
    assert nonzero(masks) == {"0.weight": 36} | {k: v for k, v in nonzero(masks).items() if k != "0.weight"}
    assert masks.removed == 12


def test_type_names_mean_subclasses_like_the_classes_do() -> None:
    model = next(a for a in ARCHITECTURES if a.name == "attention").build()
    by_name = prune(model, Magnitude(), scope=PerType({"Linear": 0.5}))
    assert by_name == prune(model, Magnitude(), scope=PerType({nn.Linear: 0.5}))
    assert not by_name["attention.out_proj.weight"].all()


def test_per_type_shares_out_the_total() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 5), nn.Linear(10, 10), nn.Linear(10, 10))
    masks = prune(model, Magnitude(), 0.25, scope=PerType(), protect_classifier=False)
    assert nonzero(masks)["0.weight"] == 150
    assert masks.removed == 100


@pytest.mark.parametrize("keep", [0, 1, 5, 12, 13, 20])
def test_per_row_equals_brute_force(keep: int) -> None:
    """Every row keeps the same; what remains goes to the rows whose next weight is largest."""
    model = matrices((4, 5))
    weight = model[0].weight.detach().abs()
    level, more = divmod(keep, 4)
    counts = [level] * 4
    following = weight.sort(1, descending=True).values[:, level] if level < 5 else torch.zeros(4)
    for row in following.sort(descending=True, stable=True).indices[:more].tolist():
        counts[row] += 1
    expected = torch.zeros(4, 5, dtype=torch.bool)
    for row, count in enumerate(counts):
        expected[row, weight[row].sort(descending=True, stable=True).indices[:count]] = True
    masks = prune(model, Magnitude(), 20 - keep, scope=PerRow())
    assert torch.equal(masks["0.weight"], expected)


def test_per_row_with_one_unit_in_a_row_compares_the_rows() -> None:
    """Not the first rows: the best."""
    model = matrices((8, 5))
    masks = prune(model, Magnitude(), 0.5, scope=PerRow(), granularity=Filter())
    assert masks == prune(model, Magnitude(), 0.5, scope=PerLayer(), granularity=Filter())


def test_per_row_after_uneven_masks() -> None:
    """A row with fewer left than its share keeps what it has; the others make up for it."""
    model = counting_linear(3, 4)
    earlier = Masks({"weight": torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)})
    masks = prune(model, Magnitude(), 5, scope=PerRow(), masks=earlier)
    assert masks["weight"].sum(1).tolist() == [1, 3, 3]


# ---------------------------------------------------------------- mappings


def test_a_mapping_per_layer() -> None:
    """[001-03] A vector of keep ratios by name; what no key means stays."""
    model = matrices((10, 10), (10, 10), (10, 10), (10, 10))
    masks = prune(
        model, Magnitude(), 0.3, scope=PerLayer({"0": 0.2, "1.weight": None, "2": Count(7)}), protect_classifier=False
    )
    assert nonzero(masks) == {"0.weight": 80, "1.weight": 70, "2.weight": 93, "3.weight": 100}


def test_a_plain_mapping_makes_one_pool_of_each_key() -> None:
    model = matrices((10, 10), (10, 10), (10, 10))
    model[0].weight.data *= 1e-3
    masks = prune(model, Magnitude(), scope={"[01]": 0.5, "2": None}, protect_classifier=False)
    assert nonzero(masks) == {"0.weight": 1, "1.weight": 99, "2.weight": 10}


@pytest.mark.parametrize("turned", [False, True])
def test_names_win_over_patterns_in_any_order(turned: bool) -> None:
    model = nn.ModuleDict({"a": matrices((4, 5), (4, 5)), "b": matrices((4, 5))})
    amounts: dict[str | type[nn.Module], float] = {"*": 0.5, nn.Linear: 0.1, "a": 0.25, "a.1": 0.75, "a.0.weight": 0.0}
    amounts = dict(reversed(amounts.items())) if turned else amounts
    masks = prune(model, Magnitude(), scope=PerLayer(amounts), protect_classifier=False)
    rest = 18 if turned else 10
    assert nonzero(masks) == {"a.0.weight": 20, "a.1.weight": 5, "b.0.weight": rest}


def test_a_key_that_gets_nothing_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = matrices((4, 5), (4, 5))
    with caplog.at_level("WARNING"):
        prune(model, Magnitude(), scope={"*": 0.5, nn.Linear: 0.1}, protect_classifier=False)
    assert "amount for Linear is not used" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        prune(model, Magnitude(), scope=PerType({nn.Module: 0.5, nn.Linear: 0.1}), protect_classifier=False)
    assert "amount for Linear is not used" in caplog.text


@pytest.mark.parametrize("scope", [Named, PerLayer, PerType])
def test_empty_mappings(scope: Callable[[dict[str, float]], Scope]) -> None:
    with pytest.raises(SparsewoodError, match=r"mapping to amounts is empty"):
        prune(matrices((4, 5)), Magnitude(), scope=scope({}))


def test_unknown_names_in_mappings() -> None:
    model = matrices((4, 5), (4, 5))
    with pytest.raises(UnknownName, match=r"Unknown layer or parameter in the mapping of amounts 'conv1'. Known"):
        prune(model, Magnitude(), scope={"conv1": 0.5})
    with pytest.raises(UnknownName, match=r"Unknown layer type 'Conv2d'. Known: 'Linear'"):
        prune(model, Magnitude(), scope=PerType({nn.Conv2d: 0.5}))


def test_a_mapping_that_names_the_classifier_says_so() -> None:
    model = matrices((4, 5), (4, 5))
    with pytest.raises(SparsewoodError, match=r"'1' in the mapping .* 1.weight.*classifier.*protect_classifier=False"):
        prune(model, Magnitude(), scope={"1": 0.5})


@pytest.mark.parametrize("bad", ["global", None, 3, Everywhere])
def test_bad_scopes(bad: object) -> None:
    with pytest.raises(
        SparsewoodError, match=r"scope must be Everywhere\(\), PerLayer\(\), PerType\(\), Isomorphic\(\), PerRow\(\)"
    ):
        prune(matrices((4, 5)), Magnitude(), scope=bad)  # type: ignore[arg-type]


def test_bad_amounts_in_mappings() -> None:
    with pytest.raises(SparsewoodError, match="Got True"):
        prune(matrices((4, 5)), Magnitude(), scope={"0": True})
    with pytest.raises(SparsewoodError, match=r"Compression.* is for the whole model"):
        prune(matrices((4, 5)), Magnitude(), scope={"0": Compression(2)})


# ---------------------------------------------------------------- amounts


@given(st.integers(0, 20), st.floats(0, 1))
def test_budgets(units: int, fraction: float) -> None:
    """[002-02] int -> exactly that many, float -> round(f N), half to even."""
    layer = Layer("w", (units,), (units,), units, 0, nn.Linear)
    assert total_kept(Sparsity(fraction), [layer]) == units - round(fraction * units)
    assert total_kept(Density(fraction), [layer]) == round(fraction * units)
    for n in range(units + 1):
        assert total_kept(Count(n), [layer]) == units - n
    with pytest.raises(SparsewoodError, match=rf"Count\(n={units + 1}\): w has {units} units"):
        total_kept(Count(units + 1), [layer])


def test_sparsity_counts_what_is_gone_remaining_does_not() -> None:
    model = counting_linear(10, 10)
    half = prune(model, Magnitude(), 0.5)
    assert prune(model, Magnitude(), 0.75, masks=half).removed == 75
    assert prune(model, Magnitude(), Remaining(0.5), masks=half).removed == 75
    assert prune(model, Magnitude(), Remaining(0.0), masks=half) == half


def test_asking_for_more_than_is_left() -> None:
    half = prune(counting_linear(10, 10), Magnitude(), 0.5)
    with pytest.raises(SparsewoodError, match=r"would keep 75 of 100 units of weight, but .* already removed 50"):
        prune(counting_linear(10, 10), Magnitude(), 0.25, masks=half)


@pytest.mark.parametrize("ratio", [1, 1.5, 2, 3, 4.7])
@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_compression_counts_the_whole_model(ratio: float, scope: Scope) -> None:
    """[8.2] round(P / ratio) parameters stay, biases, norms and the classifier included."""
    model = next(a for a in ARCHITECTURES if a.name == "conv_norm").build()
    total = sum(parameter.numel() for parameter in model.parameters())
    masks = prune(model, Magnitude(), Compression(ratio), scope=scope)
    assert total - masks.removed == round(total / ratio)


def test_compression_counts_what_masks_of_other_layers_removed() -> None:
    model = matrices((10, 10), (10, 10))
    earlier = Masks({"1.weight": torch.arange(100).reshape(10, 10) < 60})
    masks = prune(model, Magnitude(), Compression(2), masks=earlier)
    assert 200 - masks.removed == 100


def test_compression_of_larger_units_stays_within_the_budget() -> None:
    model = next(a for a in ARCHITECTURES if a.name == "conv_norm").build()
    total = sum(parameter.numel() for parameter in model.parameters())
    masks = prune(model, Magnitude(), Compression(2), granularity=Filter())
    left, largest = total - masks.removed, max(math.prod(mask.shape[1:]) for mask in masks.values())
    assert round(total / 2) - largest < left <= round(total / 2)


def test_compression_that_cannot_be_reached() -> None:
    """The limit it names can be reached."""
    model = matrices((10, 10), (10, 10))
    with pytest.raises(SparsewoodError, match=r"leaves 20 of 200 .*100 are not pruned.*at most 1.98 can be reached"):
        prune(model, Magnitude(), Compression(10))
    assert prune(model, Magnitude(), Compression(1.98)).removed == 200 - round(200 / 1.98)


@pytest.mark.parametrize("scope", OWN, ids=str)
def test_compression_with_amounts_of_ones_own(scope: Scope) -> None:
    with pytest.raises(SparsewoodError, match=r"is for the whole model, but .* has amounts of its own"):
        prune(matrices((10, 10), (10, 10)), Magnitude(), Compression(2), scope=scope, protect_classifier=False)


# ---------------------------------------------------------------- known results


def test_golden_log_of_iterative_magnitude_pruning() -> None:
    """[004-01] A quarter of what remains, in each tensor."""
    model = nn.Sequential(nn.Linear(4, 1000, bias=False), nn.Linear(1000, 1, bias=False))
    log, masks = [], None
    for _ in range(7):
        masks = prune(
            model,
            Magnitude(),
            scope=PerLayer({"*": Remaining(0.25)}),
            masks=masks,
            protect_classifier=False,
        )
        apply_masks(model, masks)
        log.append(sum(int(parameter.count_nonzero()) for parameter in model.parameters()))
    assert log == [3750, 2812, 2110, 1582, 1187, 890, 668]
    assert [f"{count / 50:.2f}" for count in log] == ["75.00", "56.24", "42.20", "31.64", "23.74", "17.80", "13.36"]


@pytest.mark.parametrize("scope", [Everywhere(), PerLayer()], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.8, 1.0])
def test_convolutions_only_in_one_shot(scope: Scope, sparsity: float) -> None:
    """[004-02] No one more, and 100 % is in range."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    masks = prune(model, Magnitude(), sparsity, scope=scope, include=nn.Conv2d)
    assert list(masks) == ["0.weight", "1.weight"]
    assert masks.removed == round(sparsity * masks.total)


@pytest.mark.parametrize("axes", [(0, 2), (0, 1, 2)])
def test_vector_pruning(axes: tuple[int, ...]) -> None:
    """[004-03] Sums of |w| over the other axes; the lowest rows of the whole net go."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    sums = [layer.weight.detach().abs().sum([d for d in range(4) if d not in axes]) for layer in model]
    removed = round(0.8 * sum(s.numel() for s in sums))
    threshold = torch.cat([s.reshape(-1) for s in sums]).sort().values[removed]
    masks = prune(model, Magnitude(), 0.8, granularity=Vector(axes), protect_classifier=False, min_units=0)
    for s, mask in zip(sums, masks.values(), strict=True):
        shape = [size if d in axes else 1 for d, size in enumerate(mask.shape)]
        assert torch.equal(mask, (s >= threshold).reshape(shape).expand(mask.shape))


def resnet50_convolutions() -> list[tuple[int, int, int]]:
    """(out, in, kernel) of the 53 convolutions of ResNet-50 with a 3 x 3 stem, as used for 32 x 32 images."""
    shapes, inputs = [(64, 3, 3)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1), (width, width, 3), (4 * width, width, 1)]
            shapes += [(4 * width, inputs, 1)] if block == 0 else []
            inputs = 4 * width
    return shapes


def test_vectors_of_resnet50_are_counted() -> None:
    """[004-03] 15,901,248 rows of (out, in, kh), the published number, of the variant for CIFAR."""
    shapes = [(o, i, k, k) for o, i, k in resnet50_convolutions()]
    rows = [math.prod(n // t for n, t in zip(s, Vector((0, 1, 2)).tile(s), strict=True)) for s in shapes]
    assert len(shapes) == 53
    assert sum(rows) == 15_901_248


def test_vector_pruning_of_resnet50() -> None:
    """[004-03] 80 % of the rows: exactly round(0.8 N) = 12,720,998."""
    generator = torch.Generator().manual_seed(0)
    model = nn.ParameterList(torch.randn(o, i, k, k, generator=generator) for o, i, k in resnet50_convolutions())
    masks = prune(model, Magnitude(), 0.8, granularity=Vector((0, 1, 2)), include="*")
    assert 15_901_248 - sum(int(mask[..., 0].sum()) for mask in masks.values()) == 12_720_998


def test_kernels() -> None:
    """[004-04] out x in kernels, half of them."""
    layer = nn.Conv2d(4, 6, 3)
    mask = prune(layer, Magnitude(), 0.5, granularity=Kernel())["weight"].flatten(2)
    assert int(mask.all(2).sum()) == int(mask.any(2).sum()) == 12


def test_blocks() -> None:
    layer = counting_linear(4, 4)
    mask = prune(layer, Magnitude(), 3, granularity=Block((2, 2)))["weight"]
    assert mask.tolist() == [[False] * 4, [False] * 4, [False, False, True, True], [False, False, True, True]]


VECTORS = [
    ([4.0, 3, 2, 1], 0.5, [1, 1, 0, 0]),
    ([0.1, 0.2, -0.5, 0.23, -5.1, 3], 0.35, [1, 1, 0, 1, 0, 1]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 0.5, [[1, 0, 0], [1, 1, 0]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 0.7, [[0, 0, 0], [1, 1, 0]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 0.2, [[1, 1, 0], [1, 1, 1]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 0, [[1, 1, 1], [1, 1, 1]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 2, [[1, 1, 0], [1, 1, 0]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 6, [[0, 0, 0], [0, 0, 0]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 1.0, [[0, 0, 0], [0, 0, 0]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 0.0, [[1, 1, 1], [1, 1, 1]]),
    ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], 0.45, [[1, 0, 0], [1, 1, 0]]),
]


class Signed(criteria.Magnitude.__mro__[1]):  # type: ignore[misc]
    """score = w: scores are then whatever the weights are."""

    pointwise = True

    def __call__(self, inputs: criteria.Inputs) -> Tensor:
        return inputs.weight


@pytest.mark.parametrize(("scores", "amount", "expected"), VECTORS)
def test_masks_from_scores(scores: list[object], amount: float, expected: list[object]) -> None:
    """[003-10] The lowest n, or round(f N), go; the lower index stays; f = 0 and f = 1 are in range.

    The original takes floor(f N), which these vectors cannot tell from the nearest whole number; the last one can.
    """
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(scores))
    mask = prune(model, Signed(), amount, include="weight", min_units=0)["weight"]
    assert mask.int().tolist() == expected


def test_masks_times_values() -> None:
    """[003-11] mask * values, and the inverse."""
    values, mask = torch.arange(1.0, 6.0), torch.tensor([0, 1, 1, 0, 0]).bool()
    layer = nn.Linear(1, 5, bias=False)
    layer.weight.data = values[:, None].clone()
    apply_masks(layer, Masks({"weight": mask[:, None]}))
    assert layer.weight[:, 0].tolist() == (mask * values).tolist() == [0, 2, 3, 0, 0]
    layer.weight.data = values[:, None].clone()
    apply_masks(layer, Masks({"weight": ~mask[:, None]}))
    assert layer.weight[:, 0].tolist() == [1, 0, 0, 4, 5]


def test_random_is_uniform() -> None:
    """[002-07] [000-06] Without replacement, and every position as likely: chi-square over 2,000 draws."""
    layer = nn.Linear(5, 4, bias=False)
    generator = torch.Generator().manual_seed(0)
    removed = torch.zeros(4, 5)
    for _ in range(2000):
        mask = prune(layer, Random(), 0.3, generator=generator)["weight"]
        assert int((~mask).sum()) == 6
        removed += ~mask
    chi_square = float(((removed - 600) ** 2 / 600).sum()) / 0.7  # draws without replacement vary less
    assert 8.9 < chi_square < 36.2  # the central 98 % for 19 degrees of freedom


def test_random_is_seeded() -> None:
    """[7.24] The same seed, the same masks; no seed is a fixed one; the layers differ."""
    model = matrices((20, 20), (20, 20))
    draws = [prune(model, Random(), 0.5, generator=torch.Generator().manual_seed(i)) for i in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]
    state = torch.get_rng_state()
    default = prune(model, Random(), 0.5, protect_classifier=False)
    assert default == prune(model, Random(), 0.5, protect_classifier=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(default["0.weight"], default["1.weight"])


def test_random_units_are_equally_likely_whatever_their_size() -> None:
    """[000-06] Expected share of each layer in proportion to its number of units, not of weights."""
    model = matrices((10, 1000), (10, 1))
    removed = np.zeros(2)
    for seed in range(300):
        masks = prune(
            model,
            Random(),
            0.5,
            granularity=Filter(),
            generator=torch.Generator().manual_seed(seed),
            protect_classifier=False,
            min_units=0,
        )
        removed += [10 - kept for _, kept in units_of(model, masks, Filter())]
    assert abs(removed[0] - removed[1]) < 4 * 2 * math.sqrt(300 * 10 * 0.25 * 10 / 19)  # four standard deviations


def test_global_ties_are_cut_by_position_across_layers() -> None:
    """[7.9]"""
    model = matrices((2, 2), (2, 2))
    for parameter in model.parameters():
        parameter.data.fill_(1)
    masks = prune(model, Magnitude(), 3, protect_classifier=False)
    assert nonzero(masks) == {"0.weight": 4, "1.weight": 1}


# ---------------------------------------------------------------- earlier masks


@given(st.sampled_from([*SCOPES, *OWN]), st.integers(0, 10**6), st.lists(st.floats(0.05, 0.4), min_size=1, max_size=4))
def test_what_is_gone_stays_gone(scope: Scope, seed: int, steps: list[float]) -> None:
    """[7.10] [003-12] Whatever fresh random scores say."""
    model = matrices((6, 7), (5, 8), (4, 4))
    masks = None
    for i, share in enumerate(steps):
        generator = torch.Generator().manual_seed(seed + i)
        after = prune(
            model,
            Random(),
            Remaining(share),
            scope=scope,
            masks=masks,
            generator=generator,
            protect_classifier=False,
        )
        assert masks is None or after & masks == after
        masks = after


def test_masked_weights_count_as_zero_in_units() -> None:
    """Masks need not have been applied: the result is as if they were."""
    model = matrices((8, 6), (6, 8))
    earlier = prune(model, Random(), 0.5, protect_classifier=False)
    for criterion in (Magnitude(), criteria.LpNorm(2), criteria.LAMP()):
        for granularity in (Element(), Filter()):
            options = {"granularity": granularity, "masks": earlier, "protect_classifier": False}
            before = prune(model, criterion, 0.6, **options)  # type: ignore[arg-type]
            applied = matrices((8, 6), (6, 8))
            apply_masks(applied, earlier)
            assert prune(applied, criterion, 0.6, **options) == before  # type: ignore[arg-type]


def test_masks_of_other_parameters_are_handed_on() -> None:
    model = matrices((4, 4), (4, 4))
    other = Masks({"1.weight": torch.eye(4, dtype=torch.bool)})
    masks = prune(model, Magnitude(), 0.5, masks=other)
    assert torch.equal(masks["1.weight"], other["1.weight"])


def test_tied_masks_under_both_names() -> None:
    model = matrices((3, 3), (3, 3), (3, 3))
    model[1].weight = model[0].weight
    a, b = torch.eye(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    masks = prune(model, Magnitude(), 0, masks=None)
    assert list(masks) == ["0.weight"]
    masks = prune(model, Magnitude(), Count(6), masks={"0.weight": a, "1.weight": b})
    assert torch.equal(masks["0.weight"], a)


def test_masks_that_do_not_belong() -> None:
    model = matrices((3, 4))
    with pytest.raises(UnknownName, match=r"Unknown parameter in masks '0.wieght'. Did you mean '0.weight'"):
        prune(model, Magnitude(), masks={"0.wieght": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(SparsewoodError, match=r"mask of '0.weight' has shape \(4, 3\), its parameter \(3, 4\)"):
        prune(model, Magnitude(), masks={"0.weight": torch.ones(4, 3, dtype=torch.bool)})
    with pytest.raises(SparsewoodError, match=r"Mask '0.weight' must be a boolean tensor. Got torch.float32"):
        prune(model, Magnitude(), masks={"0.weight": torch.ones(3, 4)})


def test_pruning_changes_neither_model_nor_arguments() -> None:
    model = matrices((4, 4), (4, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {"0.weight": torch.eye(4, dtype=torch.bool)}
    masks = prune(model, Magnitude(), 14, masks=given)
    masks["0.weight"].zero_()
    assert given["0.weight"].sum() == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_scores_are_those_that_decide() -> None:
    """[7.3] What `score` says is what `prune` does."""
    model = matrices((6, 7), (5, 8))
    for granularity in (Element(), Filter()):
        scores = score(model, Magnitude(), granularity=granularity)
        masks = prune(model, Magnitude(), 0.5, granularity=granularity, protect_classifier=False)
        units_kept = {n: to_units(m.float(), granularity.tile(m.shape), "amax").bool() for n, m in masks.items()}
        kept = torch.cat([scores[n][u] for n, u in units_kept.items()])
        gone = torch.cat([scores[n][~u] for n, u in units_kept.items()])
        assert kept.min() >= gone.max()


def test_erk_counts_units() -> None:
    """With filters n_out + 1 + ... of the unit grid decide, whatever the filters hold."""
    model = nn.Sequential(nn.Conv2d(2, 30, 3), nn.Flatten(), nn.Linear(4, 10))
    masks = prune(model, Magnitude(), Count(20), granularity=Filter(), scope=PerLayer(ERK()), protect_classifier=False)
    # Grids (30, 1, 1, 1) and (10, 1): weights 33 and 11, so 20 kept filters are shared 15 to 5.
    assert [kept for _, kept in units_of(model, masks, Filter())] == [15, 5]


def test_the_allocation_and_the_criterion_of_one_name_are_told_apart() -> None:
    with pytest.raises(SparsewoodError, match=r"sparsewood.allocation.LAMP\(\)"):
        PerLayer(criteria.LAMP())


def test_layers_of_equal_shape_compete_together() -> None:
    """Two of one shape share theirs by score; every shape keeps the same share, however large its scores are."""
    model = matrices((4, 4), (4, 4), (2, 8))
    for layer, scale in zip(model, (1, 100, 10_000), strict=True):
        layer.weight.data.mul_(scale)
    masks = prune(model, Magnitude(), 0.5, scope=Isomorphic(), protect_classifier=False)
    assert nonzero(masks) == {"0.weight": 0 + 1, "1.weight": 15, "2.weight": 8}
    by_type = prune(model, Magnitude(), 0.5, scope=PerType(), protect_classifier=False)
    assert nonzero(by_type) == {"0.weight": 1, "1.weight": 7, "2.weight": 16}


def test_what_is_of_equal_shape_can_be_said() -> None:
    kinds = ("a", "b", "a")
    layers = tuple(Layer(str(i), (), (4,), 4, 1, nn.Linear, kind) for i, kind in enumerate(kinds))
    request = Request(layers, Sparsity(0.5), lambda _: [], lambda _: np.zeros(0), lambda _, __: 0)
    assert [pool.members for pool in Isomorphic().pools(request)] == [(0, 2), (1,)]
    assert [pool.keep for pool in Isomorphic().pools(request)] == [4, 2]


def test_the_closest_name_wins_under_any_alias() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

    masks = prune(Tied(), Magnitude(), scope={"*": 0.25, "b.weight": 0.75})
    assert masks.layer_sparsity() == {"a.weight": 0.75}
