"""Which networks are worth having: those that no other one beats in both accuracy and size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from sparsewood.errors import SparsewoodError

__all__ = ["BETTER", "Across", "Better", "pareto_front"]

Across = Literal["compression", "speedup", "bytes", "latency", "parameters"]
Better = Literal["larger", "smaller"]

BETTER: dict[Across, Better] = {
    "compression": "larger",
    "speedup": "larger",
    "bytes": "smaller",
    "latency": "smaller",
    "parameters": "smaller",
}
"""What is better of each quantity that accuracy is set against."""


def pareto_front(points: Iterable[tuple[float, float]], *, better: Better = "larger") -> list[int]:
    """The indices of the points (x, accuracy) that no other point beats, by ascending x.

    A point beats another if it is at least as good in both numbers and better in one. More accuracy is better; of x,
    what `better` says: "larger" of compression and speed-up, "smaller" of bytes, latency and parameters (`BETTER` has
    it by name).

    Ties: of points with equal x only those of the highest accuracy stay, and of points with equal accuracy only those
    of the best x. Points that are equal in both numbers beat neither, so all of them stay or none; they come in the
    order in which they were given. Numbers are compared as they are, without a tolerance.

    Raises `SparsewoodError` for a number that is NaN or infinite.

    >>> pareto_front([(1, 0.9), (2, 0.8), (2, 0.7), (4, 0.8), (8, 0.5)])
    [0, 3, 4]
    >>> pareto_front([(100, 0.9), (50, 0.9), (25, 0.6), (60, 0.8)], better="smaller")
    [2, 1]
    >>> pareto_front([(2, 0.9), (1, 0.9), (2, 0.9)])
    [0, 2]
    """
    if better not in ("larger", "smaller"):
        raise SparsewoodError(f"better must be 'larger' or 'smaller'. Got {better!r}.")
    given = [(float(x), float(accuracy)) for x, accuracy in points]
    for number, point in enumerate(given):
        if not all(map(math.isfinite, point)):
            raise SparsewoodError(f"Points of a front must be finite numbers. Got {point} as number {number}.")
    sign = 1 if better == "larger" else -1
    ordered = sorted(range(len(given)), key=lambda i: (-sign * given[i][0], -given[i][1]))  # the best x first
    front: list[int] = []
    for index in ordered:
        last = given[front[-1]] if front else None
        if last is None or given[index][1] > last[1] or given[index] == last:
            front.append(index)
    return sorted(front, key=lambda i: (given[i][0], i))
