"""Which entries of a weight have a codebook in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.matrices import as_matrices, as_weight
from sparsewood.parameters import Entry

__all__ = ["PerChannel", "PerTensor"]


@dataclass(frozen=True)
class PerTensor:
    """One codebook for the whole weight."""

    def rows(self, entry: Entry, tensor: Tensor) -> Tensor:  # noqa: ARG002
        """What is shaped like the weight, as [codebooks, entries]."""
        return tensor.reshape(1, -1)

    def whole(self, entry: Entry, rows: Tensor) -> Tensor:
        """What `rows` was made of."""
        return rows.reshape(entry.parameter.shape)

    def channels(self, entry: Entry, count: int) -> Tensor:
        """Which codebook each entry of the weight has, broadcast to its shape."""
        return self.whole(entry, torch.arange(count)[:, None].expand(count, entry.parameter.numel() // count))


@dataclass(frozen=True)
class PerChannel(PerTensor):
    """One codebook for each output: axis 0, of transposed convolutions axis 1 of each group.

    What has one axis, as the scale of a normalisation, has one codebook. k-means runs for each output by itself, which
    takes longer than for the whole weight.
    """

    def rows(self, entry: Entry, tensor: Tensor) -> Tensor:
        if tensor.ndim < 2 or not tensor.numel():
            return tensor.reshape(1, -1)
        return as_matrices(entry, tensor).flatten(0, 1) if entry.inputs_first else tensor.flatten(1)

    def whole(self, entry: Entry, rows: Tensor) -> Tensor:
        if not entry.inputs_first or not rows.numel():
            return rows.reshape(entry.parameter.shape)
        return as_weight(entry, rows.unflatten(0, (entry.groups, -1)))

    def channels(self, entry: Entry, count: int) -> Tensor:
        whole = super().channels(entry, count)
        return whole[(slice(None), slice(None), *[slice(1)] * (whole.ndim - 2))].contiguous()
