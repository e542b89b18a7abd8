"""A network in one small file: values coded near their entropy, without loss."""

from sparsewood.packing.api import pack, unpack
from sparsewood.packing.report import PackedTensor, PackReport

__all__ = ["PackReport", "PackedTensor", "pack", "unpack"]
