"""Structure: what hangs together in a network, found by running it once."""

from sparsewood.structure.structure import Barrier, Group, Slice, Structure, Tap
from sparsewood.structure.trace import trace

__all__ = ["Barrier", "Group", "Slice", "Structure", "Tap", "trace"]
