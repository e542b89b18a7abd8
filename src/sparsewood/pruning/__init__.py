"""Scores and masks: where the parts are put together."""

from sparsewood.pruning.api import prune, score
from sparsewood.pruning.settings import Pruning

__all__ = ["Pruning", "prune", "score"]
