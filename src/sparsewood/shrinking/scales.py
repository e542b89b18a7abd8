"""Widths that a forward divides by: where a mask leaves N places and removal n, weights make up for the difference.

A root mean square is taken over N places of which N - n are 0, or over the n others:

    w x / sqrt(S / N + eps)  =  (w sqrt(N / n)) x / sqrt(S / n + eps N / n),    S = sum of x^2 over the n places

and scores of attention are divided by sqrt(N), or by sqrt(n): then queries that are sqrt(n / N) times as large give the
same. Which weights these are is told by the trace; where it leaves a choice (which third of a layer makes the
queries, whether 1 is added to a weight), each one can be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsewood.shrinking.plan import Edit, Keep, Scaling
from sparsewood.shrinking.widths import Option, Task, Widths
from sparsewood.structure import Structure

__all__ = ["Scales", "apply_scalings", "fold_scales"]

_BETTER = 0.1
"""What another option than the likeliest has to leave of the difference: a bit less may be chance."""


@dataclass(frozen=True, eq=False)
class Scales:
    """What was folded: the weights and settings that changed, and why others did not."""

    scalings: tuple[Scaling, ...] = ()
    edits: tuple[Edit, ...] = ()
    reasons: tuple[str, ...] = ()


def fold_scales(
    small: nn.Module,
    structure: Structure,
    keep: Keep,
    difference: Callable[[], float] | None = None,
    *,
    enough: float = 1e-9,
) -> Scales:
    """Change weights of the small network, in place, for what its forward divides by other widths than before.

    `structure` is the trace of the whole network, `small` what `keep` leaves of it, with its sizes and classes set.
    Without `difference` the likeliest way is taken, and nothing is proven. `difference()` says how far `small` is, as
    it is when it is called, from the masked network. Then others are tried until it is `enough` or less, alike in all
    places that are alike, and if nothing comes closer than `small` as it was, nothing is changed.

    Weights are scaled in their own dtype. To compare in float64, fold a copy in float64; `apply_scalings` then does
    the same to the network in its own dtype, and the edits do to its settings.
    """
    widths = Widths(small, structure, keep)
    tasks = widths.tasks()
    alike: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        if task.options:
            alike.setdefault(tuple(option.sort for option in task.options), []).append(task)
    choices = _Choices(small, list(alike.values()))
    if difference is not None:
        choices.improve(difference, enough)
    chosen = choices.chosen()
    for option in (option for _, option in chosen if option is not None):
        _apply(small, option)
    reasons = [f"{task.where}: {task.why_not}" for task in tasks if task.why_not]
    for task, option in chosen:
        rest = "no weight was found that makes up for its width" if option is None else option.rest
        if rest:
            reasons.append(f"{task.where}: {rest}")
    folded = [option for _, option in chosen if option is not None]
    return Scales(
        tuple(scaling for option in folded for scaling in option.scalings),
        tuple(edit for option in folded for edit in option.edits),
        tuple(dict.fromkeys(reasons)),
    )


def apply_scalings(model: nn.Module, scalings: Iterable[Scaling]) -> None:
    """Scale weights in place.

    >>> layer = nn.RMSNorm(3)
    >>> apply_scalings(layer, [Scaling("weight", 0, torch.tensor([0, 2]), 2.0)])
    >>> layer.weight.tolist()
    [2.0, 1.0, 2.0]
    """
    with torch.no_grad():
        for one in scalings:
            tensor = model.get_parameter(one.param)
            index = one.positions.to(tensor.device)
            values = tensor.index_select(one.axis, index).double()
            tensor.index_copy_(one.axis, index, ((values + one.offset) * one.factor - one.offset).to(tensor))


def _apply(model: nn.Module, option: Option) -> None:
    apply_scalings(model, option.scalings)
    for edit in option.edits:
        setattr(model.get_submodule(edit.module), edit.name, edit.after)


class _Choices:
    """For tasks that are alike the number of the option that all of them take, `None` if none."""

    def __init__(self, model: nn.Module, alike: Sequence[Sequence[Task]]) -> None:
        self.model, self.alike = model, alike
        self.numbers: list[int | None] = [0] * len(alike)

    def chosen(self) -> list[tuple[Task, Option | None]]:
        return [
            (task, None if number is None else task.options[number])
            for members, number in zip(self.alike, self.numbers, strict=True)
            for task in members
        ]

    def improve(self, difference: Callable[[], float], enough: float) -> None:
        """Begin with the likeliest options, try others in their place, and take none if that is best."""
        all_ = [option for members in self.alike for task in members for option in task.options]
        names = dict.fromkeys(scaling.param for option in all_ for scaling in option.scalings)
        before = [(t, t.detach().clone()) for t in map(self.model.get_parameter, names)]

        def tried(numbers: Sequence[int | None]) -> float:
            self.numbers[:] = numbers
            for option in (option for _, option in self.chosen() if option is not None):
                _apply(self.model, option)
            result = difference()
            with torch.no_grad():
                for tensor, values in before:
                    tensor.copy_(values)
            for edit in (edit for option in all_ for edit in option.edits):
                setattr(self.model.get_submodule(edit.module), edit.name, edit.before)
            return result

        best = list(self.numbers)
        if not best:
            return
        without, least = tried([None] * len(best)), tried(best)
        others = [(place, n) for place, members in enumerate(self.alike) for n in range(1, len(members[0].options))]
        for place, number in [*others, *((place, None) for place in range(len(best)))]:
            if least <= enough:
                break
            other = [*best[:place], number, *best[place + 1 :]]
            now = tried(other)
            if now < least * _BETTER:
                best, least = other, now
        self.numbers = best if least < without else [None] * len(best)
