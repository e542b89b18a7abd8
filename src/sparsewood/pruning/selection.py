"""From an amount to masks: pools, exact counts, and which units of each pool stay."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.algebra import Integers
from sparsewood.allocation.budgets import Layer
from sparsewood.allocation.scopes import Pool, Request, Scope, threshold_pools
from sparsewood.allocation.select import best_in_rows, select
from sparsewood.criteria import LAMP
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import NM
from sparsewood.parameters import Entry, entries, find
from sparsewood.pruning.scores import REMOVED, ParameterScores, chunk_size
from sparsewood.types import Amount, Compression, Count, Threshold

# The number of threads is the process's: two selections at once would put back each other's 1.
_ONE_THREAD = threading.RLock()


class Selector:
    """Divides an amount over pools and selects in each."""

    def __init__(
        self,
        model: nn.Module,
        chosen: Sequence[Entry],
        scores: Sequence[ParameterScores],
        scope: Scope,
        min_units: int,
        removed_elsewhere: int,
    ) -> None:
        self.model, self.chosen, self.scores, self.scope = model, chosen, scores, scope
        self.removed_elsewhere = removed_elsewhere
        pairs = zip(chosen, scores, strict=True)
        self.layers = tuple(
            Layer(e.name, e.aliases, s.grid, s.alive, min(min_units, s.alive), type(e.module)) for e, s in pairs
        )

    def masks(self, amount: Amount) -> dict[str, Tensor]:
        """Element masks by name."""
        if isinstance(amount, Compression):
            return self._compressed(amount)
        return self._elements(self._units(amount))

    def _elements(self, units: Sequence[Tensor]) -> dict[str, Tensor]:
        return {s.name: s.kept(mask) for s, mask in zip(self.scores, units, strict=True)}

    def _units(self, amount: Amount) -> list[Tensor]:
        request = Request(self.layers, amount, self._find, self._lamp_shares, self._above)
        masks: dict[int, Tensor] = {}
        if isinstance(amount, Threshold) and self.scope.own_amounts is None:  # no pool has a say in what stays
            pools = threshold_pools(range(len(self.layers)), request, amount)
        else:
            pools = self.scope.pools(request)
        for pool in pools:
            masks.update(zip(pool.members, self._select(pool), strict=True))
        return [masks[i] if i in masks else _alive(s) for i, s in enumerate(self.scores)]

    def _select(self, pool: Pool) -> list[Tensor]:
        members = [self.scores[i] for i in pool.members]
        if pool.by_row:
            return [_best_by_row(members[0], pool.keep)]
        return _select_streaming(members, pool.keep, pool.floors)

    def _find(self, selector: Any) -> list[int]:
        what = "the mapping of amounts"
        try:
            names = {entry.name for entry in find(self.chosen, selector, what)}
        except UnknownName:
            others = find(entries(self.model), selector, what)
            raise SparsewoodError(
                f"{selector!r} in {what} means {others[0].name}, which is not among the parameters to prune: it is "
                "excluded, no weight, or the classifier. Name it in include=[...], or pass protect_classifier=False."
            ) from None
        return [i for i, entry in enumerate(self.chosen) if entry.name in names]

    def _above(self, member: int, value: float) -> int:
        value = float(value)  # a whole number may be too long for PyTorch
        with _one_thread(self.scores[member : member + 1]):
            return sum(int((chunk >= value).count_nonzero()) for chunk in self.scores[member].chunks())

    def _lamp_shares(self, keep: int) -> Integers:
        view = replace(self.scores[0].view, criterion=LAMP())
        scores = [ParameterScores(view, s.entry, s.mask) for s in self.scores]
        floors = [layer.floor if keep else 0 for layer in self.layers]
        return np.array([int(mask.count_nonzero()) for mask in _select_streaming(scores, keep, floors)])

    def _compressed(self, amount: Compression) -> dict[str, Tensor]:
        """Keep as many parameters as the whole model may have.

        Single elements are counted exactly; of larger units as many stay as a bisection over their number finds to fit
        into the budget, which is never exceeded.
        """
        if not self.scope.shares_total:
            raise SparsewoodError(
                f"{amount} is for the whole model, but {self.scope} has amounts of its own. Use Everywhere(), "
                "PerLayer(), PerType() or PerRow() without a mapping."
            )
        total = sum(entry.parameter.numel() for entry in entries(self.model))
        sizes = [math.prod(s.tile) for s in self.scores]
        prunable = sum(s.units * size for s, size in zip(self.scores, sizes, strict=True))
        fixed = total - prunable - self.removed_elsewhere
        budget = round(total / amount.ratio) - fixed
        least = sum(layer.floor * size for layer, size in zip(self.layers, sizes, strict=True))
        if budget < least:
            raise SparsewoodError(
                f"Compression {amount.ratio:g} leaves {round(total / amount.ratio):,} of {total:,} parameters, but "
                f"{fixed:,} are not pruned and {least:,} must stay in the layers: at most "
                f"{math.floor(100 * total / (fixed + least)) / 100:.2f} can be reached. Prune more parameters "
                "(include=..., protect_classifier=False) or ask for less."
            )
        units = sum(layer.units for layer in self.layers)
        if all(size == 1 for size in sizes):
            return self.masks(_count_removed(units, budget, units - sum(layer.alive for layer in self.layers)))
        return self._largest_within(budget, units)

    def _largest_within(self, budget: int, units: int) -> dict[str, Tensor]:
        low = sum(layer.floor for layer in self.layers)  # always fits
        high = sum(layer.alive for layer in self.layers)
        best = self._elements(self._units_kept(low, units))
        while low < high:
            middle = (low + high + 1) // 2
            masks = self._elements(self._units_kept(middle, units))
            if sum(int(mask.count_nonzero()) for mask in masks.values()) <= budget:
                low, best = middle, masks
            else:
                high = middle - 1
        return best

    def _units_kept(self, keep: int, units: int) -> list[Tensor]:
        return self._units(Count(units - keep))


def _count_removed(units: int, keep: int, already: int) -> Amount:
    if units - keep < already:
        raise SparsewoodError(
            f"The masks given already leave {units - already:,} weights, fewer than the {keep:,} asked."
        )
    return Count(units - keep)


def _select_streaming(members: Sequence[ParameterScores], keep: int, floors: Sequence[int]) -> list[Tensor]:
    with _one_thread(members):
        return select(members, keep, floors)


@contextmanager
def _one_thread(members: Sequence[ParameterScores]) -> Iterator[None]:
    """For many small steps: starting threads for each costs more than they save, and a hundred times more when another
    process uses the cores. What is scored as a whole is scored before, with all of them.
    """
    for scores in members:
        if not scores.lazy:
            scores.stored()
    with _ONE_THREAD:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _alive(scores: ParameterScores) -> Tensor:
    if scores.alive_units is not None:
        return scores.alive_units
    return torch.ones(scores.units, dtype=torch.bool, device=scores.device)


def _best_by_row(scores: ParameterScores, keep: int) -> Tensor:
    """The best units of each output's row. Every row keeps the same number, as far as it has units left; what then
    remains goes to the rows whose next unit scores highest.
    """
    if scores.units == 0:
        return _alive(scores)
    table = scores.by_output(scores.computed())
    alive = (table > REMOVED).sum(1)
    counts = alive.cpu().numpy()
    level = bisect_right(range(table.shape[1] + 1), keep, key=lambda share: int(np.minimum(counts, share).sum())) - 1
    kept = alive.clamp_max(level)
    more = keep - int(kept.sum())
    if more > 0:
        following = torch.cat([part.sort(1, descending=True).values[:, level] for part in _parts(table)])
        kept += best_in_rows(following[None], torch.tensor([more], device=table.device))[0]
    return scores.from_output(_best_in_parts(table, kept))


def _best_in_parts(table: Tensor, keep: Tensor) -> Tensor:
    parts = _parts(table)
    chosen = [best_in_rows(t, k) for t, k in zip(parts, keep.split([len(t) for t in parts]), strict=True)]
    return torch.cat(chosen) if chosen else torch.zeros_like(table, dtype=torch.bool)


def _parts(table: Tensor) -> tuple[Tensor, ...]:
    """The rows in pieces that are worth a call and take little memory."""
    return table.split(max(1, 32 * chunk_size(table.device) // max(1, table.shape[1])))


def best_of_m(granularity: NM, scores: ParameterScores) -> Tensor:
    """The element mask that keeps the best n of every m; axis 0 means outputs and 1 inputs."""
    computed = scores.computed()
    axis = granularity.axis % computed.ndim
    if scores.entry.inputs_first and axis < 2:
        axis = 1 - axis
    moved = computed.movedim(axis, -1)
    table = moved.reshape(-1, granularity.m)
    best = _best_in_parts(table, torch.full((len(table),), granularity.n, device=table.device))
    return scores.kept(best.reshape(moved.shape).movedim(-1, axis).contiguous())
