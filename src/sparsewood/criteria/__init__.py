"""The catalogue of criteria: rules that give importance scores, higher = keep."""

from sparsewood.criteria.activation import ActivationMagnitude
from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.criteria.batchnorm import BatchNormScale
from sparsewood.criteria.ecs import ECS
from sparsewood.criteria.gradient import WeightTimesAbsoluteGradient, WeightTimesGradient
from sparsewood.criteria.grasp import GraSP
from sparsewood.criteria.lamp import LAMP
from sparsewood.criteria.magnitude import Magnitude
from sparsewood.criteria.norm import LpNorm, MeanPower
from sparsewood.criteria.random import Random
from sparsewood.criteria.synflow import SynFlow

__all__ = [
    "ECS",
    "LAMP",
    "ActivationMagnitude",
    "BatchNormScale",
    "GraSP",
    "LpNorm",
    "Magnitude",
    "MeanPower",
    "Random",
    "SynFlow",
    "WeightTimesAbsoluteGradient",
    "WeightTimesGradient",
]
