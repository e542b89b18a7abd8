"""Pictures of a network and of what was done to it: figures of matplotlib that no window knows of."""

from sparsewood.plot.bars import layer_sparsity
from sparsewood.plot.calls import ActivationCall, activation_calls
from sparsewood.plot.curves import training
from sparsewood.plot.filters import KernelMaps, kernel_maps, kernels
from sparsewood.plot.maps import activations
from sparsewood.plot.values import ValueCounts, value_counts, weight_sharing

__all__ = [
    "ActivationCall",
    "KernelMaps",
    "ValueCounts",
    "activation_calls",
    "activations",
    "kernel_maps",
    "kernels",
    "layer_sparsity",
    "training",
    "value_counts",
    "weight_sharing",
]
