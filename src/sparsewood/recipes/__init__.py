"""Named methods as compositions of parts."""

from sparsewood.recipes.at_initialization import (
    connection_sensitivity,
    ecs,
    force,
    grasp,
    iterative_snip,
    snip,
    synflow,
)
from sparsewood.recipes.collapse import Collapse, find_collapse
from sparsewood.recipes.greedy import global_prune, prune_all_layers
from sparsewood.recipes.iterative import prune_iteratively
from sparsewood.recipes.measurements import (
    create_binary_mask_from_scores,
    get_pruning_measurements,
    mask_and_broadcast,
    masks_from_scores,
)
from sparsewood.recipes.probing import eval_layer, probe_pruning
from sparsewood.recipes.replacing import MeanReplacer, replacing_means, without_units
from sparsewood.recipes.sensitivity_analysis import sensitivity
from sparsewood.recipes.signal_propagation import prune_with_isometry, uniform_labels
from sparsewood.recipes.thinet import ThiNet
from sparsewood.recipes.thresholds import sensitivity_thresholds

__all__ = [
    "Collapse",
    "MeanReplacer",
    "ThiNet",
    "connection_sensitivity",
    "create_binary_mask_from_scores",
    "ecs",
    "eval_layer",
    "find_collapse",
    "force",
    "get_pruning_measurements",
    "global_prune",
    "grasp",
    "iterative_snip",
    "mask_and_broadcast",
    "masks_from_scores",
    "probe_pruning",
    "prune_all_layers",
    "prune_iteratively",
    "prune_with_isometry",
    "replacing_means",
    "sensitivity",
    "sensitivity_thresholds",
    "snip",
    "synflow",
    "uniform_labels",
    "without_units",
]
