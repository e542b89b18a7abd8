"""`score` and `prune`: criteria, scopes, amounts and granularities put together."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.algebra import Integers
from sparsewood.allocation.budgets import Layer
from sparsewood.allocation.scopes import Everywhere, Pool, Request, Scope, as_scope
from sparsewood.allocation.select import best_in_rows, select
from sparsewood.criteria import LAMP, Criterion, Inputs
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import NM, Element, Granularity, grid, to_elements, to_units
from sparsewood.parameters import Entry, Selectors, choose, entries, find
from sparsewood.statistics import Loss, Statistic, collect
from sparsewood.types import Amount, AmountLike, Compression, Count, Masks, Sparsity, Statistics, as_amount

CHUNK = 1 << 18  # scores computed at a time on the CPU: small enough for the cache
CUDA_CHUNK = 1 << 24
DEFAULT_AMOUNT = Sparsity(0.9)
REMOVED = -math.inf

Data = Iterable[Any]
Scores = dict[str, Tensor]


@overload
def score(
    model: nn.Module,
    criterion: Criterion,
    *,
    data: Data | None = ...,
    loss: Loss | None = ...,
    example_inputs: Any = ...,
    granularity: Granularity = ...,
    include: Selectors | None = ...,
    exclude: Selectors | None = ...,
    statistics: Statistics | None = ...,
    generator: torch.Generator | None = ...,
) -> Scores: ...
@overload
def score(
    model: nn.Module,
    criterion: Sequence[Criterion],
    *,
    data: Data | None = ...,
    loss: Loss | None = ...,
    example_inputs: Any = ...,
    granularity: Granularity = ...,
    include: Selectors | None = ...,
    exclude: Selectors | None = ...,
    statistics: Statistics | None = ...,
    generator: torch.Generator | None = ...,
) -> list[Scores]: ...
def score(
    model: nn.Module,
    criterion: Criterion | Sequence[Criterion],
    *,
    data: Data | None = None,
    loss: Loss | None = None,
    example_inputs: Any = None,
    granularity: Granularity = Element(),
    include: Selectors | None = None,
    exclude: Selectors | None = None,
    statistics: Statistics | None = None,
    generator: torch.Generator | None = None,
) -> Scores | list[Scores]:
    """Importance scores by parameter name: higher = keep. The model is left as it was.

    Args:
        criterion: one criterion, or several, which then share one pass over the data; the result is a list.
        data, loss: what the criterion's statistics are collected from (see `collect`); only read if it needs any.
        example_inputs: one batch of inputs, used as data for criteria that need inputs but no loss.
        granularity: the unit that gets a score; each tensor has the shape of the unit grid.
        include, exclude: parameter names, module names, patterns, module classes or modules. By default all weights
            that the criterion covers, the classifier included.
        statistics: what `collect` returned earlier, instead of data.

    Raises `SparsewoodError` if a score is NaN or infinite, naming the parameter.

    >>> from sparsewood.criteria import Magnitude
    >>> from sparsewood.granularity import Filter
    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
    >>> score(layer, Magnitude(), granularity=Filter())["weight"]
    tensor([[3.0000],
            [0.5000]])
    """
    criteria = list(criterion) if isinstance(criterion, Sequence) else [criterion]
    chosen = [_choose(model, c, include, exclude, protect_classifier=False) for c in criteria]
    source = data if data is not None else (None if example_inputs is None else [_as_batch(example_inputs)])
    statistics = _statistics(model, criteria, chosen, source, loss, statistics)
    generator = generator or torch.Generator().manual_seed(0)
    results = []
    with _plain_tensors():
        for one, its_entries in zip(criteria, chosen, strict=True):
            view = _View(one, granularity, statistics, generator, _dtype(its_entries))
            results.append({entry.name: _checked(entry.name, view.units(entry)).clone() for entry in its_entries})
    return results if isinstance(criterion, Sequence) else results[0]


def prune(
    model: nn.Module,
    criterion: Criterion,
    sparsity: AmountLike = DEFAULT_AMOUNT,
    *,
    scope: Scope | Mapping[str | type[nn.Module], AmountLike | None] = Everywhere(),
    granularity: Granularity = Element(),
    data: Data | None = None,
    loss: Loss | None = None,
    include: Selectors | None = None,
    exclude: Selectors | None = None,
    masks: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    min_units: int = 1,
    protect_classifier: bool = True,
    statistics: Statistics | None = None,
) -> Masks:
    """Choose what stays. Pure: the model is not changed (see `apply_masks`, `enforce`).

    Args:
        criterion: how weights are scored.
        sparsity: how much goes: a float is a share of the units, an int a count, or one of `Count`, `Sparsity`,
            `Density`, `Remaining`, `Compression`. It counts units of the granularity, those removed earlier included;
            `Compression` counts parameters of the whole model.
        scope: which scores compete: `Everywhere()`, `PerLayer()`, `PerType()`, `PerRow()`, or a mapping from names,
            patterns or classes to amounts of their own.
        granularity: what is removed as one. `NM` fixes the amount itself.
        data, loss, statistics: see `score`.
        include, exclude: see `score`; what is named in `include` is pruned even if it is the classifier.
        masks: earlier masks. What they removed stays removed, and counts as zero in the scores of units.
        generator: for random criteria; without one the same call gives the same masks.
        min_units: how many units every parameter keeps at least; 0 allows emptying one.
        protect_classifier: leave the last weight in registration order alone.

    Returns masks for the chosen parameters, and those given for others.

    The number kept is exact; equal scores are decided by position, lower index first. Raises `SparsewoodError` for
    what cannot be had exactly, with the reason.

    >>> from sparsewood.criteria import Magnitude
    >>> layer = nn.Linear(4, 2)
    >>> _ = layer.weight.data.copy_(torch.arange(8.0).reshape(2, 4))
    >>> prune(layer, Magnitude(), 0.5)["weight"]
    tensor([[False, False, False, False],
            [ True,  True,  True,  True]])
    """
    chosen = _choose(model, criterion, include, exclude, protect_classifier=protect_classifier)
    earlier = _earlier(model, masks)
    statistics = _statistics(model, [criterion], [chosen], data, loss, statistics)
    generator = generator or torch.Generator().manual_seed(0)
    view = _View(criterion, granularity, statistics, generator, _dtype(chosen))
    others = {name: mask for name, mask in earlier.items() if name not in {entry.name for entry in chosen}}
    with _plain_tensors():
        pools = [_PoolScores(view, entry, earlier.get(entry.name)) for entry in chosen]
        if isinstance(granularity, NM):
            _check_nm(granularity, sparsity, scope)
            kept = {scores.name: _best_of_m(granularity, scores) for scores in pools}
        else:
            allocator = _Allocator(model, chosen, pools, as_scope(scope), min_units, Masks.adopt(others).removed)
            kept = allocator.masks(as_amount(sparsity))
    return Masks.adopt(others | kept)


# ---------------------------------------------------------------- preparation


def _choose(
    model: nn.Module,
    criterion: Criterion,
    include: Selectors | None,
    exclude: Selectors | None,
    *,
    protect_classifier: bool,
) -> list[Entry]:
    if not isinstance(criterion, Criterion):
        raise SparsewoodError(f"criterion must be a Criterion, for example Magnitude(). Got {criterion!r}.")
    chosen = choose(
        model, include=include, exclude=exclude, protect_classifier=protect_classifier, default=criterion.covers
    )
    for entry in chosen:
        if entry.parameter.is_meta:
            raise SparsewoodError(f"{entry.name!r} has no values: it is on the meta device. Load the weights first.")
    return chosen


@contextmanager
def _plain_tensors() -> Iterator[None]:
    # Masks made in inference mode could not take part in training later.
    with torch.inference_mode(False), torch.no_grad():
        yield


def _as_batch(example_inputs: Any) -> Any:
    """Inputs as a batch without target."""
    return (example_inputs, None) if isinstance(example_inputs, list | tuple) else example_inputs


def _earlier(model: nn.Module, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    if masks is None:
        return {}
    known = {name: entry for entry in entries(model) for name in (entry.name, *entry.aliases)}
    found = {}
    for name, mask in Masks(masks).items():
        if name not in known:
            raise UnknownName.among("parameter in masks", name, known)
        parameter = known[name].parameter
        if mask.shape != parameter.shape:
            raise SparsewoodError(
                f"The mask of {name!r} has shape {tuple(mask.shape)}, its parameter {tuple(parameter.shape)}."
            )
        first, here = known[name].name, mask.to(parameter.device)
        found[first] = found[first] & here if first in found else here  # a tied parameter may be masked by each name
    return found


def _statistics(
    model: nn.Module,
    criteria: Sequence[Criterion],
    chosen: Sequence[Sequence[Entry]],
    data: Data | None,
    loss: Loss | None,
    given: Statistics | None,
) -> Statistics:
    """What all criteria need, from one pass over the data."""
    needs: dict[str, Statistic] = {s.kind: s for criterion in criteria for s in criterion.needs}
    if given is not None or not needs:
        return given or Statistics({}, 0)
    if data is None:
        who = next(criterion for criterion in criteria if criterion.needs)
        raise SparsewoodError(f"{who} needs data: pass data=... (batches), and loss=... if it needs gradients.")
    names = {e.name: None for c, its in zip(criteria, chosen, strict=True) if c.needs for e in its}
    return collect(model, data, list(needs.values()), loss, names=list(names))


def _dtype(chosen: Sequence[Entry]) -> torch.dtype:
    double = any(entry.parameter.dtype == torch.float64 for entry in chosen)
    return torch.float64 if double else torch.float32


# ---------------------------------------------------------------- scores of one parameter


@dataclass(frozen=True)
class _View:
    """A criterion at work: how a parameter's units are scored."""

    criterion: Criterion
    granularity: Granularity
    statistics: Statistics
    generator: torch.Generator | None
    dtype: torch.dtype

    def tile(self, entry: Entry) -> tuple[int, ...]:
        try:
            return self.granularity.tile(entry.parameter.shape)
        except SparsewoodError as error:
            raise SparsewoodError(f"{entry.name}: {error} Leave it out with exclude=[{entry.name!r}].") from error

    def means(self, entry: Entry) -> dict[str, Tensor]:
        """The statistics of one parameter, as means over examples."""
        sums = {s.kind: self.statistics.get(s.kind, entry.name) for s in self.criterion.needs}
        return {kind: tensor / self.statistics.samples for kind, tensor in sums.items()}

    def elements(self, entry: Entry, weight: Tensor, means: Mapping[str, Tensor]) -> Tensor:
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        inputs = Inputs(entry.name, weight.to(wide), means, self.generator)
        scores = self.criterion(inputs)
        if scores.shape != weight.shape:
            raise SparsewoodError(
                f"{self.criterion} gave scores of shape {tuple(scores.shape)} for {entry.name} {tuple(weight.shape)}."
            )
        return scores

    def units(self, entry: Entry, mask: Tensor | None = None) -> Tensor:
        """The scores of all units of a parameter, in the shape of the grid; what is masked counts as zero."""
        tile = self.tile(entry)
        weight = entry.parameter.detach()
        weight = weight if mask is None else weight.where(mask, weight.new_zeros(()))
        scores = self.elements(entry, weight, self.means(entry))
        return self.criterion.finish(to_units(scores, tile, self.criterion.reduction), math.prod(tile))


def _checked(name: str, scores: Tensor) -> Tensor:
    # One cheap reduction finds NaN and infinities; a sum that merely overflows is looked at closely.
    if not math.isfinite(scores.sum().item()) and not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise SparsewoodError(
            f"{bad} of {scores.numel()} scores of {name} are NaN or infinite: selecting by them would mean nothing. "
            "Check the weights, and the loss if the criterion uses gradients."
        )
    return scores


class _PoolScores:
    """The scores of one parameter's units, with the units that are already removed at -inf.

    Pointwise scores of single elements are computed chunk by chunk whenever they are asked for; all others once.
    """

    def __init__(self, view: _View, entry: Entry, mask: Tensor | None) -> None:
        self.view, self.entry, self.name = view, entry, entry.name
        self.tile = view.tile(entry)
        self.grid = grid(entry.parameter.shape, self.tile)
        self.units = math.prod(self.grid)
        self.device = entry.parameter.device
        self.mask = mask  # of elements
        alive = None if mask is None else to_units(mask.to(torch.uint8), self.tile, "amax").bool()
        self.alive_units = alive
        self.alive = self.units if alive is None else int(alive.count_nonzero())
        self.lazy = view.criterion.pointwise and self.units == entry.parameter.numel()
        self._stored: Tensor | None = None

    def stored(self) -> Tensor:
        """All scores, in the shape of the grid."""
        if self._stored is None:
            scores = _checked(self.name, self.view.units(self.entry, self.mask))
            self._stored = self._finished(scores, self.alive_units)
        return self._stored

    def chunks(self) -> Iterator[Tensor]:
        if not self.lazy:
            yield from self.stored().reshape(-1).split(_chunk(self.device))
            return
        weight, sums = self.entry.parameter.detach(), self._sums()
        mask = self.mask
        if weight.is_contiguous() and all(s.shape == weight.shape and s.is_contiguous() for s in sums.values()):
            weight, sums = weight.reshape(-1), {kind: s.reshape(-1) for kind, s in sums.items()}
            mask = None if mask is None else mask.reshape(-1)
        rows = weight.shape[0]
        step = max(1, _chunk(self.device) * rows // max(1, weight.numel()))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            some = {kind: (s[part] if s.shape[0] == rows else s) for kind, s in sums.items()}
            yield self._pointwise(weight[part], some, None if mask is None else mask[part]).reshape(-1)

    def sample(self, count: int) -> Tensor:
        if not self.lazy:
            flat = self.stored().reshape(-1)
            return flat[_spread(count, flat.numel(), flat.device)]
        weight = self.entry.parameter.detach()
        if weight.ndim == 0:
            return next(self.chunks())
        places = torch.unravel_index(_spread(count, weight.numel(), weight.device), weight.shape)
        means = {kind: s.expand(weight.shape)[places] for kind, s in self._sums().items()}
        return self._pointwise(weight[places], means, None if self.mask is None else self.mask[places])

    def kept(self, units: Tensor) -> Tensor:
        """The element mask for a mask of units, without what was removed before."""
        spread = to_elements(units.reshape(self.grid), self.tile).reshape(self.entry.parameter.shape)
        return spread if self.mask is None else spread & self.mask

    def _sums(self) -> dict[str, Tensor]:
        return {s.kind: self.view.statistics.get(s.kind, self.name) for s in self.view.criterion.needs}

    def _pointwise(self, weight: Tensor, sums: Mapping[str, Tensor], alive: Tensor | None) -> Tensor:
        means = {kind: tensor / self.view.statistics.samples for kind, tensor in sums.items()}
        scores = self.view.criterion.finish(self.view.elements(self.entry, weight, means), 1)
        return self._finished(_checked(self.name, scores), alive)

    def _finished(self, scores: Tensor, alive: Tensor | None) -> Tensor:
        scores = scores.to(torch.promote_types(scores.dtype, self.view.dtype))
        return scores if alive is None else scores.masked_fill(~alive, REMOVED)


def _chunk(device: torch.device) -> int:
    return CHUNK if device.type == "cpu" else CUDA_CHUNK


def _spread(count: int, size: int, device: torch.device) -> Tensor:
    """`count` positions over `range(size)`, irregular enough not to follow the tensor's own period."""
    steps = np.arange(count)
    offsets = (steps * 0.6180339887498949) % 1.0
    places = ((steps + offsets) * (size / max(count, 1))).astype(np.int64)
    return torch.from_numpy(np.minimum(places, size - 1)).to(device)


# ---------------------------------------------------------------- selection


class _Allocator:
    """Divides an amount over pools and selects in each."""

    def __init__(
        self,
        model: nn.Module,
        chosen: Sequence[Entry],
        scores: Sequence[_PoolScores],
        scope: Scope,
        min_units: int,
        removed_elsewhere: int,
    ) -> None:
        if isinstance(min_units, bool) or not isinstance(min_units, int) or min_units < 0:
            raise SparsewoodError(f"min_units must be a whole number >= 0. Got {min_units!r}.")
        self.model, self.chosen, self.scores, self.scope = model, chosen, scores, scope
        self.removed_elsewhere = removed_elsewhere
        pairs = zip(chosen, scores, strict=True)
        self.layers = tuple(
            Layer(e.name, tuple(e.parameter.shape), s.grid, s.alive, min(min_units, s.alive), type(e.module))
            for e, s in pairs
        )

    def masks(self, amount: Amount) -> dict[str, Tensor]:
        """Element masks by name."""
        if isinstance(amount, Compression):
            return self._compressed(amount)
        return self._elements(self._units(amount))

    def _elements(self, units: Sequence[Tensor]) -> dict[str, Tensor]:
        return {s.name: s.kept(mask) for s, mask in zip(self.scores, units, strict=True)}

    def _units(self, amount: Amount) -> list[Tensor]:
        request = Request(self.layers, amount, self._find, self._lamp_shares)
        masks: dict[int, Tensor] = {}
        for pool in self.scope.pools(request):
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

    def _lamp_shares(self, keep: int) -> Integers:
        view = replace(self.scores[0].view, criterion=LAMP())
        scores = [_PoolScores(view, s.entry, s.mask) for s in self.scores]
        floors = [layer.floor if keep else 0 for layer in self.layers]
        return np.array([int(mask.count_nonzero()) for mask in _select_streaming(scores, keep, floors)])

    def _compressed(self, amount: Compression) -> dict[str, Tensor]:
        """Keep as many parameters as the whole model may have.

        Single elements are counted exactly; of larger units as many stay as fit into the budget.
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


def _select_streaming(members: Sequence[_PoolScores], keep: int, floors: Sequence[int]) -> list[Tensor]:
    for scores in members:
        if not scores.lazy:
            scores.stored()
    # The rest is many small steps. Starting threads for each costs more than they save, and a hundred times more when
    # another process uses the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return select(members, keep, floors)
    finally:
        torch.set_num_threads(threads)


def _alive(scores: _PoolScores) -> Tensor:
    if scores.alive_units is not None:
        return scores.alive_units
    return torch.ones(scores.units, dtype=torch.bool, device=scores.device)


def _best_by_row(scores: _PoolScores, keep: int) -> Tensor:
    """The best units of each row of the grid. Every row keeps the same number, as far as it has units left; what then
    remains goes to the rows whose next unit scores highest.
    """
    if scores.units == 0:
        return _alive(scores)
    table = scores.stored().reshape(scores.grid[0], -1)
    alive = (table > REMOVED).sum(1)
    counts = alive.cpu().numpy()
    level = bisect_right(range(table.shape[1] + 1), keep, key=lambda share: int(np.minimum(counts, share).sum())) - 1
    kept = alive.clamp_max(level)
    more = keep - int(kept.sum())
    if more > 0:
        following = torch.cat([part.sort(1, descending=True).values[:, level] for part in _parts(table)])
        kept += best_in_rows(following[None], torch.tensor([more], device=table.device))[0]
    return _best_in_parts(table, kept).reshape(-1)


def _best_in_parts(table: Tensor, keep: Tensor) -> Tensor:
    parts = _parts(table)
    chosen = [best_in_rows(t, k) for t, k in zip(parts, keep.split([len(t) for t in parts]), strict=True)]
    return torch.cat(chosen) if chosen else torch.zeros_like(table, dtype=torch.bool)


def _parts(table: Tensor) -> tuple[Tensor, ...]:
    """The rows in pieces that are worth a call and take little memory."""
    return table.split(max(1, 32 * _chunk(table.device) // max(1, table.shape[1])))


# ---------------------------------------------------------------- N:M


def _check_nm(granularity: NM, sparsity: AmountLike, scope: object) -> None:
    implied = 1 - granularity.n / granularity.m
    asked = as_amount(sparsity)
    share = asked.fraction if isinstance(asked, Sparsity) else math.nan
    if sparsity is not DEFAULT_AMOUNT and not math.isclose(share, implied, rel_tol=1e-5, abs_tol=1e-9):
        raise SparsewoodError(
            f"{granularity.n}:{granularity.m} removes {implied:g} of the weights, sparsity asks for {sparsity}. "
            f"Leave sparsity out, or pass {implied:g}."
        )
    if scope != Everywhere():
        raise SparsewoodError(f"{granularity.n}:{granularity.m} fixes its own pools; leave scope out. Got {scope}.")


def _best_of_m(granularity: NM, scores: _PoolScores) -> Tensor:
    moved = scores.stored().movedim(granularity.axis, -1)
    table = moved.reshape(-1, granularity.m)
    best = _best_in_parts(table, torch.full((len(table),), granularity.n, device=table.device))
    return scores.kept(best.reshape(moved.shape).movedim(-1, granularity.axis).contiguous())
