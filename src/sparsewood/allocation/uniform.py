"""The same density in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsewood.algebra import Integers
from sparsewood.allocation.budgets import Layer


@dataclass(frozen=True)
class Uniform:
    """Every layer keeps the same share of its units: weight of layer l = N_l.

    >>> Uniform()
    Uniform()
    """

    def weights(self, layers: Sequence[Layer]) -> Integers:
        """int64[layers]: what the kept units are shared out in proportion to."""
        return np.array([layer.units for layer in layers], dtype=np.int64)
