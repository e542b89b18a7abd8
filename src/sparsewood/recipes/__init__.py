"""Named methods as compositions of parts."""

from sparsewood.recipes.iterative import prune_iteratively
from sparsewood.recipes.sensitivity_analysis import sensitivity

__all__ = ["prune_iteratively", "sensitivity"]
