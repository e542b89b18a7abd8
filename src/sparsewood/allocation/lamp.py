"""Layer-adaptive magnitude: layer shares from the LAMP score, for use with any criterion inside the layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LAMP:
    """Each layer keeps as many units as a global selection by the LAMP score would leave in it.

    u_i = w_i^2 / sum of w_j^2 over the weights j of the same tensor with |w_j| >= |w_i|. With the magnitude criterion
    this is the LAMP method itself.

    Source: Lee et al. 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning",
    https://arxiv.org/abs/2010.07611.
    """
