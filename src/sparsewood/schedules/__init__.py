"""When and how much: schedules are data, and need no model."""

from sparsewood.schedules.compositions import Alternating, RoundRobin, Soft
from sparsewood.schedules.plans import Event, Plan, Schedule, require_plan, spaced
from sparsewood.schedules.shares import Cubic, Exponential, Geometric, Levels, Linear, OneByOne, OneShot
from sparsewood.schedules.thresholds import RNNRamp

__all__ = [
    "Alternating",
    "Cubic",
    "Exponential",
    "Geometric",
    "Levels",
    "Linear",
    "OneByOne",
    "OneShot",
    "RNNRamp",
    "RoundRobin",
    "Soft",
]
