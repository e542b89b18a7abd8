"""Units: what each neuron, channel or head of a network does, measured in one pass over data."""

from sparsewood.units.collecting import UnitStatistics, collect, collect_units, reduce_unit_statistics
from sparsewood.units.kinds import (
    AbsoluteFirstOrder,
    AbsoluteMeanReplacement,
    ActivationEnergy,
    ActivationMaximum,
    ActivationMean,
    ActivationMinimum,
    ClassSums,
    Extremes,
    FirstOrder,
    MeanGradient,
    SecondMoments,
    SquaredFirstOrder,
    UnitStatistic,
    ZeroFraction,
)
from sparsewood.units.liveness import Liveness, ZeroFractions, apoz, dead_units
from sparsewood.units.matrix import ActivationMatrix
from sparsewood.units.memorization import UnitMemorization, unit_memorization
from sparsewood.units.selectivity import ClassSelectivity, class_selectivity
from sparsewood.units.sites import Layer, Site, find_layers, find_sites

__all__ = [
    "AbsoluteFirstOrder",
    "AbsoluteMeanReplacement",
    "ActivationEnergy",
    "ActivationMatrix",
    "ActivationMaximum",
    "ActivationMean",
    "ActivationMinimum",
    "ClassSelectivity",
    "ClassSums",
    "Extremes",
    "FirstOrder",
    "Layer",
    "Liveness",
    "MeanGradient",
    "SecondMoments",
    "Site",
    "SquaredFirstOrder",
    "UnitMemorization",
    "UnitStatistic",
    "UnitStatistics",
    "ZeroFraction",
    "ZeroFractions",
    "apoz",
    "class_selectivity",
    "collect",
    "collect_units",
    "dead_units",
    "find_layers",
    "find_sites",
    "reduce_unit_statistics",
    "unit_memorization",
]
