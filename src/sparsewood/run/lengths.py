"""How long networks are trained: a pruned one, and the dense one that it is compared with."""

from __future__ import annotations

from sparsewood.recovery import Reinitialize, Scratch
from sparsewood.run.recipe import Recipe, Variant

__all__ = ["dense_trainings", "total_epochs", "trainings_after"]


def dense_trainings(variant: Variant) -> int:
    """How often the dense network is trained on, to be compared with a variant: not where that begins anew."""
    again = variant.pruning.recovery.follow.settings == "training"
    return 0 if again and _begins_anew(variant) else trainings_after(variant)


def total_epochs(recipe: Recipe, variant: Variant) -> int:
    """Epochs of a network from its first weights to the pruned one.

    Weights that are gone back to, or drawn anew, have one training behind them. One that begins late in the schedule
    (`RewindRate(step)`) is counted whole, so that no control has less.
    """
    again = variant.pruning.recovery.follow.settings == "training"
    if again and _begins_anew(variant):
        return recipe.training.epochs
    dense = recipe.training.epochs if recipe.train_dense and variant.at_step is None else 0
    after = (recipe.training if again else variant.retraining or recipe.training).epochs
    return dense + trainings_after(variant) * after


def trainings_after(variant: Variant) -> int:
    """How many trainings in a row a pruned network has behind it, after that of the weights that were pruned first."""
    alone = variant.in_training or variant.independent or variant.masks_from is not None
    again = variant.pruning.recovery.follow.settings == "training"
    return 1 if alone or (again and _begins_anew(variant)) else len({event.step for event in variant.pruning.plan})


def _begins_anew(variant: Variant) -> bool:
    """Whether each training begins with earlier or new weights, so that the last one is all that there is."""
    recovery = variant.pruning.recovery
    anew = isinstance(recovery, Reinitialize | Scratch) or bool(recovery.snapshots)
    return variant.at_step is not None or anew
