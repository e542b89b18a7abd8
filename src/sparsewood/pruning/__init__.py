"""Scores and masks: where the parts are put together."""

from sparsewood.pruning.api import prune, score

__all__ = ["prune", "score"]
