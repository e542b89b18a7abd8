"""Erdos-Renyi-Kernel allocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsewood.algebra import Integers
from sparsewood.allocation.budgets import Layer


@dataclass(frozen=True)
class ERK:
    """Density of layer l proportional to (n_out + n_in + k_h + k_w) / (n_out n_in k_h k_w).

    Small layers stay denser. A layer that would exceed density 1 is dense and the others share the rest, so that the
    total is exact. For matrices this is Erdos-Renyi (Mocanu et al. 2018).

    Source: Evci et al. 2020, "Rigging the Lottery", https://arxiv.org/abs/1911.11134.
    """

    def weights(self, layers: Sequence[Layer]) -> Integers:
        """int64[layers]: N_l (sum of dims) / (product of dims), over the unit grid."""
        return np.array([sum(layer.grid) if layer.units else 0 for layer in layers], dtype=np.int64)
