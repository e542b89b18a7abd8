"""The catalogue of criteria: rules that give importance scores, higher = keep."""

from sparsewood.criteria.activation import ActivationMagnitude
from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.criteria.batchnorm import BatchNormScale
from sparsewood.criteria.gradient import WeightTimesAbsoluteGradient, WeightTimesGradient
from sparsewood.criteria.lamp import LAMP
from sparsewood.criteria.magnitude import Magnitude
from sparsewood.criteria.norm import LpNorm, MeanPower
from sparsewood.criteria.random import Random

__all__ = [
    "LAMP",
    "ActivationMagnitude",
    "BatchNormScale",
    "LpNorm",
    "Magnitude",
    "MeanPower",
    "Random",
    "WeightTimesAbsoluteGradient",
    "WeightTimesGradient",
]
