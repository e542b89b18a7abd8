"""One pass over data: sums and a sample count."""

from sparsewood.statistics.collect import Loss, collect
from sparsewood.statistics.hessian_gradient import HessianGradient
from sparsewood.statistics.kinds import AbsoluteGradient, Gradient, InputPower, Statistic
from sparsewood.statistics.synaptic_flow import SynapticFlow

__all__ = ["AbsoluteGradient", "Gradient", "HessianGradient", "InputPower", "SynapticFlow"]
