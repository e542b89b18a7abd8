"""Named methods as compositions of parts."""

from sparsewood.recipes.iterative import prune_iteratively

__all__ = ["prune_iteratively"]
