"""Schedules: plain data, right to the last event."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood import schedules
from sparsewood.errors import SparsewoodError
from sparsewood.schedules import (
    Alternating,
    Cubic,
    Event,
    Exponential,
    Geometric,
    Levels,
    Linear,
    OneByOne,
    OneShot,
    Plan,
    RNNRamp,
    RoundRobin,
    Schedule,
    Soft,
    require_plan,
    spaced,
)
from sparsewood.testing import check_schedule
from sparsewood.types import Compression, Count, Density, Remaining, Sparsity, Threshold

EXAMPLES: dict[str, list[Schedule]] = {
    "Alternating": [Alternating(0.9), Alternating(0.0)],
    "Cubic": [Cubic(0.9), Cubic(0.9, initial=0.2), Cubic(1.0), Cubic(0.0), Cubic(0.3, initial=0.3)],
    "Exponential": [Exponential(0.9), Exponential(0.0), Exponential(1e-16), Exponential(1 - 1e-12)],
    "Geometric": [Geometric(0.2), Geometric(0.0), Geometric(1.0)],
    "Levels": [Levels([0.1, 0.5, 0.9]), Levels((Count(3), Compression(4))), Levels.compounded()],
    "Linear": [Linear(0.8), Linear(0.8, initial=0.7), Linear(1.0)],
    "OneByOne": [OneByOne(1), OneByOne(7)],
    "OneShot": [OneShot(0.9), OneShot(3), OneShot(Density(0.1)), OneShot(Threshold(0.5))],
    "RNNRamp": [RNNRamp(0.1, ramp=25, end=100), RNNRamp(2, ramp=5, end=50, start=5, every=7, multiplier=2.0)],
    "RoundRobin": [RoundRobin([("l1", 0.3, 0.1), ("l2", 0.5, 0.3)]), RoundRobin((("*", 1.0, 0.3),))],
    "Soft": [Soft(OneShot(0.5)), Soft(Cubic(0.9)), Soft(Levels([1, 2])), Soft(RoundRobin((("a", 0.4, 0.2),)))],
}
ALL = [schedule for examples in EXAMPLES.values() for schedule in examples]


def sparsities(plan: Plan) -> list[float]:
    return [event.amount.fraction for event in plan if isinstance(event.amount, Sparsity)]


def test_every_schedule_has_examples() -> None:
    assert list(EXAMPLES) == schedules.__all__
    for name, examples in EXAMPLES.items():
        assert examples
        assert {type(schedule).__name__ for schedule in examples} == {name}


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_contract(schedule: Schedule) -> None:
    check_schedule(schedule)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@pytest.mark.parametrize("rounds", [0, -1, 1.5, True])
def test_rounds_must_be_whole_and_positive(schedule: Schedule, rounds: object) -> None:
    with pytest.raises(SparsewoodError, match="whole number of rounds"):
        schedule(rounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Cubic, Exponential, Geometric, Linear, OneShot, lambda a: Levels([a])])
@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan")])
def test_amounts_are_checked_when_a_schedule_is_made(make: type, wrong: float) -> None:
    with pytest.raises(SparsewoodError, match=r"\[0, 1\]"):
        make(wrong)


def test_schedules_need_no_torch_of_their_own() -> None:
    """A schedule is data: no file of the package names torch."""
    folder = Path(schedules.__file__).parent
    assert not [path.name for path in folder.glob("*.py") if "torch" in path.read_text(encoding="utf-8")]


# ---------------------------------------------------------------- events and plans


def test_events_keep_their_short_form() -> None:
    assert repr(Event(0, Sparsity(0.5))) == "Event(step=0, amount=Sparsity(fraction=0.5))"
    long = Event(2, Count(1), layers=("a", "b*"), regrow=True)
    assert repr(long) == "Event(step=2, amount=Count(n=1), layers=('a', 'b*'), regrow=True)"
    assert eval(repr(long)) == long
    assert len({long, Event(2, Count(1), ("a", "b*"), True), replace(long, regrow=False)}) == 2


@pytest.mark.parametrize("layers", ["conv1", (), ["conv1"], (1,)])
def test_layers_of_an_event_are_a_tuple_of_names(layers: object) -> None:
    with pytest.raises(SparsewoodError, match="tuple of names or patterns"):
        Event(0, Sparsity(0.1), layers=layers)  # type: ignore[arg-type]


A, B = Event(1, Sparsity(0.1), ("a",)), Event(1, Sparsity(0.2), ("b",))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((), "plan is empty"),
        ([A], "tuple of events"),
        ((A, 3), "tuple of events"),
        ((Event(-1, Sparsity(0.1)),), r"whole steps >= 0.*\[-1\]"),
        ((Event(0.5, Sparsity(0.1)),), "whole steps"),  # type: ignore[arg-type]
        ((Event(0, Sparsity(0.1)), Event(0, Sparsity(0.2))), r"different steps.*\[0, 0\].*all layers"),
        ((A, Event(1, Sparsity(0.2))), "all layers"),
        ((A, B, Event(1, Sparsity(0.2), ("c", "b"))), "step 1 several are for 'b'"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(plan: Plan, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        require_plan(plan)


def test_one_step_may_have_events_for_different_layers() -> None:
    require_plan((A, B, Event(2, Sparsity(0.5))))
    with pytest.raises(SparsewoodError):
        require_plan((A, A))


def test_spacing_turns_rounds_into_steps() -> None:
    assert spaced(Cubic(0.9)(3), 5, 10) == tuple(
        Event(5 + 10 * i, event.amount) for i, event in enumerate(Cubic(0.9)(3))
    )
    assert spaced(Cubic(0.9)(4), 2, 0) == (Event(2, Sparsity(0.9)),)


@pytest.mark.parametrize(
    ("plan", "start", "every", "message"),
    [
        (OneShot(0.5)(1), -1, 1, "start must be a whole number of steps >= 0. Got -1"),
        (OneShot(0.5)(1), 0, 0.5, "every must be"),
        (OneShot(0.5)(1), True, 1, "start must be"),
        ((), 0, 1, "plan is empty"),
        (Geometric(0.5)(2), 0, 0, "Remaining cannot be joined"),
        ((Event(0, Sparsity(0.1), ("a", "b")), Event(1, Sparsity(0.2), ("b",))), 0, 0, "several are for 'b'"),
    ],
)
def test_what_cannot_be_spaced_is_refused(plan: Plan, start: int, every: int, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        spaced(plan, start, every)


# ---------------------------------------------------------------- shares


def test_one_shot_has_one_event_whatever_the_rounds() -> None:
    assert OneShot(Compression(8))(5) == (Event(0, Compression(8)),)


def test_cubic_is_automated_gradual_pruning() -> None:
    """[004-34] 0 to 0.9 in 10 steps, clamped outside."""
    golden = [0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    assert sparsities(Cubic(0.9)(10)) == pytest.approx(golden, abs=5e-5)
    curve = [Cubic(0.9).at(i / 10) for i in range(11)]
    assert curve == pytest.approx([0, *golden], abs=5e-5)
    assert (curve[0], curve[-1]) == (0.0, 0.9)
    steps = [b - a for a, b in itertools.pairwise(curve)]
    assert steps == sorted(steps, reverse=True)  # concave


@pytest.mark.parametrize("curve", [Cubic(0.9, 0.2), Linear(0.9, 0.2)])
def test_curves_start_at_the_initial_sparsity_and_are_clamped(curve: Cubic | Linear) -> None:
    """[004-34]"""
    assert [curve.at(x) for x in (-3.0, 0.0, 1.0, 2.0)] == [0.2, 0.2, 0.9, 0.9]
    assert curve.at(0.5) == pytest.approx({Cubic: 0.9 - 0.7 / 8, Linear: 0.55}[type(curve)])
    with pytest.raises(SparsewoodError, match="nan"):
        curve.at(float("nan"))
    with pytest.raises(SparsewoodError, match=r"cannot fall.*0.3 and 0.2"):
        type(curve)(0.2, initial=0.3)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 50))
@pytest.mark.parametrize("schedule", [Cubic, Linear, Exponential])
def test_targets_are_hit_at_the_last_event_and_never_fall(schedule: type, final: float, rounds: int) -> None:
    """[004-10] [7.13]"""
    reached = sparsities(schedule(final)(rounds))
    assert len(reached) == rounds
    assert reached[-1] == final
    assert reached == sorted(reached)


def test_geometric_takes_a_share_of_what_is_left() -> None:
    assert Geometric(0.25)(3) == tuple(Event(i, Remaining(0.25)) for i in range(3))


def test_exponential_reaches_the_end_by_equal_factors() -> None:
    """[004-10] [7.13] Seven rounds to 0.8, and no round is missing at the end."""
    reached = sparsities(Exponential(0.8)(7))
    assert reached == pytest.approx([0.2054, 0.3686, 0.4983, 0.6014, 0.6832, 0.7483, 0.8], abs=5e-5)
    factors = [(1 - b) / (1 - a) for a, b in zip([0.0, *reached], reached, strict=False)]
    assert factors == pytest.approx([0.2 ** (1 / 7)] * 7)
    assert Exponential(0.8).at(0.5) == pytest.approx(1 - 0.2**0.5)
    for epochs, session in ((160, 20), (7, 3), (10, 10), (100, 7)):
        assert sparsities(Exponential(0.4)(epochs // session))[-1] == 0.4
    with pytest.raises(SparsewoodError, match="density 0"):
        Exponential(1.0)


def test_levels_compound() -> None:
    """[000-05] 18 levels of 5 percent."""
    golden = [
        5.0, 9.75, 14.26, 18.55, 22.62, 26.49, 30.17, 33.66, 36.98, 40.13, 43.12, 45.96, 48.67, 51.23, 53.67, 55.99,
        58.19, 60.28,
    ]  # fmt: skip
    levels = Levels.compounded(5, floor=39)
    assert levels.fixed_rounds == 18
    assert [round(100 * share, 10) for share in sparsities(levels(18))] == golden
    assert levels == Levels.compounded()
    assert Levels.compounded(50, floor=50) == Levels((0.5,))  # the floor itself is a level


def test_achieved_sparsity_is_within_one_unit_of_the_level() -> None:
    """[000-05] 672 units, in 18 rounds of rounding to the target."""
    for share in sparsities(Levels.compounded()(18)):
        assert abs(round(share * 672) - share * 672) <= 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Levels([]), "one for each round"),
        (lambda: Levels("0.5"), "one for each round"),
        (lambda: Levels([0.5, 0.4]), "sparsity 0.5 and then 0.4"),
        (lambda: Levels([0.1, 0.2])(3), "for 2 rounds.*Got 3"),
        (lambda: Levels.compounded(0), "between 0 and 100"),
        (lambda: Levels.compounded(5, floor=0), "between 0 and 100"),
        (lambda: Levels.compounded(70, floor=39), "less than the floor"),
        (lambda: OneByOne(0), "at least one unit"),
        (lambda: OneByOne(3)(2), "for 3 rounds.*Got 2"),
    ],
)
def test_lists_that_make_no_sense_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SparsewoodError, match=message):
        make()


def test_one_by_one_counts_up() -> None:
    assert [event.amount for event in OneByOne(3)(3)] == [Count(1), Count(2), Count(3)]


# ---------------------------------------------------------------- thresholds


def test_rnn_ramp_is_the_formula() -> None:
    """[004-35] start 10, ramp 30, end 90, every 5: theta = 2 q f / (2 (ramp - start) + 3 (end - ramp))."""
    ramp = RNNRamp(0.11, ramp=30, end=90, start=10, every=5, multiplier=1.5)
    theta = 2 * 0.11 * 5 / (2 * 20 + 3 * 60)
    assert theta == pytest.approx(0.005)
    assert ramp.at(9) == 0.0
    assert ramp.at(10) == pytest.approx(theta / 5)
    assert ramp.at(29) == pytest.approx(0.02)
    assert ramp.at(30) == pytest.approx((21 * theta + 1.5 * theta) / 5)
    assert ramp.at(90) == ramp.at(1000) == pytest.approx((21 + 61 * 1.5) * theta / 5)
    assert ramp.at(90) == pytest.approx(0.11, rel=0.03)  # near q
    assert ramp.fixed_rounds == 17
    plan = spaced(ramp(17), ramp.start, ramp.every)
    assert [event.amount for event in plan] == [Threshold(ramp.at(event.step)) for event in plan]
    assert plan[-1].step == 90


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 9), st.floats(1, 2))
def test_rnn_ramp_rises_and_is_continuous_up_to_one_step(
    start: int, first: int, second: int, every: int, multiplier: float
) -> None:
    """[004-35]"""
    ramp = RNNRamp(1.0, start + first, start + first + second, start, every, multiplier)
    values = [ramp.at(t) for t in range(start, ramp.end + 1)]
    jumps = [b - a for a, b in itertools.pairwise(values)]
    assert all(jump > 0 for jump in jumps)
    slope = 2 / (2 * first + 3 * second)
    assert max(jumps) <= (1 + multiplier) * slope * (1 + 1e-9)  # one step of each line


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"q": 0}, "q must be above 0"),
        ({"q": float("nan")}, "finite number"),
        ({"end": 1}, "start <= ramp <= end"),
        ({"ramp": 0, "end": 0}, "start < end"),
        ({"every": 0}, "every >= 1"),
        ({"start": 0.5}, "whole steps"),
        ({"multiplier": -1}, "multiplier"),
    ],
)
def test_ramps_that_do_not_rise_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        RNNRamp(**{"q": 1.0, "ramp": 2, "end": 4, **wrong})


# ---------------------------------------------------------------- compositions


def turns(schedule: Schedule, start: int, every: int) -> dict[int, list[tuple[str, float]]]:
    found: dict[int, list[tuple[str, float]]] = {}
    for event in spaced(schedule(schedule.fixed_rounds or 1), start, every):
        assert isinstance(event.amount, Sparsity)
        assert event.layers is not None
        found.setdefault(event.step, []).append((event.layers[0], round(event.amount.fraction, 9)))
    return found


def test_round_robin_takes_layers_in_turn() -> None:
    """[003-19]"""
    both = RoundRobin((("l1", 0.3, 0.1), ("l2", 0.5, 0.3)))
    assert turns(both, 5, 10) == {
        5: [("l1", 0.1)],
        15: [("l2", 0.3)],
        25: [("l1", 0.2)],
        35: [("l2", 0.5)],
        45: [("l1", 0.3)],
    }
    assert turns(RoundRobin((("l1", 0.25, 0.1),)), 0, 1) == {0: [("l1", 0.1)], 1: [("l1", 0.2)], 2: [("l1", 0.25)]}
    assert turns(RoundRobin((("l1", 0.25, 0.5),)), 0, 1) == {0: [("l1", 0.25)]}
    assert turns(both, 5, 0) == {5: [("l2", 0.5), ("l1", 0.3)]}  # all at once: what the last turn of each says


@pytest.mark.parametrize("increment", range(1, 101))
def test_round_robin_ends_exactly_at_every_target(increment: int) -> None:
    """[003-19] [7.13] In hundredths: ceil(target / increment) turns, none of them for nothing (0.07 / 0.01 > 7)."""
    schedule = RoundRobin([(f"l{target}", target / 100, increment / 100) for target in range(1, 101)])
    assert schedule.fixed_rounds == sum(-(-target // increment) for target in range(1, 101))
    reached: dict[tuple[str, ...] | None, list[float]] = {}
    for event in schedule(schedule.fixed_rounds):
        reached.setdefault(event.layers, []).extend(sparsities((event,)))
    for target in range(1, 101):
        mine = reached[(f"l{target}",)]
        assert mine[-1] == target / 100
        assert mine == pytest.approx([min(target, increment * (k + 1)) / 100 for k in range(len(mine))])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((), "at least one layer"),
        ((("l1", 0.3),), r"\(layer, target, increment\)"),
        (((1, 0.3, 0.1),), r"\(layer, target, increment\)"),
        ((("l1", 0.0, 0.1),), "above 0"),
        ((("l1", 0.3, 0.0),), "above 0"),
        ((("l1", 1.3, 0.1),), r"\[0, 1\]"),
        ((("l1", 0.3, 0.1), ("l1", 0.5, 0.1)), "one target"),
    ],
)
def test_targets_that_make_no_sense_are_refused(targets: tuple, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        RoundRobin(targets)


def test_soft_events_are_hard_at_the_end() -> None:
    """[004-07] The target is hit by an event that holds."""
    plan = Soft(Cubic(0.9))(3)
    assert [event.regrow for event in plan] == [True, True, False]
    assert sparsities(plan) == sparsities(Cubic(0.9)(3))
    assert Soft(OneShot(0.3))(3) == (
        Event(0, Sparsity(0.3), regrow=True),
        Event(1, Sparsity(0.3), regrow=True),
        Event(2, Sparsity(0.3)),
    )
    each = Soft(RoundRobin((("a", 0.2, 0.1), ("b", 0.1, 0.1))))(3)
    assert [(event.layers, event.regrow) for event in each] == [(("a",), True), (("b",), False), (("a",), False)]


def test_004_36_phases_alternate_and_end_sparse() -> None:
    """AC/DC: whatever the number of rounds, the last phase is sparse and holds."""
    sparse, dense = Event(0, Sparsity(0.9)), Event(0, Density(1.0), regrow=True)
    for rounds in (1, 2, 5):
        plan = Alternating(0.9)(rounds)
        assert [replace(event, step=0) for event in plan] == [
            dense,
            sparse,
            dense,
            sparse,
            dense,
            sparse,
            dense,
            sparse,
        ][-rounds:]
        assert [event.step for event in plan] == list(range(rounds))


def test_soft_shares_of_what_remains_would_never_add_up() -> None:
    with pytest.raises(SparsewoodError, match=r"Exponential\(final\)"):
        Soft(Geometric(0.2))(5)
    with pytest.raises(SparsewoodError, match="Soft takes a schedule"):
        Soft(0.5)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the contract


@dataclass(frozen=True)
class Made(Schedule):
    """A schedule with the plan it is told to give."""

    plan: Plan
    fixed: int | None = None

    @property
    def fixed_rounds(self) -> int | None:
        return self.fixed

    def __call__(self, rounds: int) -> Plan:
        OneShot(0.5)(rounds)
        return self.plan


@dataclass(frozen=True)
class Short(Schedule):
    """Stops before its target."""

    def __call__(self, rounds: int) -> Plan:
        OneShot(0.5)(rounds)
        return tuple(Event(i, Sparsity(0.9 * i / rounds)) for i in range(rounds))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Short(), "must end at one amount"),
        (Made((Event(0, Sparsity(0.5)),), fixed=2), "must refuse 1 rounds"),
        (Made((Event(1, Sparsity(0.5)),)), r"ascending steps in \[0, 1\)"),
        (Made((Event(0, Sparsity(0.5), regrow=True),)), "must end with a hard event"),
        (Made(()), "must give a tuple of events"),
    ],
)
def test_the_contract_finds(broken: Schedule, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_schedule(broken)


@pytest.mark.parametrize("kind", [Sparsity, Threshold, lambda x: Count(round(10 * x))])
def test_the_contract_finds_falling_amounts(kind: type) -> None:
    @dataclass(frozen=True)
    class Falling(Schedule):
        def __call__(self, rounds: int) -> Plan:
            OneShot(0.5)(rounds)
            return (*(Event(i, kind(0.6)) for i in range(rounds - 1)), Event(rounds - 1, kind(0.5)))

        def __repr__(self) -> str:
            return "Falling()"

    with pytest.raises(AssertionError, match="fall within 2 rounds"):
        check_schedule(Falling())
