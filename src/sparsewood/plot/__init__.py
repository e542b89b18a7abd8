"""Pictures of a network and of what was done to it: figures of matplotlib that no window knows of."""

from sparsewood.plot.bars import layer_sparsity
from sparsewood.plot.calls import ActivationCall, activation_calls
from sparsewood.plot.curves import training
from sparsewood.plot.filters import KernelMaps, kernel_maps, kernels
from sparsewood.plot.maps import activations
from sparsewood.plot.study_accuracy import accuracy_curves
from sparsewood.plot.study_adjacency import Adjacency, adjacency, connections
from sparsewood.plot.study_figures import figures, left_out, write_figures
from sparsewood.plot.study_masks import layer_profile, mask_overlap, score_histogram, unit_maps
from sparsewood.plot.study_network import network
from sparsewood.plot.study_results import LevelCurve, before_and_after, level_curves, levels
from sparsewood.plot.study_training import memorization, memorization_violins, sensitivity_curves, training_curves
from sparsewood.plot.values import ValueCounts, value_counts, weight_sharing

__all__ = [
    "ActivationCall",
    "Adjacency",
    "KernelMaps",
    "LevelCurve",
    "ValueCounts",
    "accuracy_curves",
    "activation_calls",
    "activations",
    "adjacency",
    "before_and_after",
    "connections",
    "figures",
    "kernel_maps",
    "kernels",
    "layer_profile",
    "layer_sparsity",
    "left_out",
    "level_curves",
    "levels",
    "mask_overlap",
    "memorization",
    "memorization_violins",
    "network",
    "score_histogram",
    "sensitivity_curves",
    "training",
    "training_curves",
    "unit_maps",
    "value_counts",
    "weight_sharing",
    "write_figures",
]
