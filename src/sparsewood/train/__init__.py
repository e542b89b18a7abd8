"""The training loop behind the command line."""

from sparsewood.train.loop import Epoch, History, Progress, constant, cosine, fit

__all__ = ["Epoch", "History", "Progress", "constant", "cosine", "fit"]
