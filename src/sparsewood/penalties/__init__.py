"""The catalogue of penalties: what a training adds to its loss, so that what is removed afterwards is small by then."""

from sparsewood.penalties.base import Penalty, Weights
from sparsewood.penalties.group_lasso import GroupLasso
from sparsewood.penalties.group_scaled import GroupScaled
from sparsewood.penalties.growing_l2 import GrowingL2
from sparsewood.penalties.scale_l1 import ScaleL1
from sparsewood.penalties.unit_map import UnitMap

__all__ = ["GroupLasso", "GroupScaled", "GrowingL2", "Penalty", "ScaleL1", "UnitMap", "Weights"]
