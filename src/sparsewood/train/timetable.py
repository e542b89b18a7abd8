"""When the events of a `Pruning` take place inside one training."""

from __future__ import annotations

from sparsewood.errors import SparsewoodError
from sparsewood.pruning import Pruning
from sparsewood.recovery import FineTune
from sparsewood.schedules import Event

__all__ = ["timetable"]


def timetable(pruning: Pruning, steps_per_epoch: int | None) -> tuple[Event, ...]:
    """The events of a pruning inside one training, in the order of the training steps before which they take place.

    Raises `SparsewoodError` for a pruning that cannot be carried out inside one training.

    >>> from sparsewood.schedules import Linear
    >>> events = timetable(Pruning(schedule=Linear(0.5), rounds=2, unit="epoch"), steps_per_epoch=10)
    >>> [event.step for event in events]
    [0, 10]
    """
    if not isinstance(pruning, Pruning):
        raise SparsewoodError(f"Pruner needs a Pruning, for example Pruning(schedule=OneShot(0.5)). Got {pruning!r}.")
    if not isinstance(pruning.recovery, FineTune):
        raise SparsewoodError(
            f"Pruner: the training goes on with the weights it has, so recovery must be FineTune(). "
            f"Got {pruning.recovery}. Use prune_iteratively or a recipe for other recoveries."
        )
    if pruning.unit == "round" and len(pruning.plan) > 1:
        raise SparsewoodError(
            f"Pruner: with unit 'round' each of the {len(pruning.plan)} events has a training of its own, and this is "
            "one training. Use unit='epoch' or 'step', or prune_iteratively, or a recipe."
        )
    if pruning.unit == "epoch" and steps_per_epoch is None:
        raise SparsewoodError("Pruner: unit 'epoch' needs steps_per_epoch=..., the optimizer steps in one epoch.")
    by_step = pruning.events(1 if steps_per_epoch is None else steps_per_epoch)
    plan = tuple(event for step in sorted(by_step) for event in by_step[step])
    last = {event.layers: event for event in plan}
    if any(event.regrow for event in last.values()):
        raise SparsewoodError(
            f"Pruner: the plan of {pruning.schedule} ends softly, so that nothing would stay removed. The last event "
            "must have regrow=False, as in Soft(...)."
        )
    return plan
