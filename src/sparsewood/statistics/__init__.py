"""One pass over data: sums and a sample count."""

from sparsewood.statistics.collect import Loss, collect
from sparsewood.statistics.kinds import AbsoluteGradient, Gradient, InputPower, Statistic

__all__ = ["AbsoluteGradient", "Gradient", "InputPower"]
