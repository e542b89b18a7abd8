"""What the figures of a study share: a sheet of panels, words about what is shown, and the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.report.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Path", "finish", "heading", "of_problem", "panels", "require_some"]

Path = str | os.PathLike[str] | None
Item = TypeVar("Item")


def panels(
    count: int, *, columns: int = 3, width: float = 4.6, height: float = 3.7, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with so many drawings, row by row, each of so many inches."""
    across = max(1, min(columns, count))
    if count == 4:  # two and two, not three and one
        across = min(across, 2)
    rows = math.ceil(count / across)
    figure = new_figure(max(6.6, width * across), height * rows + 0.5)
    grid = figure.subplots(rows, across, squeeze=False, sharey=sharey)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def require_some(items: Iterable[Item], what: str) -> list[Item]:
    """The items as a list. Raises `SparsewoodError` if there is none."""
    found = list(items)
    if not found:
        raise SparsewoodError(f"There is nothing to draw: no {what} was given.")
    return found


def of_problem(items: Sequence[Item], problem: str | None) -> list[Item]:
    """Those of one problem, or all. Raises `UnknownName` if there is no such problem."""
    if problem is None:
        return list(items)
    found = [item for item in items if getattr(item, "problem") == problem]  # noqa: B009 - any record with a problem
    if not found:
        raise UnknownName.among("problem", problem, dict.fromkeys(str(getattr(item, "problem")) for item in items))  # noqa: B009
    return found


def heading(problem: str, method: str = "", amount: float | None = None) -> str:
    """What a drawing is of.

    >>> heading("digits, small_conv", "magnitude", 8.0)
    'digits, small_conv: magnitude, asked 8x'
    >>> heading("digits, small_conv")
    'digits, small_conv'
    """
    details = [method] if method else []
    if amount is not None:
        details.append(f"asked {amount:.4g}x")
    return ": ".join(part for part in (problem, ", ".join(details)) if part)


def finish(figure: Figure, path: Path) -> Figure:
    """Write the figure if there is a path, and return it."""
    if path is not None:
        save_figure(figure, os.fspath(path))
    return figure
