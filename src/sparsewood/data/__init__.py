"""Data sets, each in disjoint training, validation and test parts."""

from sparsewood.data.digits import digits

__all__ = ["digits"]
