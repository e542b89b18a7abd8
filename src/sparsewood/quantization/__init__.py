"""Fewer different values: weight sharing by k-means, and its values trained on."""

from sparsewood.quantization.granularities import PerChannel, PerTensor
from sparsewood.quantization.kmeans import Clusters, assign, kmeans
from sparsewood.quantization.rounding import round_codebooks
from sparsewood.quantization.share import share_weights
from sparsewood.quantization.sharing import SharedWeight, Sharing
from sparsewood.quantization.starts import DensityBased, KMeansPlusPlus, Linear, Optimal, Start
from sparsewood.quantization.tuning import CentroidKeeper, tune_centroids

__all__ = [
    "CentroidKeeper",
    "Clusters",
    "DensityBased",
    "KMeansPlusPlus",
    "Linear",
    "Optimal",
    "PerChannel",
    "PerTensor",
    "SharedWeight",
    "Sharing",
    "Start",
    "assign",
    "kmeans",
    "round_codebooks",
    "share_weights",
    "tune_centroids",
]
