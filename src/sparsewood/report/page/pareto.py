"""Who dominates whom: what is needed to draw the front of those networks that somebody chooses to look at."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewood.report.fronts import Better

__all__ = ["dominators"]


def dominators(across: Sequence[float], up: Sequence[float], better: Better) -> list[list[int]]:
    """For every point, which points dominate it: at least as good across and up, and better in one of the two.

    Up, more is better; across it is what `better` says. Equal points do not dominate one another. The front is the
    points that have no dominators (`report.fronts.pareto_front`); without some points, those that have no others.

    >>> dominators([1.0, 2.0, 4.0], [0.9, 0.95, 0.8], "larger")
    [[1], [], []]
    """
    sign = 1 if better == "larger" else -1
    points = [(sign * x, y) for x, y in zip(across, up, strict=True)]
    return [
        [number for number, (a, b) in enumerate(points) if a >= x and b >= y and (a, b) != (x, y)] for x, y in points
    ]
