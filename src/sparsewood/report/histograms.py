"""How scores are spread, of what was kept and of what was removed, and where the line between them is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.report.study import Histogram

__all__ = ["histogram", "threshold_of"]

Scores = Tensor | Mapping[str, Tensor]


def histogram(
    scores: Scores,
    mask: Scores,
    bins: int = 50,
    *,
    logarithm: bool = False,
    problem: str = "",
    method: str = "",
    amount: float = 1.0,
    layer: str = "",
) -> Histogram:
    """Scores counted in bins of equal width from the least to the largest: those kept, and those removed.

    With `logarithm` bins are of equal width in log10 of the scores, and so written are `edges` and `threshold`
    (`threshold_of`, of the scores); scores of 0, which have no logarithm, are counted in `zeros` and nowhere else.

    Args:
        scores: of single entries or of units; or a tensor for each layer, which are counted together.
        mask: of the same shape, or the same layers, True = kept.
        problem, method, amount, layer: what the histogram is of, which is only noted.

    Raises `SparsewoodError` where there are no scores, shapes differ, a score is NaN or infinite, or negative with
    `logarithm`, and for fewer than one bin.

    >>> found = histogram(torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([False, False, True, True]), bins=2)
    >>> found.edges, found.removed, found.kept, found.threshold
    ((1.0, 3.0, 5.0), (2, 0), (0, 2), 2.5)
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise SparsewoodError(f"bins must be a whole number >= 1. Got {bins!r}.")
    values, kept = _pairs(scores, mask)
    if logarithm and values.min() < 0:
        raise SparsewoodError(f"Scores below 0, such as {values.min():.6g}, have no logarithm: logarithm=False.")
    line = threshold_of(scores, mask)
    zeros = int(np.count_nonzero(values == 0)) if logarithm else 0
    if logarithm:
        kept, values = kept[values > 0], np.log10(values[values > 0])
        line = math.log10(line) if line else None
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(values[which], edges)[0] for which in (kept, ~kept)]
    return Histogram(
        problem,
        method,
        amount,
        layer,
        tuple(edges.tolist()),
        tuple(counts[0].tolist()),
        tuple(counts[1].tolist()),
        line,
        logarithm,
        zeros,
    )


def threshold_of(scores: Scores, mask: Scores) -> float | None:
    """The score below which everything was removed and above which everything was kept; None if there is none.

    It lies halfway between the largest score that was removed and the smallest that was kept. Where these are equal,
    as scores that are tied at the line are, it is that score. There is none if some score was kept below one that was
    removed (as with scores that compete within layers, looked at together), nor if everything was kept, or nothing.
    Raises as `histogram` does.

    >>> threshold_of(torch.tensor([1.0, 3.0]), torch.tensor([False, True]))
    2.0
    >>> threshold_of(torch.tensor([1.0, 3.0]), torch.tensor([True, False])) is None
    True
    """
    values, kept = _pairs(scores, mask)
    if kept.all() or not kept.any():
        return None
    largest, smallest = float(values[~kept].max()), float(values[kept].min())
    return largest + (smallest - largest) / 2 if largest <= smallest else None


def _pairs(scores: Scores, mask: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 and whether each was kept, in one row."""
    if isinstance(scores, Mapping) != isinstance(mask, Mapping):
        raise SparsewoodError("Give scores and mask both as tensors, or both as mappings from layers to tensors.")
    named = dict(scores) if isinstance(scores, Mapping) else {"": scores}
    masks = dict(mask) if isinstance(mask, Mapping) else {"": mask}
    where = {name: f" of {name!r}" if name else "" for name in named}
    if named.keys() != masks.keys():
        raise SparsewoodError(
            f"Scores are of {', '.join(named)} and masks of {', '.join(masks)}: give the same layers."
        )
    for name, one in named.items():
        shapes = tuple(one.shape), tuple(masks[name].shape)
        if shapes[0] != shapes[1] or masks[name].dtype != torch.bool:
            raise SparsewoodError(
                f"The mask{where[name]} must be boolean and of the scores' shape {shapes[0]}. Got "
                f"{masks[name].dtype} {shapes[1]}."
            )
        if not bool(one.isfinite().all()):
            raise SparsewoodError(f"Scores{where[name]} must be finite numbers. Some are NaN or infinite.")
    values = [one.detach().cpu().double().reshape(-1).numpy() for one in named.values()]
    kept = [one.detach().cpu().reshape(-1).numpy() for one in masks.values()]
    if not sum(map(len, values)):
        raise SparsewoodError("There is nothing to count: no score was given.")
    return np.concatenate(values), np.concatenate(kept)
