"""Prune, recover, train, repeat."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood import allocation, criteria, recovery, schedules
from sparsewood.errors import SparsewoodError
from sparsewood.recipes import prune_iteratively
from sparsewood.recovery import Recovery, Rewind, RewindToBest, Snapshot, snapshot
from sparsewood.schedules import Event, Geometric, OneShot, RoundRobin, Soft, spaced


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def train(model: nn.Module, masks: sw.Masks) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    with sw.enforce(model, masks, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def test_iterative_magnitude_golden_log() -> None:
    """[004-01] Stops when less than 15 % is left; each layer loses a quarter of what it has left."""
    model = nn.Sequential(nn.Linear(4, 1000, bias=False), nn.Linear(1000, 1, bias=False))
    left: list[int] = []

    def record(model: nn.Module, _: sw.Masks) -> None:
        left.append(sum(int(p.count_nonzero()) for p in model.parameters()))

    prune_iteratively(
        model,
        sw.Magnitude(),
        Geometric(0.25)(100),
        record,
        recovery=Rewind(),
        until=lambda _, masks: 1 - masks.sparsity < 0.15,
        options={"scope": sw.PerLayer({"*": None}), "protect_classifier": False},
    )
    assert left == [3750, 2812, 2110, 1582, 1187, 890, 668]
    assert [f"{n / 50:.2f}" for n in left] == ["75.00", "56.24", "42.20", "31.64", "23.74", "17.80", "13.36"]


GRANULARITIES = [sw.Element(), sw.Row(), sw.Block((2,))]
CRITERIA = [sw.Random(), sw.Magnitude(), sw.LpNorm(2, normalized=True), sw.WeightTimesGradient()]
SCHEDULES = [schedules.OneShot(0.5), schedules.Linear(0.5), schedules.Cubic(0.5), schedules.Geometric(0.2929)]
RECOVERIES = [
    recovery.FineTune(), recovery.Rewind(), recovery.RewindRate(), recovery.RewindToBest((0, 1)),
    recovery.Reinitialize(), recovery.Scratch(), recovery.Distill(), recovery.Isometry(iterations=3),
]  # fmt: skip


def test_all_recoveries_are_combined_below() -> None:
    assert sorted(type(recover).__name__ for recover in RECOVERIES) == recovery.__all__


def accuracy(model: nn.Module) -> float:
    return -float(model.get_parameter("0.weight").detach().abs().sum())


@pytest.mark.parametrize(
    ("granularity", "criterion", "schedule", "recover"),
    list(itertools.product(GRANULARITIES, CRITERIA, SCHEDULES, RECOVERIES)),
    ids=lambda part: type(part).__name__,
)
def test_structure_scoring_scheduling_and_fine_tuning_combine_freely(
    granularity: sw.Element, criterion: criteria.Criterion, schedule: schedules.Schedule, recover: recovery.Recovery
) -> None:
    """[002-01] The four axes of the taxonomy are independent of one another."""
    torch.manual_seed(0)
    model = network()
    data = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 4)]
    options = {
        "granularity": granularity,
        "scope": allocation.PerLayer(),
        "protect_classifier": False,
        "data": data,
        "loss": nn.functional.cross_entropy,
    }
    masks = prune_iteratively(
        model, criterion, schedule(2), train, recovery=recover, options=options,
        snapshots={1: recovery.snapshot(network())}, evaluate=accuracy,
    )  # fmt: skip
    expected = 1224 if granularity == sw.Element() else None
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in masks)
    assert zeros == masks.removed
    if expected is not None:
        assert masks.removed == pytest.approx(masks.total / 2, abs=1)
    else:
        units = [granularity.tile(mask.shape) for mask in masks.values()]
        assert len(units) == 2
        assert 0.3 < masks.sparsity < 0.6


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ((), {}, "plan is empty"),
        ((Event(0, sw.Sparsity(0.1)), Event(0, sw.Sparsity(0.2))), {}, r"different steps.*\[0, 0\]"),
        (
            (Event(0, sw.Sparsity(0.1), ("0",)), Event(0, sw.Sparsity(0.2), ("4", "0"))),
            {},
            r"different layers.*step 0 several are for '0'",
        ),
        (Geometric(0.5)(3), {"rounds": 2}, "last event is at step 2.*Got 2"),
        (Geometric(0.5)(3), {"options": {"masks": None}}, "decides masks itself"),
        (Geometric(0.5)(3), {"recovery": "rewind"}, "must be a Recovery"),
        (Geometric(0.5)(3), {"recovery": Rewind(500)}, r"Rewind\(step=500\) needs .* step 500 .*snapshot\(model\)"),
        (
            Geometric(0.5)(3),
            {"recovery": RewindToBest((0, 5, 9)), "snapshots": {5: {}}},
            r"step 9 of its training.*states\[9\].*Got steps \[0, 5\]",
        ),
        (Geometric(0.5)(3), {"recovery": RewindToBest((0, 5)), "snapshots": {5: {}}}, "pass evaluate"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(plan: schedules.Plan, options: dict, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        prune_iteratively(network(), sw.Magnitude(), plan, train, **options)


def test_a_training_that_lets_go_of_the_zeros_is_an_error() -> None:
    """[7.1] [7.8]"""

    def forgets(model: nn.Module, masks: sw.Masks) -> None:  # noqa: ARG001 (which is the mistake)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)

    with pytest.raises(SparsewoodError, match=r"After train, 50 masked weights of 'weight' are not zero.*enforce"):
        prune_iteratively(nn.Linear(10, 10), sw.Magnitude(), OneShot(0.5)(1), forgets)


def test_rounds_without_an_event_train_all_the_same() -> None:
    seen: list[float] = []

    def record(_: nn.Module, masks: sw.Masks) -> None:
        seen.append(masks.sparsity)

    plan = (Event(1, sw.Sparsity(0.5)),)
    prune_iteratively(network(), sw.Magnitude(), plan, record, rounds=4)
    assert seen == [0.0, 0.5, 0.5, 0.5]
    seen.clear()
    prune_iteratively(network(), sw.Magnitude(), OneShot(0.5)(3), record)
    assert seen == [0.5]


def test_weights_once_removed_stay_removed_though_recovery_brings_them_back() -> None:
    """[7.10] Rewinding restores the values of all weights; the masks still hold."""
    model = network()
    seen: list[sw.Masks] = []
    prune_iteratively(
        model, sw.Random(), Geometric(0.3)(4), lambda _, masks: seen.append(masks), recovery=Rewind(),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for before, after in itertools.pairwise(seen):
        assert (before & after) == after
        assert after.removed > before.removed
    assert OneShot(0.5)(1)[0].amount == sw.Sparsity(0.5)


# ---------------------------------------------------------------- snapshots


def same(model: nn.Module, start: Snapshot, masks: sw.Masks) -> bool:
    """Whether `model` is `start` with the masked entries at zero."""
    masked = {name: tensor.where(masks[name], 0) if name in masks else tensor for name, tensor in start.items()}
    return all(torch.equal(tensor, masked[name]) for name, tensor in model.state_dict().items())


def test_rewinding_goes_to_the_snapshot_of_the_first_dense_training() -> None:
    """[004-11] [7.12] In every round that of step 2, which stays what it was; masks survive."""
    torch.manual_seed(1)
    model = network()
    states: dict[int, Snapshot] = {}
    for step in range(4):
        states[step] = snapshot(model)
        train(model, sw.Masks({}))
    copies = {name: tensor.clone() for name, tensor in states[2].items()}
    rounds = 0

    def check_and_train(model: nn.Module, masks: sw.Masks) -> None:
        nonlocal rounds
        rounds += 1
        assert same(model, copies, masks)
        train(model, masks)
        assert not same(model, copies, masks)

    masks = prune_iteratively(
        model, sw.Magnitude(), Geometric(0.3)(3), check_and_train, recovery=Rewind(2), snapshots=states
    )
    assert rounds == 3
    assert masks.sparsity == pytest.approx(1 - 0.7**3, abs=0.02)
    assert all(torch.equal(states[2][name], tensor) for name, tensor in copies.items())


def test_step_zero_is_the_model_as_given_unless_there_is_a_snapshot_of_it() -> None:
    model, other = network(), network()
    given, first = snapshot(model), snapshot(other)
    seen: list[bool] = []
    for snapshots, expected in ((None, given), ({0: first}, first)):
        model.load_state_dict(dict(given))
        prune_iteratively(
            model, sw.Magnitude(), OneShot(0.5)(1), lambda m, masks, e=expected: seen.append(same(m, e, masks)),
            recovery=Rewind(), snapshots=snapshots,
        )  # fmt: skip
    assert seen == [True, True]


def test_the_best_snapshot_is_judged_with_the_masks_applied_in_every_round() -> None:
    """[004-11] Snapshots hold 1, 2 and 3 everywhere; what is judged is their sum, masked."""
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False))
    states = {k: {name: torch.full_like(t, k + 1.0) for name, t in snapshot(model).items()} for k in range(3)}
    sums: list[float] = []

    def near_19(model: nn.Module) -> float:
        total = float(model.get_parameter("0.weight").detach().sum())
        sums.append(total)
        return -abs(total - 19)

    seen: list[float] = []
    prune_iteratively(
        model, sw.Magnitude(), schedules.Levels([0.5, 0.75])(2),
        lambda m, _: seen.append(float(m[0].weight.detach().max())),
        recovery=RewindToBest((0, 1, 2)), snapshots=states, evaluate=near_19,
    )  # fmt: skip
    assert sums == [10, 20, 30, 5, 10, 15]
    assert seen == [2, 3]


def test_judging_leaves_the_model_as_it_was() -> None:
    class Fickle(Recovery):
        """Looks at a snapshot and trains on from the weights there are."""

        snapshots = (0,)  # type: ignore[assignment]

        def pick(self, score) -> int:  # type: ignore[no-untyped-def]
            assert score(0) == 1.0
            return 0

        def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
            del model, start, generator

    model = network()
    seen: list[bool] = []
    expected = snapshot(model)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    plan = OneShot(0.5)(1)
    judge = {"recovery": Fickle(), "snapshots": {0: zeros}}
    prune_iteratively(
        model, sw.Magnitude(), plan, lambda m, masks: seen.append(same(m, expected, masks)),
        evaluate=lambda m: float((m.get_parameter("0.weight") == 0).all()), **judge,
    )  # fmt: skip
    assert seen == [True]
    with pytest.raises(SparsewoodError, match="pass evaluate"):
        prune_iteratively(model, sw.Magnitude(), plan, train, **judge)


# ---------------------------------------------------------------- events for some layers, and soft events


def test_layers_are_pruned_in_turn() -> None:
    """[003-19] Each event touches its layer alone; what others removed stays."""
    model = network()
    plan = spaced(RoundRobin((("0", 0.5, 0.25), ("4", 0.75, 0.75)))(3), 1, 2)
    seen: list[dict[str, float]] = []

    def record(model: nn.Module, masks: sw.Masks) -> None:
        train(model, masks)
        shares = {name: round(share, 6) for name, share in masks.layer_sparsity().items()}
        zeros = {name: round(float((model.get_parameter(name) == 0).float().mean()), 6) for name in masks}
        assert zeros == shares
        seen.append(shares)

    prune_iteratively(model, sw.Magnitude(), plan, record)
    first, second = {"0.weight": 0.25}, {"0.weight": 0.25, "4.weight": 0.75}
    assert seen == [{}, first, first, second, second, {"0.weight": 0.5, "4.weight": 0.75}]


def test_several_layers_at_one_step_are_recovered_once() -> None:
    calls: list[int] = []

    class Counting(Recovery):
        def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
            del model, start, generator
            calls.append(1)

    plan = spaced(RoundRobin((("0", 0.5, 0.25), ("4", 0.75, 0.75)))(3), 0, 0)
    assert [event.layers for event in plan] == [("4",), ("0",)]
    masks = prune_iteratively(network(), sw.Magnitude(), plan, train, recovery=Counting())
    assert calls == [1]
    assert {name: round(share, 6) for name, share in masks.layer_sparsity().items()} == {
        "4.weight": 0.75,
        "0.weight": 0.5,
    }


def test_soft_filters_may_come_back_before_the_end_and_the_target_is_hit() -> None:
    """[004-07] [7.10] Training sees no masks before the last event; other filters may go each time."""
    torch.manual_seed(0)
    model = network()
    held: list[float] = []
    chosen: list[sw.Masks] = []
    revived: list[int] = []

    def look(model: nn.Module, masks: sw.Masks) -> bool:
        chosen.append(masks)
        removed = ~masks["0.weight"].flatten(1).any(1)
        revived.append(int((model[0].weight[removed] != 0).flatten(1).any(1).sum()))
        return False

    def fit(model: nn.Module, masks: sw.Masks) -> None:
        held.append(masks.sparsity)
        if len(held) == 1:
            with torch.no_grad():
                model[0].weight[:4] = 5.0  # these four, whatever was removed, are now the largest
        train(model, masks)

    masks = prune_iteratively(
        model, sw.LpNorm(2), Soft(OneShot(0.5))(4), fit, until=look,
        options={"granularity": sw.Filter(), "include": ["0"]},
    )  # fmt: skip
    assert held == [0, 0, 0, 0.5]
    assert [m.sparsity for m in chosen] == [0.5] * 4
    assert chosen[0] != chosen[1]
    assert bool(chosen[1]["0.weight"][:4].all())
    assert revived[0] > 0
    assert revived[-1] == 0
    assert masks == chosen[-1]
    assert int((model[0].weight.flatten(1).abs().sum(1) == 0).sum()) == 4


def test_a_soft_event_frees_its_own_layers_only() -> None:
    model = network()
    plan = (
        Event(0, sw.Sparsity(0.5), ("0", "4")),
        Event(1, sw.Sparsity(0.25), ("0",), regrow=True),
        Event(2, sw.Sparsity(0.75), ("4",)),
    )
    held: list[list[str]] = []
    free: list[int] = []

    def fit(model: nn.Module, masks: sw.Masks) -> None:
        held.append(list(masks))
        train(model, masks)
        free.append(int((model[0].weight == 0).sum()))

    masks = prune_iteratively(model, sw.Magnitude(), plan, fit)
    assert held == [["0.weight", "4.weight"], ["4.weight"], ["4.weight"]]
    assert free[0] > 0
    assert free[1:] == [0, 0]  # an event for another layer does not zero them again
    assert masks.layer_sparsity()["0.weight"] == 0.25
    assert masks.layer_sparsity()["4.weight"] == 0.75
