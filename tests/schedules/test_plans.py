"""Schedules: plain data, right to the last event."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood import schedules
from sparsewood.errors import SparsewoodError
from sparsewood.schedules import Cubic, Event, Geometric, Linear, OneShot
from sparsewood.testing import check_schedule
from sparsewood.types import Compression, Remaining, Sparsity


def sparsities(plan: tuple[Event, ...]) -> list[float]:
    return [event.amount.fraction for event in plan if isinstance(event.amount, Sparsity)]


def test_one_shot_has_one_event_whatever_the_rounds() -> None:
    assert OneShot(Compression(8))(5) == (Event(0, Compression(8)),)


def test_cubic_is_automated_gradual_pruning() -> None:
    """[004-34] 0 to 0.9 in 10 steps."""
    golden = [0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    assert sparsities(Cubic(0.9)(10)) == pytest.approx(golden, abs=5e-5)


@given(st.floats(0, 1), st.integers(1, 50))
@pytest.mark.parametrize("schedule", [Cubic, Linear])
def test_targets_are_hit_at_the_last_event_and_never_fall(schedule: type, final: float, rounds: int) -> None:
    """[7.13]"""
    reached = sparsities(schedule(final)(rounds))
    assert len(reached) == rounds
    assert reached[-1] == final
    assert reached == sorted(reached)


def test_geometric_takes_a_share_of_what_is_left() -> None:
    assert Geometric(0.25)(3) == tuple(Event(i, Remaining(0.25)) for i in range(3))


@pytest.mark.parametrize("name", schedules.__all__)
@pytest.mark.parametrize("rounds", [0, -1, 1.5, True])
def test_rounds_must_be_whole_and_positive(name: str, rounds: object) -> None:
    with pytest.raises(SparsewoodError, match="whole number of rounds"):
        getattr(schedules, name)(0.5)(rounds)


@pytest.mark.parametrize("name", schedules.__all__)
def test_amounts_are_checked_when_a_schedule_is_made(name: str) -> None:
    with pytest.raises(SparsewoodError, match=r"\[0, 1\]"):
        getattr(schedules, name)(1.5)


@pytest.mark.parametrize("name", schedules.__all__)
@pytest.mark.parametrize("amount", [0.01, 0.9, 1.0])
def test_contract(name: str, amount: float) -> None:
    check_schedule(getattr(schedules, name)(amount))


@dataclass(frozen=True)
class Short(schedules.Schedule):
    """Stops before its target."""

    def __call__(self, rounds: int) -> tuple[Event, ...]:
        schedules.OneShot(0.5)(rounds)
        return tuple(Event(i, Sparsity(0.9 * i / rounds)) for i in range(rounds))


def test_the_contract_finds_a_schedule_that_stops_short() -> None:
    with pytest.raises(AssertionError, match="must end at one amount"):
        check_schedule(Short())
