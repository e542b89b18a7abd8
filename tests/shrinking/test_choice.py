"""Which units stay: exact numbers whatever the coupling, scopes, protection, floors, rounding, ties."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.allocation import ERK, LAMP, Everywhere, Isomorphic, Named, PerLayer, PerRow, PerType
from sparsewood.allocation.scopes import Scope
from sparsewood.allocation.select import select
from sparsewood.criteria import BatchNormScale, Criterion, LpNorm, Magnitude, MeanPower, Random, WeightTimesGradient
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.shrinking.choice import Choice, Chooser
from sparsewood.shrinking.pools import Free, best_counts
from sparsewood.structure import Structure
from sparsewood.testing import TOYS, Toy
from sparsewood.types import Compression, Count, Density, Remaining, Sparsity, Threshold

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch.compile, when first called
]

SCOPES: list[Scope] = [Everywhere(), PerLayer(), PerLayer(LAMP()), PerType(), Isomorphic()]


def choose(model: nn.Module, inputs: Any, **options: Any) -> Choice:
    options = {"criterion": Magnitude(), **options}
    return Chooser(model, sw.trace(model, inputs), **options).choose()


def remove(chooser: Chooser, units: int) -> Choice:
    free = chooser.free({})
    return chooser.chosen(free, chooser.counts(free, units), units)


def kept(choice: Choice) -> dict[str, int]:
    return {name: int(stays.sum()) for name, stays in choice.keep.items()}


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers; the groups are called 0, 2, 4 ..."""
    torch.default_generator.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Two blocks of equal shape on a stream of 8, and a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.one, self.one_out = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.two, self.two_out = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.big, self.big_out = nn.Conv2d(8, 20, 1), nn.Conv2d(20, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for inner, outer in ((self.one, self.one_out), (self.two, self.two_out), (self.big, self.big_out)):
            x = x + outer(F.relu(inner(x)))
        return self.head(x.mean((2, 3)))


IMAGE = torch.zeros(1, 3, 6, 6)


def residual(seed: int = 0) -> Residual:
    torch.default_generator.manual_seed(seed)
    return Residual().eval()


# ---------------------------------------------------------------- exact numbers


@pytest.mark.parametrize("toy", TOYS.values(), ids=str)
def test_the_number_asked_for_goes_whatever_is_coupled(toy: Toy) -> None:
    """Units count, not positions: also of gated layers, fused queries, keys and values, and grouped heads."""
    model = toy.build()
    structure = sw.trace(model, toy.inputs())
    for scope in SCOPES:
        chooser = Chooser(model, structure, criterion=Random(), scope=scope)
        if not chooser.scores:
            with pytest.raises(SparsewoodError, match="No unit"):
                chooser.choose()
            return
        free = chooser.free({})
        units = int(free.units.sum())
        for gone in {0, 1, units // 2, units - len(free.groups)} & set(range(units - len(free.groups) + 1)):
            choice = remove(chooser, gone)
            assert choice.asked == choice.removed == gone
            assert sum(int((~stays).sum()) for stays in choice.keep.values()) == gone
            assert all(stays.any() and not stays.all() for stays in choice.keep.values())
            structure.to_masks(choice.keep)


@pytest.mark.parametrize("name", ["attention_fused", "attention_chunks", "grouped_repeated", "grouped_kernel"])
def test_half_of_the_heads_are_half_of_the_heads(name: str) -> None:
    toy = TOYS[name]
    choice = choose(toy.build(), toy.inputs(), amount=0.5)
    assert kept(choice) == {name: 1 for name in choice.keep}
    assert choice.removed == 1


@given(st.sampled_from(SCOPES), st.integers(0, 47))
def test_every_count_is_exact(scope: Scope, gone: int) -> None:
    choice = choose(residual(), IMAGE, scope=scope, amount=gone)
    assert choice.asked == choice.removed == gone


@pytest.mark.parametrize(
    ("amount", "gone"),
    [(0.5, 26), (Sparsity(0.25), 13), (Density(0.25), 39), (Remaining(0.5), 26), (Count(7), 7), (7, 7), (None, 26)],
)
def test_amounts(amount: object, gone: int) -> None:
    """52 units: 8, 12, 12, 20."""
    assert choose(residual(), IMAGE, amount=amount).removed == gone


def test_more_than_there_is_and_less_than_must_stay() -> None:
    with pytest.raises(SparsewoodError, match=r"At most 48 of 52 units .*min_units=1.*52 should"):
        choose(residual(), IMAGE, amount=1.0)
    with pytest.raises(SparsewoodError, match=r"51"):
        choose(residual(), IMAGE, amount=51)
    with pytest.raises(SparsewoodError, match=r"At most 48 of 52 units .*min_units=1.*51 should. Ask for less.$"):
        choose(residual(), IMAGE, scope=PerLayer(), amount=51)
    with pytest.raises(SparsewoodError, match=r"52 units"):
        choose(residual(), IMAGE, amount=53)


def test_compression_is_refused_with_a_hint() -> None:
    with pytest.raises(SparsewoodError, match=r"budget=sw.Params\(0.25\)"):
        choose(residual(), IMAGE, amount=Compression(4))
    with pytest.raises(SparsewoodError, match=r"budget=sw.Params\(0.5\)"):
        choose(residual(), IMAGE, scope=Named({"one": Compression(2), "two": None}))


def test_thresholds_compare_the_scores_of_the_criterion() -> None:
    model = network(2, 3, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1], [2, 2], [3, 3]]))
        model[2].weight.fill_(1)
    choice = choose(model, torch.zeros(1, 2), amount=Threshold(5))
    assert choice.keep["0"].tolist() == [False, True, True]


# ---------------------------------------------------------------- scores


def known(structure_of: nn.Module, criterion: Criterion, **options: Any) -> Mapping[str, Tensor]:
    return Chooser(structure_of, sw.trace(structure_of, torch.zeros(1, 2)), criterion=criterion, **options).raw_scores


def test_a_unit_is_scored_as_the_criterion_scores_any_unit() -> None:
    """Unit 0 holds 3, -4 where it is made and 12 where it is read; biases are no weights."""
    model = network(2, 2, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -4], [0, 1]]))
        model[2].weight.copy_(torch.tensor([[12.0, -2]]))
    scores = {
        Magnitude(): [19, 3],
        LpNorm(1, normalized=True): [19 / 3, 1],
        LpNorm(2): [13, math.sqrt(5)],
        LpNorm(math.inf): [12, 2],
        MeanPower(2): [169 / 3, 5 / 3],
    }
    for criterion, expected in scores.items():
        assert known(model, criterion)["0"].tolist() == pytest.approx(expected)
    assert known(model, Magnitude(), reduction="l2")["0"].tolist() == pytest.approx([13, math.sqrt(5)])
    assert known(model, Magnitude(), part="producers")["0"].tolist() == pytest.approx([7, 1])


def test_random_scores_are_one_draw_for_each_unit_however_large() -> None:
    scores = known(network(2, 500, 500, 1), Random())
    for one in scores.values():
        assert 0.45 < float(one.mean()) < 0.55
        assert float(one.std()) == pytest.approx(1 / math.sqrt(12), abs=0.03)
    assert len(set(scores["0"].tolist()) | set(scores["2"].tolist())) == 1000


def test_data_is_read_once_however_often_it_is_chosen() -> None:
    reads = []

    def batches() -> Any:
        reads.append(1)
        yield torch.ones(4, 2), torch.zeros(4, dtype=torch.long)

    model = network(2, 6, 3)
    chooser = Chooser(
        model, sw.trace(model, torch.zeros(1, 2)), criterion=WeightTimesGradient(), data=batches(), loss=F.cross_entropy
    )
    assert [remove(chooser, n).removed for n in range(5)] == list(range(5))
    assert len(reads) == 1
    assert chooser.scores["0"] is chooser.raw_scores["0"]
    with pytest.raises(SparsewoodError, match="needs data"):
        choose(model, torch.zeros(1, 2), criterion=WeightTimesGradient())


def test_scores_over_their_mean_do_not_depend_on_the_scale_of_a_layer() -> None:
    model, scaled = network(4, 10, 10, 2), network(4, 10, 10, 2)
    with torch.no_grad():
        for layer in (scaled[0], scaled[2], scaled[4]):
            layer.weight.mul_(1000.0 if layer is scaled[4] else 1.0)
    example = torch.zeros(1, 4)
    assert set(kept(choose(model, example))) == {"0", "2"}
    assert kept(choose(scaled, example, normalize=False, amount=9)) == {"0": 1}, "the one with large weights is whole"
    assert set(kept(choose(scaled, example, amount=9))) == {"0", "2"}


def test_equal_scores_are_decided_by_position(caplog: pytest.LogCaptureFixture) -> None:
    model = network(2, 6, 1)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    with caplog.at_level(logging.WARNING):
        chooser = Chooser(model, sw.trace(model, torch.zeros(1, 2)), criterion=Magnitude())
        assert [remove(chooser, n).keep["0"].tolist() for n in (1, 3)] == [
            [True] * 5 + [False],
            [True] * 3 + [False] * 3,
        ]
    assert [r.message for r in caplog.records] == ["All 6 scores of 0 are equal: what stays is decided by position."]


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=5), st.data())
def test_numbers_are_those_of_the_selection_of_weights(values: list[list[int]], data: st.DataObject) -> None:
    """One rule for what stays, with ties and floors: `best_counts` counts what `select` selects."""
    scores = [np.array(one, float) for one in values]
    floors = [data.draw(st.integers(0, len(one))) for one in scores]
    keep = data.draw(st.integers(sum(floors), sum(map(len, scores))))

    class Stored:
        name, device = "w", torch.device("cpu")

        def __init__(self, one: np.ndarray) -> None:
            self.one = torch.from_numpy(one)
            self.units = self.alive = len(one)

        def chunks(self) -> Any:
            yield self.one

        def sample(self, count: int) -> Tensor:
            return self.one[:count]

    expected = [int(mask.sum()) for mask in select([Stored(one) for one in scores], keep, floors)]
    assert best_counts(scores, keep, floors).tolist() == expected


def test_scores_of_units_plug_in() -> None:
    class LastFirst:
        def __call__(self, model: nn.Module, structure: Structure, **_: Any) -> Mapping[str, Tensor]:
            assert isinstance(model, nn.Sequential)
            return {"0": torch.arange(structure.group("0").units)}

    choice = choose(network(2, 4, 4, 1), torch.zeros(1, 2), criterion=LastFirst(), amount=1)
    assert choice.keep["0"].tolist() == [False, True, True, True]
    assert choice.held == {"2": "the criterion gives it no score"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"0": torch.zeros(3)}, r"group '0' 4 finite numbers.*Got \(3,\)"),
        ({"0": torch.tensor([1.0, math.nan, 1, 1])}, r"1 of them not finite"),
        ({"one": torch.zeros(4)}, r"Unknown group in the scores of .* 'one'"),
    ],
)
def test_scores_of_units_are_checked(given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        choose(network(2, 4, 1), torch.zeros(1, 2), criterion=lambda *_, **__: given)


@pytest.mark.parametrize("criterion", ["magnitude", Magnitude, None])
def test_what_is_no_criterion(criterion: object) -> None:
    with pytest.raises(SparsewoodError, match=r"criterion must be a Criterion"):
        choose(network(2, 4, 1), torch.zeros(1, 2), criterion=criterion)


# ---------------------------------------------------------------- what stays


def test_groups_without_scores_are_held() -> None:
    model = residual()
    with torch.no_grad():
        model.norm.weight.copy_(torch.arange(8.0) + 1)
    choice = choose(model, IMAGE, criterion=BatchNormScale(), amount=0.25)
    assert kept(choice) == {"stem": 6}
    assert choice.keep["stem"].tolist() == [False] * 2 + [True] * 6
    assert set(choice.held) == {"one", "two", "big"}
    with pytest.raises(SparsewoodError, match=r"every group is held. 0: the criterion gives it no score"):
        choose(network(2, 4, 1), torch.zeros(1, 2), criterion=BatchNormScale())


def test_a_network_without_units_says_what_holds_it() -> None:
    with pytest.raises(SparsewoodError, match=r"output of the network.*print\(sparsewood.trace\(model, inputs\)\)"):
        choose(nn.Linear(2, 3), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("protect", "held"),
    [
        ("one", {"one"}),
        (["one", "two.weight"], {"one", "two"}),
        ("t*o", {"two"}),
        ("norm", {"stem"}),
        ("norm.running_mean", {"stem"}),
        (nn.BatchNorm2d, {"stem"}),
        ("head", set()),
        ("one_out", {"stem"}),
    ],
)
def test_protected_units_stay(protect: Any, held: set[str]) -> None:
    """What is made in the parts named stays; what is only read there may go. The share is of the others."""
    choice = choose(residual(), IMAGE, protect=protect, amount=0.5)
    assert choice.held == {name: "it is protected" for name in held}
    assert not held & set(choice.keep)
    units = {"stem": 8, "one": 12, "two": 12, "big": 20}
    assert choice.removed == sum(n for name, n in units.items() if name not in held) / 2


def test_modules_can_be_protected() -> None:
    model = residual()
    assert set(choose(model, IMAGE, protect=model.big).held) == {"big"}
    assert set(choose(model, IMAGE, protect=(model.big, "one")).held) == {"big", "one"}


def test_unknown_names_have_suggestions() -> None:
    with pytest.raises(UnknownName, match=r"in protect 'onee'. Did you mean 'one'"):
        choose(residual(), IMAGE, protect="onee")
    with pytest.raises(UnknownName, match=r"in the mapping of amounts 'onee'"):
        choose(residual(), IMAGE, amount={"onee": 0.5})
    with pytest.raises(SparsewoodError, match=r"'head' in the mapping .* no unit that can be removed"):
        choose(residual(), IMAGE, amount={"head": 0.5})
    with pytest.raises(SparsewoodError, match=r"no parameter of this model belongs to LSTM"):
        choose(residual(), IMAGE, protect=nn.LSTM)


def test_more_and_more_can_be_held() -> None:
    model = residual()
    chooser = Chooser(model, sw.trace(model, IMAGE), criterion=Magnitude(), protect="one", amount=0.5)
    held = {"two": "its size is written in the forward", "one": "another reason"}
    choice = chooser.choose(held)
    assert choice.held == {"one": "it is protected", "two": held["two"]}
    assert choice.removed == 14
    with pytest.raises(UnknownName, match="Unknown group 'three'"):
        chooser.choose({"three": ""})


def test_inexact_groups_can_be_held() -> None:
    toy = TOYS["transformer_encoder"]
    free = choose(toy.build(), toy.inputs(), inexact=True, amount=0.25)
    held = choose(toy.build(), toy.inputs(), inexact=False, amount=0.25)
    assert not free.held
    assert list(held.held.values()) == ["removing its units is not exact: normalised over units"]
    assert not set(held.held) & set(held.keep)


@given(st.integers(1, 14), st.sampled_from(SCOPES), st.floats(0, 1))
def test_floors(min_units: int, scope: Scope, share: float) -> None:
    sizes = {"stem": 8, "one": 12, "two": 12, "big": 20}
    most = sum(max(0, n - min_units) for n in sizes.values())
    choice = choose(residual(), IMAGE, min_units=min_units, scope=scope, amount=int(share * most))
    assert choice.removed == int(share * most)
    assert all(count >= min(min_units, sizes[name]) for name, count in kept(choice).items())


# ---------------------------------------------------------------- scopes


def test_scopes() -> None:
    model = residual()
    with torch.no_grad():
        model.one.weight.mul_(100)
    options = {"normalize": False, "amount": 0.5}
    assert kept(choose(model, IMAGE, scope=PerLayer(), **options)) == {"stem": 4, "one": 6, "two": 6, "big": 10}
    assert kept(choose(model, IMAGE, scope=Isomorphic(), **options)) == {"stem": 4, "one": 11, "two": 1, "big": 10}
    assert "one" not in kept(choose(model, IMAGE, scope=Everywhere(), **options))


def test_amounts_by_layer() -> None:
    model = residual()
    amounts = {"one": 0.25, "two.weight": 3, "norm": Density(0.5)}
    choice = choose(model, IMAGE, amount=amounts)
    assert kept(choice) == {"one": 9, "two": 9, "stem": 4}
    assert kept(choose(model, IMAGE, scope=PerLayer(amounts))) == {"one": 9, "two": 9, "stem": 4}
    together = choose(model, IMAGE, scope={"one": None, "t*o": 0.5}, amount=0.25)
    assert kept(together) == {"one": 9, "two": 6}
    both = choose(model, IMAGE, scope=PerType({nn.Conv2d: 0.5}))
    assert both.removed == 26


def test_amounts_that_would_be_ignored() -> None:
    with pytest.raises(SparsewoodError, match=r"sparsity=0.5 would be ignored"):
        choose(residual(), IMAGE, scope={"one": 0.5}, amount=0.5)
    with pytest.raises(SparsewoodError, match=r"leave scope out"):
        choose(residual(), IMAGE, scope=PerLayer(), amount={"one": 0.5})
    with pytest.raises(SparsewoodError, match=r"ERK\(\) shares out single weights.* Use PerLayer\(\)"):
        choose(residual(), IMAGE, scope=PerLayer(ERK()))
    with pytest.raises(SparsewoodError, match=r"a unit has no rows"):
        choose(residual(), IMAGE, scope=PerRow())


def test_isomorphic_groups_have_equal_places() -> None:
    """Blocks of a network are equal however they are called; the same width elsewhere is not."""
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    with torch.no_grad():
        for number, scale in ((0, 1.0), (2, 1.0), (4, 50.0)):
            model[number].weight.copy_(torch.rand(model[number].weight.shape) + scale)
    chooser = Chooser(
        model, sw.trace(model, torch.zeros(1, 4)), criterion=Magnitude(), scope=Isomorphic(), normalize=False
    )
    assert kept(chooser.choose()) == {"0": 3, "2": 3, "4": 3}, "three kinds: read from 4, between 6 and 6, read by 2"


# ---------------------------------------------------------------- multiples


def rounded(steps: list[int], units: list[int], floors: list[int], kept: list[int]) -> list[int]:
    free = Free((), np.array(units), np.array(floors), np.array(steps))
    return free.rounded(np.array(kept), [range(len(units))]).tolist()


@pytest.mark.parametrize(
    ("steps", "units", "floors", "kept", "expected"),
    [
        ([8, 8], [32, 32], [1, 1], [12, 12], [16, 8]),  # equal remainders: the first
        ([8, 8], [32, 32], [1, 1], [9, 15], [8, 16]),
        ([8, 8, 8], [32, 32, 32], [1, 1, 1], [10, 11, 9], [8, 16, 8]),  # 30 asked, 32
        ([8], [32], [1], [2], [8]),  # never none
        ([8], [6], [1], [2], [6]),  # fewer than a step: all
        ([8], [20], [1], [19], [20]),  # 24 is beyond its size: all
        ([8], [20], [1], [17], [16]),
        ([8], [20], [18], [18], [20]),
        ([1, 8], [9, 32], [1, 1], [5, 11], [5, 8]),
        ([4, 4], [16, 16], [9, 1], [9, 7], [12, 4]),  # the floor lifts one, the other gives way
    ],
)
def test_rounding_by_heart(
    steps: list[int], units: list[int], floors: list[int], kept: list[int], expected: list[int]
) -> None:
    assert rounded(steps, units, floors, kept) == expected


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6))
def test_rounding_keeps_multiples_and_is_close(rows: list[tuple[int, int, int]]) -> None:
    steps, units = [a for a, _, _ in rows], [b for _, b, _ in rows]
    kept = [min(b, c) for _, b, c in rows]
    found = rounded(steps, units, [1] * len(rows), kept)
    assert all(n % step == 0 or n == size for n, step, size in zip(found, steps, units, strict=True))
    assert all(0 < n <= size for n, size in zip(found, units, strict=True))
    assert all(abs(n - k) < max(step, 2) for n, k, step in zip(found, kept, steps, strict=True))
    forced = sum(max(0, min(step, size) - k) for k, step, size in zip(kept, steps, units, strict=True))
    assert abs(sum(found) - sum(kept)) <= max(*steps, forced)


@pytest.mark.parametrize("scope", SCOPES, ids=str)
@pytest.mark.parametrize("round_to", [2, 4, 5, 16])
def test_widths_are_multiples(scope: Scope, round_to: int) -> None:
    sizes = {"stem": 8, "one": 12, "two": 12, "big": 20}
    choice = choose(residual(), IMAGE, scope=scope, round_to=round_to, amount=0.4)
    assert all(count % round_to == 0 or count == sizes[name] for name, count in kept(choice).items())
    assert choice.asked == 21
    assert choice.removed == sum(int((~stays).sum()) for stays in choice.keep.values())


def test_the_best_stay_when_widths_are_rounded() -> None:
    model = network(2, 16, 1)
    scores = {"0": torch.arange(16.0).flip(0)}
    choice = choose(model, torch.zeros(1, 2), criterion=lambda *_, **__: scores, round_to=8, amount=0.3)
    assert choice.keep["0"].tolist() == [True] * 8 + [False] * 8


def test_a_step_is_counted_in_positions() -> None:
    """A head of 4 places, three times in a fused layer: two heads make multiples of 8; gates are pairs."""
    toy = TOYS["attention_fused"]
    model = toy.build()
    structure = sw.trace(model, toy.inputs())
    (group,) = structure.prunable
    share = next(int((one.owner == 0).sum()) for one in group.slices if one.param == "qkv.weight")
    assert share == 12
    for round_to, step in ((1, 1), (4, 1), (8, 2), (24, 2), (16, 4), (5, 5)):
        chooser = Chooser(model, structure, criterion=Magnitude(), round_to=round_to)
        assert chooser.free({}).steps.tolist() == [step]
        assert step == round_to // math.gcd(round_to, share)


@pytest.mark.parametrize("option", ["round_to", "min_units"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_numbers_that_are_none(option: str, value: object) -> None:
    with pytest.raises(SparsewoodError, match=rf"{option} must be a whole number >= 1. Got"):
        choose(residual(), IMAGE, **{option: value})


def test_nothing_of_the_model_or_the_random_state_changes() -> None:
    model = residual().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    choose(model, IMAGE, criterion=Random())
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
