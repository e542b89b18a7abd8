"""A plan, looked at before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsewood.report.plots import COLORS, MARKERS, new_figure, save_figure
from sparsewood.report.table import Table
from sparsewood.schedules import Event, Plan, spaced
from sparsewood.types import Amount, Compression, Count, Density, Remaining, Sparsity, Threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_plan", "show_plan"]

SHARE = "sparsity"


def show_plan(plan: Plan, *, start: int = 0, every: int = 1) -> Table:
    """The events of a plan: before which step (round, epoch) what is pruned, how much, and whether the zeros stay.

    `start` and `every` are those of `spaced`, and its errors.

    >>> from sparsewood.report.table import as_text
    >>> from sparsewood.schedules import Linear, Soft
    >>> print(as_text(show_plan(Soft(Linear(0.5))(2), start=10, every=5)))
    Plan of 2 events
    before         amount  layers     zeros
    ------  -------------  ------  --------
    10      sparsity 0.25     all  may grow
    15       sparsity 0.5     all      stay
    """
    events = spaced(plan, start, every)
    rows = tuple(
        (
            str(event.step),
            _words(event.amount),
            ", ".join(event.layers) if event.layers else "all",
            "may grow" if event.regrow else "stay",
        )
        for event in events
    )
    plural = "" if len(events) == 1 else "s"
    return Table(f"Plan of {len(events)} event{plural}", ("before", "amount", "layers", "zeros"), rows)


def plot_plan(plan: Plan, path: str | Path | None = None, *, start: int = 0, every: int = 1) -> Figure:
    """Amounts over steps, one staircase for each group of layers; written to `path` if there is one.

    Sparsities, densities and compressions are drawn as the sparsity that they mean (compression as 1 - 1 / ratio, of
    all parameters), `Remaining` compounded; counts and thresholds have panels of their own. Hollow points are soft
    events. Raises as `spaced` does, and if matplotlib is missing.

    >>> from sparsewood.schedules import Cubic
    >>> plot_plan(Cubic(0.9)(10)).axes[0].get_ylabel()
    'sparsity'
    """
    events = spaced(plan, start, every)
    figure = new_figure()
    kinds = list(dict.fromkeys(_kind(event.amount) for event in events))
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for kind, axes in zip(kinds, panels, strict=True):
        groups: dict[tuple[str, ...] | None, list[Event]] = {}
        for event in events:
            if _kind(event.amount) == kind:
                groups.setdefault(event.layers, []).append(event)
        for number, (layers, members) in enumerate(groups.items()):
            _draw(axes, members, ", ".join(layers) if layers else "all", number)
        axes.set_xlabel("step")
        axes.set_ylabel(kind)
        axes.grid(alpha=0.3)
        if kind == SHARE:
            axes.set_ylim(-0.02, 1.02)
        if len(groups) > 1:
            axes.legend(loc="best")
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw(axes: Axes, events: Sequence[Event], label: str, number: int) -> None:
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    steps, values = [event.step for event in events], _values([event.amount for event in events])
    axes.step(steps, values, where="post", color=color, linewidth=1.5, label=label)
    for soft in (False, True):
        places = [i for i, event in enumerate(events) if event.regrow == soft]
        fill = "none" if soft else color
        axes.plot([steps[i] for i in places], [values[i] for i in places], marker, color=color, markerfacecolor=fill)


def _values(amounts: Sequence[Amount]) -> list[float]:
    values: list[float] = []
    for amount in amounts:
        match amount:
            case Count(value) | Threshold(value) | Sparsity(value):
                values.append(value)
            case Density(kept):
                values.append(1 - kept)
            case Compression(ratio):
                values.append(1 - 1 / ratio)
            case Remaining(fraction):
                values.append(1 - (1 - (values[-1] if values else 0.0)) * (1 - fraction))
    return values


def _kind(amount: Amount) -> str:
    match amount:
        case Count():
            return "units"
        case Threshold():
            return "threshold"
        case _:
            return SHARE


def _words(amount: Amount) -> str:
    match amount:
        case Count(n):
            return f"{n} unit{'' if n == 1 else 's'}"
        case Sparsity(fraction):
            return f"sparsity {_number(fraction)}"
        case Density(fraction):
            return f"density {_number(fraction)}"
        case Remaining(fraction):
            return f"{_number(fraction)} of the rest"
        case Compression(ratio):
            return f"compression {_number(ratio)}"
        case Threshold(value):
            return f"scores < {_number(value)}"


def _number(value: float) -> str:
    return f"{value:.6g}"
