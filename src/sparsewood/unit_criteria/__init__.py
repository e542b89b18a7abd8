"""The catalogue of criteria of units: rules that score channels, neurons and heads, higher = keep."""

from sparsewood.unit_criteria.activation import MeanActivation, MeanEnergy, NonZeroFraction
from sparsewood.unit_criteria.base import SiteCriterion, UnitCriterion, needs_data, reads_images
from sparsewood.unit_criteria.channel_independence import ChannelIndependence
from sparsewood.unit_criteria.cost import MinusMACs
from sparsewood.unit_criteria.feature_rank import FeatureRank
from sparsewood.unit_criteria.filter_gradient import FilterGradient
from sparsewood.unit_criteria.filter_norm import FilterNorm
from sparsewood.unit_criteria.fisher import Fisher
from sparsewood.unit_criteria.gate import GateTaylor
from sparsewood.unit_criteria.geometric_median import GeometricMedian
from sparsewood.unit_criteria.hessian import HessianTrace
from sparsewood.unit_criteria.mean_replacement import MeanReplacement
from sparsewood.unit_criteria.memorization import OutlierSelectivity, UnitMem
from sparsewood.unit_criteria.normalized import PerLayerNormalized
from sparsewood.unit_criteria.selectivity import ClassSelective
from sparsewood.unit_criteria.taylor import TaylorRemoval

__all__ = [
    "ChannelIndependence",
    "ClassSelective",
    "FeatureRank",
    "FilterGradient",
    "FilterNorm",
    "Fisher",
    "GateTaylor",
    "GeometricMedian",
    "HessianTrace",
    "MeanActivation",
    "MeanEnergy",
    "MeanReplacement",
    "MinusMACs",
    "NonZeroFraction",
    "OutlierSelectivity",
    "PerLayerNormalized",
    "TaylorRemoval",
    "UnitMem",
]
