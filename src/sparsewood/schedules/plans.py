"""When to prune and how much: a schedule turns a number of rounds into a plan, which is plain data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from sparsewood.errors import SparsewoodError
from sparsewood.types import Amount, Remaining


@dataclass(frozen=True, repr=False)
class Event:
    """Before round `step` (from 0), prune to `amount`.

    With `layers` (names or patterns, as in `include`) only those are pruned by this event, and the amount is theirs.
    With `regrow` the event is soft: earlier masks do not bind it, and what it sets to zero is free to grow again.

    >>> from sparsewood.types import Sparsity
    >>> Event(3, Sparsity(0.5)), Event(0, Sparsity(0.5), layers=("conv1",), regrow=True).regrow
    (Event(step=3, amount=Sparsity(fraction=0.5)), True)
    """

    step: int
    amount: Amount
    layers: tuple[str, ...] | None = None
    regrow: bool = False

    def __post_init__(self) -> None:
        named = isinstance(self.layers, tuple) and all(isinstance(name, str) for name in self.layers)
        if self.layers is not None and not (named and self.layers):
            raise SparsewoodError(
                f"The layers of an event are a tuple of names or patterns, or None for all. Got {self.layers!r}."
            )

    def __repr__(self) -> str:
        """As a dataclass, without what is as usual."""
        told = [f for f in fields(self) if f.name in ("step", "amount") or getattr(self, f.name) != f.default]
        return f"Event({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in told)})"


Plan = tuple[Event, ...]


class Schedule(ABC):
    """A number of rounds -> a plan."""

    @property
    def spacing(self) -> tuple[int, int] | None:
        """The first training step, and how many lie between two events; None if any will do."""
        return None

    @abstractmethod
    def __call__(self, rounds: int) -> Plan: ...

    @property
    def fixed_rounds(self) -> int | None:
        """The one number of rounds that this schedule is for; None if any will do."""
        return None


def require_rounds(rounds: int, exactly: int | None = None) -> None:
    """Raise `SparsewoodError` unless `rounds` is a whole number >= 1, or the one that is wanted."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise SparsewoodError(f"A schedule needs a whole number of rounds >= 1. Got {rounds!r}.")
    if exactly is not None and rounds != exactly:
        raise SparsewoodError(
            f"This schedule is for {exactly} rounds, one for each of its events. Got {rounds}: pass "
            "schedule.fixed_rounds, or change the schedule."
        )


def require_plan(plan: Plan) -> None:
    """Raise `SparsewoodError` unless `plan` can be carried out.

    It is a tuple of events, at least one, at whole steps >= 0; events at one step name different layers.

    >>> from sparsewood.types import Sparsity
    >>> require_plan((Event(0, Sparsity(0.1), ("a",)), Event(0, Sparsity(0.2), ("b",))))
    """
    if not isinstance(plan, tuple) or not all(isinstance(event, Event) for event in plan):
        raise SparsewoodError(f"A plan is a tuple of events, such as Cubic(0.9)(10). Got {plan!r:.80}.")
    if not plan:
        raise SparsewoodError("The plan is empty: there is nothing to do. Get one from a schedule, as OneShot(0.9)(1).")
    steps = [event.step for event in plan]
    if any(isinstance(step, bool) or not isinstance(step, int) or step < 0 for step in steps):
        raise SparsewoodError(f"A plan needs events at whole steps >= 0. Got steps {steps}.")
    together: dict[int, list[Event]] = {}
    for event in plan:
        together.setdefault(event.step, []).append(event)
    for step, events in together.items():
        clash = _clash(events)
        if clash is not None:
            raise SparsewoodError(
                f"A plan needs events at different steps, unless they name different layers. Got steps {steps}; at "
                f"step {step} several are for {clash}."
            )


def _clash(events: Sequence[Event]) -> str | None:
    """What more than one of the events is for."""
    if len(events) > 1 and any(event.layers is None for event in events):
        return "all layers"
    names = [name for event in events for name in event.layers or ()]
    return next((repr(name) for name in names if names.count(name) > 1), None)


def spaced(plan: Plan, start: int, every: int) -> Plan:
    """The plan with event steps turned into steps of training: start + every * step.

    With `every=0` all happens at once, at `start`: as amounts are totals, of several events for the same layers the
    last says it all. Raises `SparsewoodError` if `start` or `every` is no whole number >= 0, and for events that cannot
    be joined: `Remaining`, which is no total, and layers that are named together once and apart another time.

    >>> from sparsewood.types import Count
    >>> [event.step for event in spaced((Event(0, Count(1)), Event(1, Count(2))), start=5, every=10)]
    [5, 15]
    >>> spaced((Event(0, Count(1)), Event(1, Count(2))), start=5, every=0)
    (Event(step=5, amount=Count(n=2)),)
    """
    for name, value in (("start", start), ("every", every)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SparsewoodError(f"{name} must be a whole number of steps >= 0. Got {value!r}.")
    require_plan(plan)
    moved = tuple(replace(event, step=start + every * event.step) for event in plan)
    if every > 0:
        return moved
    last = {event.layers: event for event in moved}
    if len(last) < len(moved) and any(isinstance(event.amount, Remaining) for event in moved):
        raise SparsewoodError("Events of Remaining cannot be joined into one: use every >= 1, or a schedule of totals.")
    joined = tuple(event for event in moved if last[event.layers] is event)
    require_plan(joined)
    return joined
