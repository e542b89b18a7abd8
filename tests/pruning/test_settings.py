"""Pruning: the value that says what is pruned, when and how much."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, Literal, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsewood.allocation import ERK, Everywhere, Named, PerLayer, PerRow, PerType, Scope
from sparsewood.criteria import Criterion, LpNorm, Magnitude, Random, WeightTimesGradient
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import NM, Element, Filter, Granularity
from sparsewood.pruning import Pruning, prune
from sparsewood.recovery import FineTune, Recovery
from sparsewood.schedules import (
    Alternating,
    Cubic,
    Event,
    Geometric,
    Linear,
    OneShot,
    Plan,
    RNNRamp,
    RoundRobin,
    Schedule,
    Soft,
)
from sparsewood.statistics import Gradient, collect
from sparsewood.types import Compression, Count, Masks, Remaining, Sparsity, Threshold
from sparsewood.unit_criteria import UnitCriterion

NONE = Masks({})


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))


def batches(count: int = 4, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


# ---------------------------------------------------------------- the value


def test_annotations_resolve() -> None:
    """Recipes are read by field names and these types."""
    hints = get_type_hints(Pruning)
    assert list(hints) == [field.name for field in dataclasses.fields(Pruning)]
    assert hints["criterion"] == Criterion | UnitCriterion
    assert hints["schedule"] is Schedule
    assert hints["scope"] is Scope
    assert hints["granularity"] is Granularity
    assert hints["recovery"] is Recovery
    assert hints["unit"] == Literal["round", "epoch", "step"]
    assert hints["include"] == tuple[str, ...]
    assert hints["score_batches"] == int | None


def test_defaults() -> None:
    pruning = Pruning()
    assert pruning == Pruning(Magnitude(), OneShot(0.9), Everywhere(), Element(), FineTune())
    assert (pruning.rounds, pruning.unit, pruning.start, pruning.every) == (1, "round", 0, 1)
    assert pruning.plan == (Event(0, Sparsity(0.9)),)
    assert pickle.loads(pickle.dumps(pruning)) == copy.deepcopy(pruning) == pruning


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"criterion": "magnitude"}, r"criterion must be a Criterion. Got 'magnitude'"),
        ({"criterion": Magnitude}, "criterion must be a Criterion"),
        ({"schedule": 0.9}, r"schedule must be a Schedule. Got 0.9"),
        ({"scope": {"a": 0.5}}, r"scope must be a Scope. Got {'a': 0.5}"),
        ({"granularity": None}, "granularity must be a Granularity. Got None"),
        ({"recovery": 3}, "recovery must be a Recovery. Got 3"),
        ({"protect_classifier": 1}, "protect_classifier must be a bool. Got 1"),
        ({"unit": "batch"}, "unit must be one of round, epoch, step. Got 'batch'"),
        ({"start": -1}, r"start must be a whole number >= 0. Got -1"),
        ({"every": 0}, r"every must be a whole number >= 1. Got 0"),
        ({"every": True}, r"every must be a whole number >= 1. Got True"),
        ({"rounds": 2.0}, r"rounds must be a whole number >= 1. Got 2.0"),
        ({"min_units": -2}, r"min_units must be a whole number >= 0. Got -2"),
        ({"score_batches": 0}, r"score_batches must be a whole number >= 1. Got 0"),
        ({"include": "conv"}, r"include must be a tuple of names and patterns, as \('conv1',\). Got 'conv'"),
        ({"exclude": (nn.Linear,)}, "exclude must be a tuple of names and patterns"),
        ({"schedule": RoundRobin((("0", 0.5, 0.1),)), "rounds": 3}, "This schedule is for 5 rounds"),
    ],
)
def test_fields_of_the_wrong_kind(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        Pruning(**fields)


def test_a_schedule_without_events() -> None:
    @dataclasses.dataclass(frozen=True)
    class Never(Schedule):
        def __call__(self, rounds: int) -> Plan:
            del rounds
            return ()

    with pytest.raises(SparsewoodError, match="The plan is empty"):
        Pruning(schedule=Never())


# ---------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"unit": "step", "start": 100, "every": 50}, [100, 150, 200]),
        ({"unit": "epoch", "start": 1, "every": 2}, [7, 21, 35]),
        ({"unit": "epoch"}, [0, 7, 14]),
        ({"unit": "step"}, [0, 1, 2]),
    ],
)
def test_events_in_steps_of_training(fields: dict[str, Any], steps: list[int]) -> None:
    events = Pruning(schedule=Linear(0.6), rounds=3, **fields).events(steps_per_epoch=7)
    assert list(events) == steps
    assert [event.step for (event,) in events.values()] == steps
    assert [event.amount for (event,) in events.values()] == [event.amount for event in Linear(0.6)(3)]


def test_events_of_one_step() -> None:
    @dataclasses.dataclass(frozen=True)
    class Both(Schedule):
        def __call__(self, rounds: int) -> Plan:
            del rounds
            return (Event(0, Sparsity(0.5), ("0",)), Event(0, Sparsity(0.25), ("2",)))

    (both,) = Pruning(schedule=Both(), unit="epoch", start=2).events(10).values()
    assert [(event.step, event.layers) for event in both] == [(20, ("0",)), (20, ("2",))]


@pytest.mark.parametrize("steps", [0, -1, None, 2.0])
def test_an_epoch_has_steps(steps: Any) -> None:
    with pytest.raises(SparsewoodError, match="steps_per_epoch must be a whole number >= 1"):
        Pruning(unit="epoch").events(steps)


# ---------------------------------------------------------------- what


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({}, {}),
        ({"criterion": LpNorm(2), "granularity": Filter()}, {"granularity": Filter()}),
        ({"scope": PerLayer(ERK())}, {"scope": PerLayer(ERK())}),
        ({"scope": PerType()}, {"scope": PerType()}),
        ({"include": ("0", "4.weight")}, {"include": ["0", "4.weight"]}),
        ({"exclude": ("2",)}, {"exclude": ["2"]}),
        ({"protect_classifier": False}, {"protect_classifier": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("amount", [0.5, Count(3), Remaining(0.25), Compression(1.5)], ids=str)
def test_choose_is_prune_with_these_arguments(fields: dict[str, Any], arguments: dict[str, Any], amount: Any) -> None:
    model, pruning = net(), Pruning(schedule=OneShot(amount), **fields)
    expected = prune(model, pruning.criterion, amount, **arguments)
    assert expected.removed
    assert pruning.choose(model, pruning.plan[0], NONE) == expected
    assert tuple(entry.name for entry in pruning.parameters(model)) == tuple(expected)


def test_min_units() -> None:
    model = net()
    emptied = Pruning(schedule=OneShot(0.999), min_units=0, include=("0",))
    kept = Pruning(schedule=OneShot(0.999), min_units=5, include=("0",))
    assert emptied.choose(model, emptied.plan[0], NONE)["0.weight"].sum() == 0
    with pytest.raises(SparsewoodError, match="5 must stay"):
        kept.choose(model, kept.plan[0], NONE)


@pytest.mark.parametrize(
    "scope",
    [PerLayer({"0": 0.5, "2": 0.25}), PerType({nn.Linear: 0.5})],
    ids=str,
)
def test_scopes_with_amounts_of_their_own(scope: Scope) -> None:
    """The schedule then only says when; `prune` itself would refuse a second amount."""
    model, pruning = net(), Pruning(scope=scope)
    assert pruning.fixes_amounts
    masks = pruning.choose(model, pruning.plan[0], NONE)
    assert masks == prune(model, Magnitude(), scope=scope)
    if isinstance(scope, PerLayer):
        assert masks.layer_sparsity() == {"0.weight": 0.5, "2.weight": 0.25}
    with pytest.raises(SparsewoodError, match="would be ignored"):
        prune(model, Magnitude(), 0.8, scope=scope)


def test_a_scope_that_leaves_one_amount_open() -> None:
    model, pruning = net(), Pruning(schedule=OneShot(0.25), scope=PerLayer({"0": 0.5, "2": None}))
    assert not pruning.fixes_amounts
    masks = pruning.choose(model, pruning.plan[0], NONE)
    assert masks.layer_sparsity() == {"0.weight": 0.5, "2.weight": 0.25}


def test_an_empty_mapping_fixes_nothing() -> None:
    assert not Pruning(scope=PerType({})).fixes_amounts


def test_n_of_m_with_the_default_schedule() -> None:
    model, pruning = net(), Pruning(granularity=NM(1, 2))
    masks = pruning.choose(model, pruning.plan[0], NONE)
    assert pruning.fixes_amounts
    assert masks == prune(model, Magnitude(), granularity=NM(1, 2))
    assert masks.sparsity == 0.5


@pytest.mark.parametrize(
    ("fields", "who"),
    [
        ({"granularity": NM(2, 4)}, r"granularity NM"),
        ({"scope": PerLayer({"0": 0.5})}, r"scope PerLayer"),
    ],
    ids=["nm", "scope"],
)
def test_amounts_that_would_be_ignored(fields: dict[str, Any], who: str) -> None:
    with pytest.raises(SparsewoodError, match=rf"amounts of Cubic.* would be ignored, because {who}"):
        Pruning(schedule=Cubic(0.9), rounds=3, **fields)
    assert len(Pruning(schedule=Geometric(0.2), rounds=3, **fields).plan) == 3  # says when, thrice the same


def test_amounts_of_its_own_add_up_over_events() -> None:
    """A fifth of what remains, three times: 48 -> 38 -> 30 -> 24 weights."""
    model, masks = net(), NONE
    pruning = Pruning(schedule=Geometric(0.5), rounds=3, scope=PerLayer({"0": Remaining(0.2)}))
    kept = []
    for event in pruning.plan:
        masks = pruning.choose(model, event, masks)
        kept.append(int(masks["0.weight"].sum()))
    assert kept == [38, 30, 24]


# ---------------------------------------------------------------- events


def test_earlier_masks_bind() -> None:
    """[7.10] What was removed stays removed, whatever its score is now."""
    model, pruning = net(), Pruning(schedule=Linear(0.6), rounds=2, protect_classifier=False)
    first = pruning.choose(model, pruning.plan[0], NONE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(5)))
    second = pruning.choose(model, pruning.plan[1], first)
    assert (first.sparsity, second.sparsity) == (round(0.3 * 92) / 92, round(0.6 * 92) / 92)
    assert first & second == second
    # Without the masks the choice is another one: the test would see if they were not passed on.
    assert first & pruning.choose(model, pruning.plan[1], NONE) != second


def test_events_with_layers_decide_about_these() -> None:
    model, pruning = net(), Pruning(schedule=RoundRobin((("0", 0.5, 0.5), ("4", 0.25, 0.25))), rounds=2)
    first = pruning.choose(model, pruning.plan[0], NONE)
    assert first.layer_sparsity() == {"0.weight": 0.5}
    second = pruning.choose(model, pruning.plan[1], first)
    assert second.layer_sparsity() == {"0.weight": 0.5, "4.weight": 0.25}  # the classifier, as it was named
    assert second["0.weight"].equal(first["0.weight"])
    assert [[entry.name for entry in pruning.parameters(model, event)] for event in pruning.plan] == [
        ["0.weight"],
        ["4.weight"],
    ]


def test_unknown_layers() -> None:
    pruning = Pruning(schedule=RoundRobin((("conv1", 0.5, 0.5),)))
    with pytest.raises(UnknownName, match="'conv1'"):
        pruning.choose(net(), pruning.plan[0], NONE)


@pytest.mark.parametrize("scope", [PerLayer({"0": 0.8, "2": None}), Named({"0": 0.8, "2": None})], ids=str)
def test_004_36_a_dense_phase_is_dense_in_every_layer(scope: Scope) -> None:
    """An amount of its own would hold in the dense phases, too."""
    with pytest.raises(SparsewoodError, match=r"Alternating.* gives all weights back.* 0\.8 of '0'"):
        Pruning(schedule=Alternating(0.9), rounds=3, scope=scope)
    for given in (PerLayer({"0": None, "2": None}), PerLayer(), Everywhere()):  # no amounts of their own
        pruning = Pruning(schedule=Alternating(0.9), rounds=3, scope=given)
        assert pruning.choose(net(), pruning.plan[1], NONE).removed == 0
    Pruning(schedule=Soft(OneShot(0.5)), rounds=3, scope=scope)  # soft, but nowhere dense


def test_regrowing_events_choose_anew() -> None:
    """[004-07] Weights whose scores rose come back."""
    model, pruning = nn.Linear(4, 1, bias=False), Pruning(schedule=Soft(OneShot(0.5)), rounds=2)
    soft, hard = pruning.plan
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    first = pruning.choose(model, soft, NONE)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    assert first["weight"].tolist() == [[False, False, True, True]]
    assert pruning.choose(model, soft, first)["weight"].tolist() == [[True, True, False, False]]
    assert pruning.choose(model, hard, first) == first


def test_regrowing_events_leave_other_parameters_alone() -> None:
    model, earlier = net(), Masks({"2.weight": torch.zeros(4, 8).bool(), "0.weight": torch.zeros(8, 6).bool()})
    masks = Pruning().choose(model, Event(0, Sparsity(0.5), ("0",), regrow=True), earlier)
    assert masks.layer_sparsity() == {"2.weight": 1.0, "0.weight": 0.5}


def test_regrowing_a_tied_parameter_masked_by_its_other_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    event = Event(0, Sparsity(0.5), ("0",), regrow=True)
    masks = Pruning().choose(model, event, Masks({"1.weight": torch.zeros(4, 4).bool()}))
    assert masks.layer_sparsity() == {"0.weight": 0.5}


def test_thresholds() -> None:
    """[004-35] Weights below the threshold go, however many."""
    model, ramp = nn.Linear(10, 1, bias=False), RNNRamp(6.0, ramp=2, end=4)
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 11.0)[None])
    pruning = Pruning(schedule=ramp, rounds=ramp.fixed_rounds, unit="step")
    masks, removed, thresholds = NONE, [], []
    for event in pruning.plan:
        masks = pruning.choose(model, event, masks)
        assert isinstance(event.amount, Threshold)
        thresholds.append(event.amount.value)
        removed.append(masks.removed)
    assert removed == [sum(w < threshold for w in range(1, 11)) for threshold in thresholds]
    assert removed == sorted(removed)
    assert removed[-1] > removed[0]


# ---------------------------------------------------------------- data


class Counted:
    """Batches that count how many of them were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Any:
        for batch in batches():
            self.read += 1
            yield batch


@pytest.mark.parametrize(("score_batches", "read"), [(1, 1), (3, 3), (9, 4), (None, 4)])
def test_score_batches(score_batches: int | None, read: int) -> None:
    model, data = net(), Counted()
    pruning = Pruning(WeightTimesGradient(), OneShot(0.5), score_batches=score_batches)
    masks = pruning.choose(model, pruning.plan[0], NONE, data=data, loss=cross_entropy)
    assert data.read == read
    assert masks == prune(model, WeightTimesGradient(), 0.5, data=batches()[:read], loss=cross_entropy)


def test_data_that_is_not_needed_is_not_read() -> None:
    data, pruning = Counted(), Pruning(schedule=OneShot(0.5))
    pruning.choose(net(), pruning.plan[0], NONE, data=data)
    assert data.read == 0


def test_statistics_instead_of_data() -> None:
    model, pruning = net(), Pruning(WeightTimesGradient(), OneShot(0.5), score_batches=None)
    statistics = collect(model, batches(), [Gradient()], cross_entropy)
    assert pruning.choose(model, pruning.plan[0], NONE, statistics=statistics) == pruning.choose(
        model, pruning.plan[0], NONE, data=batches(), loss=cross_entropy
    )


@pytest.mark.parametrize("data", [batches()[0], list(batches()[0]), {"x": 1}, torch.ones(3, 6), 3], ids=repr)
def test_one_batch_is_no_batches(data: Any) -> None:
    pruning = Pruning(WeightTimesGradient())
    with pytest.raises(SparsewoodError, match="data must be batches"):
        pruning.choose(net(), pruning.plan[0], NONE, data=data, loss=cross_entropy)


def test_missing_data_and_loss() -> None:
    pruning = Pruning(WeightTimesGradient())
    with pytest.raises(SparsewoodError, match="needs data"):
        pruning.choose(net(), pruning.plan[0], NONE)
    with pytest.raises(SparsewoodError, match="need a loss"):
        pruning.choose(net(), pruning.plan[0], NONE, data=batches())


def test_random_choices_follow_from_the_generator() -> None:
    model, pruning = net(), Pruning(Random(), OneShot(0.5))

    def drawn(seed: int) -> Masks:
        return pruning.choose(model, pruning.plan[0], NONE, generator=torch.Generator().manual_seed(seed))

    assert drawn(1) == drawn(1) != drawn(2)


def test_choosing_changes_nothing() -> None:
    model, pruning = net(), Pruning(schedule=OneShot(0.5), scope=PerRow())
    before = copy.deepcopy(model.state_dict())
    pruning.choose(model, pruning.plan[0], NONE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
