"""What a recipe can say of shared weights and of the file they are packed into: the section `sharing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sparsewood.errors import SparsewoodError
from sparsewood.quantization import PerChannel, PerTensor
from sparsewood.run.annotations import check
from sparsewood.train.settings import Training

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """Weights of the last pruned network take few values, and go to a small file.

    Args:
        clusters: how many values other than 0 each weight may have.
        bits: instead of `clusters`, how many bits an index has.
        per_channel: each output has values of its own.
        tuning: how the values are trained on; without it they stay as k-means has them.
        codebook_bits: 8 rounds the values to 8 bits in the end, null leaves them.

    Raises `SparsewoodError` unless one of `clusters` and `bits` is given.
    """

    clusters: Annotated[int, Field(ge=1)] | None = None
    bits: Annotated[int, Field(ge=1, le=16)] | None = None
    per_channel: bool = False
    tuning: Training | None = None
    codebook_bits: Literal[8] | None = 8

    def __post_init__(self) -> None:
        check(self)
        if (self.clusters is None) == (self.bits is None):
            raise SparsewoodError(
                f"Say how many values a weight may have: clusters or bits, one of them (null takes back the other). "
                f"Got clusters={self.clusters}, bits={self.bits}."
            )

    @property
    def per(self) -> PerTensor | PerChannel:
        """Which entries have values in common."""
        return PerChannel() if self.per_channel else PerTensor()
