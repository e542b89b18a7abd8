"""Integers that add up: sharing a total out exactly."""

from __future__ import annotations

import numpy as np

from sparsewood.errors import SparsewoodError

Integers = np.ndarray


def round_half_even(value: float) -> int:
    """The library's one rounding rule for amounts: to the nearest whole number, halves to the even one.

    >>> round_half_even(562.5), round_half_even(187.5)
    (562, 188)
    """
    return round(value)


def apportion(total: int, weights: Integers, low: Integers, high: Integers) -> Integers:
    """Whole numbers between `low` and `high` that add up to `total`, as proportional to `weights` as can be.

    Shares that would leave their bounds are set to the bound and the rest is shared again; the fractions that remain
    are settled by the largest remainder (Hamilton's method), equal remainders in favour of the lower index.

    Args:
        total: what is shared out.
        weights: int64[n] >= 0.
        low, high: int64[n], low <= high.

    Raises `SparsewoodError` if `total` is outside [sum(low), sum(high)].

    >>> apportion(10, np.array([1, 1, 1]), np.zeros(3, int), np.full(3, 99)).tolist()
    [4, 3, 3]
    >>> apportion(10, np.array([8, 1, 1]), np.zeros(3, int), np.array([4, 9, 9])).tolist()
    [4, 3, 3]
    """
    weights, low, high = (np.asarray(x).astype(object) for x in (weights, low, high))
    if not low.sum() <= total <= high.sum():
        raise SparsewoodError(f"Cannot share out {total:,}: the parts take between {low.sum():,} and {high.sum():,}.")
    shares = low.copy()
    free = np.ones(len(weights), dtype=bool)
    rest, weight = total, int(weights.sum())
    while free.any() and weight > 0:
        # Exact: share i is rest * weights[i] / weight; everything is compared after multiplying by weight.
        below = free & (rest * weights < low * weight)
        above = free & (rest * weights > high * weight)
        if not below.any() and not above.any():
            break
        excess = (low * weight - rest * weights)[below].sum() - (rest * weights - high * weight)[above].sum()
        fixed = below if excess >= 0 else np.zeros_like(below)
        fixed = fixed | (above if excess <= 0 else np.zeros_like(above))
        shares[fixed] = np.where(below, low, high)[fixed]
        free &= ~fixed
        rest, weight = total - int(shares[~free].sum()), int(weights[free].sum())
    if weight > 0 and free.any():
        shares[free] = (rest * weights // weight)[free]
        remainders = np.where(free, rest * weights % weight, -1)
        missing = total - int(shares.sum())
        best = sorted(np.flatnonzero(free), key=lambda i: (-remainders[i], i))[:missing]
        shares[best] += 1
    return _fill(shares, total, low, high).astype(np.int64)


def _fill(shares: Integers, total: int, low: Integers, high: Integers) -> Integers:
    """Put what weightless parts must take where there is room, lower indices first."""
    missing = total - int(shares.sum())
    for i in range(len(shares)):
        step = int(min(max(missing, low[i] - shares[i]), high[i] - shares[i]))
        shares[i] += step
        missing -= step
    return shares
