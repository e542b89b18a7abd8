"""`score` and `prune`: criteria, scopes, amounts and granularities put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import torch
from torch import Tensor, nn

from sparsewood.allocation.scopes import Amounts, Everywhere, Scope, as_scope
from sparsewood.batches import require_batches
from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import NM, Element, Granularity
from sparsewood.masks import masked
from sparsewood.parameters import Entry, Selectors, choose, entries
from sparsewood.pruning.iterations import Start, steps_to, warnings_once
from sparsewood.pruning.scores import ParameterScores, View, checked, joined
from sparsewood.pruning.selection import Selector, best_of_m
from sparsewood.snapshot import same_random_state
from sparsewood.statistics import Loss, Statistic, collect
from sparsewood.statistics.collect import data_free
from sparsewood.types import AmountLike, Density, Masks, Sparsity, Statistics, as_amount

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
    if data is not None and example_inputs is not None:
        raise SparsewoodError("Pass data or example_inputs, not both: example_inputs are one batch without a target.")
    _require_granularity(granularity)
    source = data if data is not None else (None if example_inputs is None else [_as_batch(example_inputs)])
    statistics = _statistics(model, criteria, chosen, source, loss, statistics)
    generator = _generator(generator)
    results = []
    with _plain_tensors():
        for one, its_entries in zip(criteria, chosen, strict=True):
            its = joined(one, its_entries, statistics, {})
            view = View(one, granularity, its, generator, _dtype(its_entries))
            results.append({entry.name: checked(entry.name, view.units(entry)).clone() for entry in its_entries})
    return results if isinstance(criterion, Sequence) else results[0]


def prune(
    model: nn.Module,
    criterion: Criterion,
    sparsity: AmountLike = DEFAULT_AMOUNT,
    *,
    scope: Scope | Amounts = Everywhere(),
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
    iterations: int = 1,
    revive: bool = False,
) -> Masks:
    """Choose what stays. Pure: the model is not changed (see `apply_masks`, `enforce`).

    Args:
        criterion: how weights are scored.
        sparsity: how much goes: a float is a share of the units, an int a count, or one of `Count`, `Sparsity`,
            `Density`, `Remaining`, `Compression`, `Threshold`. It counts units of the granularity, those removed
            earlier included; `Compression` counts parameters of the whole model; `Threshold` removes the units that
            score less, however many that are.
        scope: which scores compete: `Everywhere()`, `PerLayer()`, `PerType()`, `PerRow()`, or a mapping from names,
            patterns or classes to amounts of their own.
        granularity: what is removed as one. `NM` fixes the amount itself.
        data, loss, statistics: see `score`.
        include, exclude: see `score`; what is named in `include` is pruned even if it is the classifier.
        masks: earlier masks. What they removed stays removed, and counts as zero in the scores of units and in the
            passes over data.
        generator: for random criteria; without one the same call gives the same masks.
        min_units: how many units every parameter keeps at least; 0 allows emptying one. (N:M keeps n of every m.)
        protect_classifier: leave the last weight in registration order alone.
        iterations: reach the amount in so many steps, the same share of what is left in each, with scores taken anew on
            the network as it is masked by then (SynFlow, iterative SNIP). The data are kept and read in every step;
            SynFlow reads one batch.
        revive: with iterations, weights that went may come back: scores are of all weights, with gradients of the
            masked network (FORCE). What `masks` removed stays removed.

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
    _require_whole("min_units", min_units, 0)
    _require_whole("iterations", iterations, 1)
    _require_granularity(granularity)
    chosen = _choose(model, criterion, include, exclude, protect_classifier=protect_classifier)
    once = _Once(model, criterion, chosen, scope, granularity, min_units, _generator(generator))
    earlier = earlier_masks(model, masks)
    if iterations > 1:
        if statistics is not None:
            raise SparsewoodError("With iterations, statistics are taken anew in every step: pass data=..., not these.")
        return _in_steps(once, sparsity, iterations, earlier, data, loss, revive=revive)
    if revive:
        raise SparsewoodError("revive=True is for iterations: with one step nothing went before that could come back.")
    with masked(model, earlier):
        found = _statistics(model, [criterion], [chosen], data, loss, statistics, masks=earlier)
    return once(sparsity, earlier, found)


@dataclass(frozen=True, eq=False)
class _Once:
    """One choice: all that is the same in every iteration."""

    model: nn.Module
    criterion: Criterion
    chosen: Sequence[Entry]
    scope: Scope | Amounts
    granularity: Granularity
    min_units: int
    generator: torch.Generator

    def __call__(self, sparsity: AmountLike, earlier: Mapping[str, Tensor], statistics: Statistics) -> Masks:
        statistics = joined(self.criterion, self.chosen, statistics, earlier)
        view = View(self.criterion, self.granularity, statistics, self.generator, _dtype(self.chosen))
        names = {entry.name for entry in self.chosen}
        others = {name: mask for name, mask in earlier.items() if name not in names}
        with _plain_tensors():
            pools = [ParameterScores(view, entry, earlier.get(entry.name)) for entry in self.chosen]
            if isinstance(self.granularity, NM):
                _check_nm(self.granularity, sparsity, self.scope)
                kept = {scores.name: best_of_m(self.granularity, scores) for scores in pools}
            else:
                scope = as_scope(self.scope)
                _check_amount(sparsity, scope)
                removed = Masks.adopt(others).removed
                selector = Selector(self.model, self.chosen, pools, scope, self.min_units, removed)
                kept = selector.masks(as_amount(sparsity))
        return Masks.adopt(others | kept)

    def start(self, earlier: dict[str, Tensor]) -> Start:
        """What `earlier` masks left."""
        view = View(self.criterion, self.granularity, Statistics({}, 0), self.generator, _dtype(self.chosen))
        pools = [ParameterScores(view, entry, earlier.get(entry.name)) for entry in self.chosen]
        total = sum(entry.parameter.numel() for entry in entries(self.model))
        left = total - Masks.adopt(earlier).removed
        return Start(sum(pool.units for pool in pools), sum(pool.alive for pool in pools), total / max(1, left))


def _in_steps(
    once: _Once,
    sparsity: AmountLike,
    iterations: int,
    earlier: dict[str, Tensor],
    data: Data | None,
    loss: Loss | None,
    *,
    revive: bool,
) -> Masks:
    scope = as_scope(once.scope)
    if isinstance(once.granularity, NM) or scope.own_amounts is not None:
        who = once.granularity if isinstance(once.granularity, NM) else scope
        raise SparsewoodError(
            f"{who} fixes how much goes, so that there is no way there in iterations. Leave them out."
        )
    if data is not None and once.criterion.needs:
        require_batches(data)
        with same_random_state(once.model):
            data = list(islice(data, 1 if data_free(once.criterion.needs) else None))
    current = Masks.adopt(earlier)
    with warnings_once():
        for step in steps_to(as_amount(sparsity), iterations, once.start(earlier)):
            with masked(once.model, current):
                statistics = _statistics(once.model, [once.criterion], [once.chosen], data, loss, None, masks=current)
            current = once(step, earlier if revive else current, statistics)
    return current


def _generator(generator: torch.Generator | None) -> torch.Generator:
    """Never the global one, so that a call neither depends on it nor changes it."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise SparsewoodError(f"generator must be a torch.Generator. Got {generator!r:.80}.")
    return generator if generator is not None else torch.Generator().manual_seed(0)


def _require_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SparsewoodError(f"{name} must be a whole number >= {least}. Got {value!r}.")


def _require_granularity(granularity: object) -> None:
    if not isinstance(granularity, Granularity):
        raise SparsewoodError(f"granularity must be a Granularity, for example Filter(). Got {granularity!r}.")


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


def earlier_masks(model: nn.Module, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Earlier masks under the first names of their parameters, on their devices; checked."""
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
    *,
    masks: Mapping[str, Tensor] | None = None,
) -> Statistics:
    """What all criteria need, from one pass over the data."""
    needs: dict[str, Statistic] = {s.kind: s for criterion in criteria for s in criterion.needs}
    if given is not None and not isinstance(given, Statistics):
        raise SparsewoodError(f"statistics must be what collect returned. Got {given!r:.80}.")
    if given is not None or not needs:
        return given or Statistics({}, 0)
    if data is None:
        who = next(criterion for criterion in criteria if criterion.needs)
        raise SparsewoodError(f"{who} needs data: pass data=... (batches), and loss=... if it needs gradients.")
    names = {e.name: None for c, its in zip(criteria, chosen, strict=True) if c.needs for e in its}
    return collect(model, data, list(needs.values()), loss, names=list(names), masks=masks)


def _dtype(chosen: Sequence[Entry]) -> torch.dtype:
    double = any(entry.parameter.dtype == torch.float64 for entry in chosen)
    return torch.float64 if double else torch.float32


def _check_amount(sparsity: AmountLike, scope: Scope) -> None:
    amounts = scope.own_amounts
    if amounts and sparsity is not DEFAULT_AMOUNT and None not in amounts.values():
        raise SparsewoodError(
            f"sparsity={sparsity} would be ignored: every key of the scope has an amount of its own, {dict(amounts)}. "
            "Leave sparsity out, or give None to the keys that it is for."
        )


def _check_nm(granularity: NM, sparsity: AmountLike, scope: object) -> None:
    implied = 1 - granularity.n / granularity.m
    match as_amount(sparsity):
        case Sparsity(share):
            pass
        case Density(kept):
            share = 1 - kept
        case _:
            share = math.nan
    if sparsity is not DEFAULT_AMOUNT and not math.isclose(share, implied, rel_tol=1e-5, abs_tol=1e-9):
        raise SparsewoodError(
            f"{granularity.n}:{granularity.m} removes {implied:g} of the weights, sparsity asks for {sparsity}. "
            f"Leave sparsity out, or pass {implied:g}."
        )
    if scope != Everywhere():
        raise SparsewoodError(f"{granularity.n}:{granularity.m} fixes its own pools; leave scope out. Got {scope}.")
