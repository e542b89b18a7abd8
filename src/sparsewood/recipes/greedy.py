"""Units pruned one at a time, the cheapest of the whole network first, or layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.batches import require_batches, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks, not_held
from sparsewood.recipes.replacing import with_new_biases
from sparsewood.shrinking.costs import Costs
from sparsewood.shrinking.folding import fold_means
from sparsewood.shrinking.lifting import UnitScores, require_scores
from sparsewood.shrinking.unit_masks import Measured, prune_units, units_left
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.types import Masks
from sparsewood.unit_criteria import MeanReplacement
from sparsewood.units.tracing import structure_of

__all__ = ["Pruned", "global_prune", "prune_all_layers"]

Update = Callable[[nn.Module, Masks], object]
_MEAN_REPLACEMENT = MeanReplacement()


@dataclass(frozen=True)
class Pruned:
    """One step: which unit of which group went, its score as it competed, and the multiply-adds that are left."""

    group: str
    unit: int
    score: float
    macs: int


def global_prune(
    model: nn.Module,
    data: Iterable[Any],
    units: int,
    *,
    criterion: UnitScores = _MEAN_REPLACEMENT,
    loss: Loss | None = None,
    flop_weight: float = 0.0,
    bias_propagation: bool = True,
    update: Update | None = None,
    masks: Mapping[str, Tensor] | None = None,
    min_units: int = 1,
    structure: Structure | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[Pruned], object] | None = None,
) -> tuple[Masks, tuple[Pruned, ...]]:
    """Prune one unit after the other, in place: at every step the one with the lowest score of the whole network.

    Scores are measured anew at every step, divided by their L2 norm over the units of their group that are left, and
    lowered by what the unit costs:

        s_j / sqrt(sum over the group of s_k^2) - flop_weight * c_j / c

    c_j are the multiply-adds that go with unit j from what is left now, c those of the whole network: both follow from
    the structure. A group keeps at least `min_units`; the scores of units that are gone do not count.

    Args:
        data: batches for scores and means; they are read at every step.
        units: how many go.
        bias_propagation: their readers' biases take over the means of the units. Layers without a bias get one, which
            an optimizer that was made before does not know: make it after a first call, or add it to a group.
        update: called after each step with the model and the masks, to train; masked weights must stay 0 (`enforce`).
        masks: of earlier calls; they stay, and what they hold is set to 0 first.

    Returns the masks and what was done. Raises `SparsewoodError` if fewer units can go, before anything is changed.

    Source: Evci et al. 2018, "Mean Replacement Pruning", https://openreview.net/forum?id=BJxRVnC5Fm; the penalty:
    Molchanov et al. 2017, https://arxiv.org/abs/1611.06440.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> data = [(torch.randn(8, 2), torch.tensor([0, 1] * 4))]
    >>> masks, done = global_prune(net, data, 2, loss=nn.functional.cross_entropy)
    >>> len(done), int((net[0].bias == 0).sum())
    (2, 2)
    """
    require_batches(data)
    _require_whole("units", units)
    _require_whole("min_units", min_units)
    if not isinstance(flop_weight, int | float) or not 0 <= flop_weight < float("inf"):
        raise SparsewoodError(f"global_prune: flop_weight must be a finite number >= 0. Got {flop_weight!r}.")
    structure = structure or _traced(model, data)
    left = units_left(structure, masks or {})
    possible = sum(max(0, int(alive.sum()) - min_units) for alive in left.values())
    if units > possible:
        raise SparsewoodError(f"global_prune: {possible} units can go with min_units={min_units}. Got units={units}.")
    held = Masks(dict(masks or {}))
    apply_masks(model, held)
    costs, generator = Costs(structure, {}), generator or torch.Generator().manual_seed(0)
    done = []
    for _ in range(units):
        found = criterion(model, structure, data=data, loss=loss, generator=generator)
        scores = _competing(require_scores(structure, found, criterion), left, costs, flop_weight)
        group, unit = _lowest(scores, left, min_units, criterion)
        keep = {name: alive.copy() for name, alive in left.items()}
        keep[group][unit] = False
        held = _carried_out(model, structure, keep, held, data if bias_propagation else None, left)
        left = keep
        done.append(Pruned(group, unit, float(scores[group][unit]), costs.macs(left)))
        if progress is not None:
            progress(done[-1])
        _updated(model, held, update)
    return held, tuple(done)


def _competing(
    scores: Mapping[str, Tensor], left: Mapping[str, np.ndarray], costs: Costs, flop_weight: float
) -> dict[str, np.ndarray]:
    """The scores over their groups' norms, less what units cost; inf for units that are gone."""
    found = {}
    whole, now = costs.macs({}), costs.macs(dict(left))
    for name, values in scores.items():
        alive, own = left[name], values.numpy()
        norm = float(np.linalg.norm(own[alive]))
        competing = np.where(alive, own / norm if norm > 0 else own, np.inf)
        if flop_weight:
            saved = 0
            for number, unit in enumerate(np.flatnonzero(alive)):
                if not (number and costs.uniform):  # else all units of a group cost the same
                    without = alive.copy()
                    without[unit] = False
                    saved = now - costs.macs({**left, name: without})
                competing[unit] -= flop_weight * saved / whole
        found[name] = competing
    return found


def _lowest(
    scores: Mapping[str, np.ndarray], left: Mapping[str, np.ndarray], min_units: int, criterion: object
) -> tuple[str, int]:
    """The unit with the lowest score; of equal ones the last, as everywhere the lower index stays."""
    best: tuple[float, str, int] | None = None
    for name, values in scores.items():
        if left[name].sum() > min_units:
            unit = len(values) - 1 - int(np.argmin(values[::-1]))
            if best is None or values[unit] <= best[0]:
                best = (float(values[unit]), name, unit)
    if best is None:
        raise SparsewoodError(f"{criterion!r} gives no score to any unit that can still go.")
    return best[1], best[2]


def _carried_out(
    model: nn.Module,
    structure: Structure,
    keep: Mapping[str, np.ndarray],
    held: Masks,
    data: Iterable[Any] | None,
    before: Mapping[str, np.ndarray],
) -> Masks:
    """Fold the means of what goes now into biases, and set it to 0."""
    if data is not None:  # what went before adds nothing any more
        now = {name: stays | ~before[name] for name, stays in keep.items()}
        now = {name: stays for name, stays in now.items() if not stays.all()}
        fold_means(model, structure, now, (split_batch(batch, number)[0] for number, batch in enumerate(data)))
    masks = held & structure.to_masks({name: stays for name, stays in keep.items() if not stays.all()})
    masks = with_new_biases(model, structure, masks)
    apply_masks(model, masks)
    return masks


def _updated(model: nn.Module, masks: Masks, update: Update | None) -> None:
    if update is None:
        return
    update(model, masks)
    found = not_held(model, masks)
    if found is not None:
        raise SparsewoodError(
            f"After update, {found[1]} masked weights of {found[0]!r} are not zero. Train inside "
            "`with enforce(model, masks, optimizer):`, with the masks that update is given."
        )


def _traced(model: nn.Module, data: Iterable[Any]) -> Structure:
    if iter(data) is data:
        raise SparsewoodError("The data are read again at every step: pass a list or a DataLoader, no generator.")
    for batch in data:
        return structure_of(model, split_batch(batch)[0])
    raise SparsewoodError("The data is empty: no batch was read.")


def _require_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SparsewoodError(f"global_prune: {name} must be a whole number >= 1. Got {value!r}.")


def prune_all_layers(
    model: nn.Module,
    plan: Sequence[tuple[str, float]],
    data: Iterable[Any],
    *,
    criterion: UnitScores = _MEAN_REPLACEMENT,
    loss: Loss | None = None,
    bias_propagation: bool = True,
    update: Update | None = None,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure | None = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Prune layer after layer, in place, and train in between: [(layer, share of its units), ...] in that order.

    Scores and means are measured anew before each layer, on the network as it is then. `update` is called after each
    layer with the model and the masks; keep one optimizer, and hold the masks with `enforce`, whose keeper takes new
    masks. Arguments are as in `global_prune`. Returns the masks.

    Raises as `prune_units` does; for plans that cannot be carried out before anything is changed.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> data = [(torch.randn(8, 2), torch.tensor([0, 1] * 4))]
    >>> masks = prune_all_layers(net, [("2", 0.5), ("0", 0.25)], data, loss=nn.functional.cross_entropy)
    >>> int((~masks["0.bias"]).sum()), int((~masks["2.bias"]).sum())
    (1, 2)
    """
    require_batches(data)
    structure = structure or _traced(model, data)
    generator = generator or torch.Generator().manual_seed(0)
    held = Masks(dict(masks or {}))
    _require_possible(model, structure, plan, held)
    apply_masks(model, held)
    for layer, share in plan:
        before = units_left(structure, held)
        chosen = prune_units(
            model, None, criterion, float(share), data=data, loss=loss, masks=held, include=[layer],
            structure=structure, generator=generator,
        )  # fmt: skip
        held = _carried_out(
            model, structure, units_left(structure, chosen), held, data if bias_propagation else None, before
        )
        _updated(model, held, update)
    return held


def _require_possible(
    model: nn.Module, structure: Structure, plan: Sequence[tuple[str, float]], masks: Mapping[str, Tensor]
) -> None:
    """Raise what choosing units by the plan raises, whatever their scores."""
    some = Measured({group.name: torch.arange(group.units) for group in structure.prunable})
    for layer, share in plan:
        masks = prune_units(model, None, some, float(share), masks=masks, include=[layer], structure=structure)
