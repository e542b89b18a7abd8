"""What follows pruning: train on, go back, or start anew."""

from sparsewood.recovery.restarts import FineTune, Recovery, Reinitialize, Rewind, Snapshot, snapshot

__all__ = ["FineTune", "Reinitialize", "Rewind"]
