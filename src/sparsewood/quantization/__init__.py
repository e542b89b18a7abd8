"""Fewer different values: weight sharing by k-means; small integers with a scale; training for either."""

from sparsewood.quantization.affine import Affine, affine_of, affine_parameters, dequantize, quantize
from sparsewood.quantization.aware import QuantizationAware
from sparsewood.quantization.folding import Folded, fold_batchnorm
from sparsewood.quantization.granularities import PerChannel, PerTensor
from sparsewood.quantization.kmeans import Clusters, assign, kmeans
from sparsewood.quantization.ranges import Histogram, MinMax, Percentile
from sparsewood.quantization.rounding import round_codebooks
from sparsewood.quantization.share import share_weights
from sparsewood.quantization.sharing import SharedWeight, Sharing
from sparsewood.quantization.starts import DensityBased, KMeansPlusPlus, Linear, Optimal, Start
from sparsewood.quantization.tuning import CentroidKeeper, tune_centroids

__all__ = [
    "Affine",
    "CentroidKeeper",
    "Clusters",
    "DensityBased",
    "Folded",
    "Histogram",
    "KMeansPlusPlus",
    "Linear",
    "MinMax",
    "Optimal",
    "PerChannel",
    "PerTensor",
    "Percentile",
    "QuantizationAware",
    "SharedWeight",
    "Sharing",
    "Start",
    "affine_of",
    "affine_parameters",
    "assign",
    "dequantize",
    "fold_batchnorm",
    "kmeans",
    "quantize",
    "round_codebooks",
    "share_weights",
    "tune_centroids",
]
