"""Values that are whole multiples of one step: a codebook of signed bytes.

A product in double precision, rounded to the words' own, gives the very bits, or they are not written so. Of numbers in
single and double precision.
"""

from __future__ import annotations

import numpy as np

from sparsewood.packing.words import Kind

__all__ = ["STEPS", "in_steps", "multiples"]

_FLOATS = {4: np.dtype("<f4"), 8: np.dtype("<f8")}
_LARGEST = 127
STEPS = 2 * _LARGEST + 1
"""How many values there can be."""


def in_steps(values: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray] | None:
    """The step, an array of one word, and how many times each value has it, as bytes in two's complement.

    None if there is no step of which all values are at most 127 whole multiples.

    >>> step, times = in_steps(np.array([0.0, 0.25, 31.75, -0.5], np.float32).view(np.uint32), Kind(4, 1, True))
    >>> step.view(np.float32), times.view(np.int8)
    (array([0.25], dtype=float32), array([  0,   1, 127,  -2], dtype=int8))
    """
    if not kind.floating or kind.width not in _FLOATS or len(values) > STEPS:
        return None
    numbers = values.view(_FLOATS[kind.width])
    if not np.isfinite(numbers).all():
        return None
    numbers = numbers.astype(np.float64)
    most = np.abs(numbers).max()
    for largest in range(_LARGEST, 0, -1):
        step = np.array([most / largest], _FLOATS[kind.width])
        if not step[0]:
            break
        times = np.rint(numbers / np.float64(step[0])).clip(-128, _LARGEST).astype(np.int8).view(np.uint8)
        word = step.view(kind.dtype)
        if np.array_equal(multiples(word, times, kind), values):
            return word, times
    return None


def multiples(step: np.ndarray, times: np.ndarray, kind: Kind) -> np.ndarray:
    """The words of so many times the step; the inverse of `in_steps`."""
    number = step.view(_FLOATS[kind.width]).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # what a damaged file asks for
        return (number * times.view(np.int8)).astype(_FLOATS[kind.width]).view(kind.dtype)
