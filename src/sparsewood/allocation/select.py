"""Exact selection of the best scores, over any number of tensors, without putting them together.

The rule, stated once: of N units the `keep` with the highest scores stay; among equal scores the one with the lower
index stays (tensors in model order, positions row-major). The number kept is exact, whatever the ties.

How: one pass over the scores, chunk by chunk, around a bracket guessed from a sample. Scores above the bracket are
marked as kept, those inside (a few per cent) are collected, and which of them stay is settled at the end. If the guess
was wrong or ties fill the bracket, the threshold is searched in the part that holds it, and a last pass applies it.
Memory: the masks, one chunk, and what was collected.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError

logger = logging.getLogger(__name__)

SAMPLE = 100_000
COLLECT_AT_LEAST = 1 << 18
COLLECT_SHARE = 32  # beyond COLLECT_AT_LEAST, at most one score in this many is collected
MARGIN = 4.0  # half width of the first bracket, in standard deviations of a rank in the sample


class Scores(Protocol):
    """The scores of one tensor's units. A unit that is already removed scores -inf; all others are finite."""

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def alive(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def chunks(self) -> Iterator[Tensor]:
        """1-D tensors that together hold every unit's score once, in row-major order.

        All float32 or all float64 in one pool, so that a threshold means the same everywhere.
        """
        ...

    def sample(self, count: int) -> Tensor:
        """About `count` of the scores, spread over the tensor."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Keep the scores above `value`, and the first `ties` of the `equal` ones equal to it."""

    value: float
    ties: int
    equal: int


def select(pool: Sequence[Scores], keep: int, floors: Sequence[int] | None = None) -> list[Tensor]:
    """Flat boolean masks (True = kept), one for each tensor of the pool, with exactly `keep` True in all.

    No tensor keeps fewer than its floor: tensors that would are raised to it and the others give up as many.
    Raises `SparsewoodError` if more is to be kept than is there, or less than the floors.
    """
    floors = [0] * len(pool) if floors is None else list(floors)
    available = sum(scores.alive for scores in pool)
    if not sum(floors) <= keep <= available:
        raise SparsewoodError(
            f"Cannot keep {keep:,} units of {_names(pool)}: the floors need {sum(floors):,} and {available:,} are left."
        )
    masks: dict[int, Tensor] = {}
    free = list(range(len(pool)))
    while True:
        masks.update(zip(free, _select([pool[i] for i in free], keep), strict=True))
        short = [i for i in free if floors[i] and _count(_array(masks[i])) < floors[i]]
        if not short:
            return [masks[i] for i in range(len(pool))]
        masks.update({i: _select([pool[i]], floors[i])[0] for i in short})
        keep -= sum(floors[i] for i in short)
        free = [i for i in free if i not in short]


def _names(pool: Sequence[Scores]) -> str:
    first = ", ".join(scores.name for scores in pool[:3])
    return first if len(pool) <= 3 else f"{first} and {len(pool) - 3} more"


def _select(pool: Sequence[Scores], keep: int) -> list[Tensor]:
    if keep == 0:
        return [torch.zeros(scores.units, dtype=torch.bool, device=scores.device) for scores in pool]
    masks = [_new_mask(scores) for scores in pool]
    bracket = _first_bracket(pool, keep)
    scan = _scan(pool, bracket.lower, bracket.upper, masks)
    wanted = keep - scan.above
    if scan.complete and 0 < wanted <= scan.inside:
        _settle(pool, masks, scan, wanted)
        return masks
    return _apply(pool, _search(pool, keep, bracket, scan))


def _settle(pool: Sequence[Scores], masks: Sequence[Tensor], scan: _Scan, wanted: int) -> None:
    """Mark the best `wanted` of the collected scores as kept too."""
    threshold = _read_off(scan.collected, wanted)
    equal = np.flatnonzero(scan.collected == threshold.value)
    chosen = scan.collected > threshold.value
    chosen[equal[: threshold.ties]] = True
    limits = np.cumsum([0, *(scores.units for scores in pool)])
    for scores, mask, start, stop in zip(pool, masks, limits, limits[1:], strict=False):
        first, last = np.searchsorted(scan.places, (start, stop))
        places = scan.places[first:last][chosen[first:last]] - start
        mask[torch.from_numpy(places).to(mask.device)] = True
        if threshold.ties < threshold.equal:
            low, high = np.searchsorted(equal, (first, last))
            _report_all_equal(scores, high - low)


def _report_all_equal(scores: Scores, tied: int) -> None:
    if tied == scores.alive > 1:
        logger.warning("All %d scores of %s are equal: what stays was decided by position.", tied, scores.name)


def _apply(pool: Sequence[Scores], threshold: Threshold) -> list[Tensor]:
    every_tie = threshold.ties == threshold.equal
    left = threshold.ties
    masks = []
    for scores in pool:
        mask = _new_mask(scores)
        view, start, tied = _array(mask), 0, 0
        for chunk in map(_array, scores.chunks()):
            part = view[start : start + len(chunk)]
            start += len(chunk)
            if every_tie:
                part[:] = chunk >= threshold.value
                continue
            part[:] = chunk > threshold.value
            equal = _places(chunk == threshold.value)
            part[equal[:left]] = True
            left -= min(left, len(equal))
            tied += len(equal)
        _report_all_equal(scores, tied)
        masks.append(mask)
    return masks


def _new_mask(scores: Scores) -> Tensor:
    if scores.device.type == "cpu":
        # NumPy asks the system for large pages, which are quicker to fill for the first time.
        return torch.from_numpy(np.empty(scores.units, dtype=np.bool_))
    return torch.empty(scores.units, dtype=torch.bool, device=scores.device)


def _array(tensor: Tensor) -> Any:
    """On the CPU the NumPy view, whose comparisons are several times faster; elsewhere the tensor."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _count(mask: Any) -> int:
    return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else int(mask.count_nonzero())


@dataclass(frozen=True)
class _Bracket:
    lower: float
    upper: float
    finite: torch.finfo


def _search(pool: Sequence[Scores], keep: int, bracket: _Bracket, scan: _Scan) -> Threshold:
    """Narrow the bracket until the threshold is proven."""
    lower, upper, finite = bracket.lower, bracket.upper, bracket.finite
    while True:
        wanted = keep - scan.above
        if wanted <= 0:
            lower, upper = _next(upper, finite), finite.max
        elif wanted > scan.inside:
            lower, upper = finite.min, _previous(lower, finite)
        elif lower == upper:
            return Threshold(lower, wanted, scan.inside)
        elif scan.complete:
            return _read_off(scan.collected, wanted)
        else:  # too many to collect: halve the bracket at a value that is in it, or prove that value
            middle = float(np.partition(scan.collected, scan.collected.size // 2)[scan.collected.size // 2])
            proof = _scan(pool, middle, middle)
            if 0 < keep - proof.above <= proof.inside:
                return Threshold(middle, keep - proof.above, proof.inside)
            if keep <= proof.above:
                lower = _next(middle, finite)
            else:
                upper = _previous(middle, finite)
        scan = _scan(pool, lower, upper)


def _first_bracket(pool: Sequence[Scores], keep: int) -> _Bracket:
    """Two sample values that very likely have the threshold between them, and the limits of the scores' type."""
    units = sum(scores.units for scores in pool)
    share_of_units = min(1.0, SAMPLE / max(units, 1))
    samples = [scores.sample(math.ceil(share_of_units * scores.units)).cpu() for scores in pool if scores.units]
    if len({sample.dtype for sample in samples}) > 1:
        raise SparsewoodError(f"The scores of {_names(pool)} must be all float32 or all float64, to be comparable.")
    finite = torch.finfo(samples[0].dtype)
    sample = np.sort(torch.cat(samples).numpy())
    sample = sample[sample >= finite.min][::-1]
    if sample.size == 0 or units <= COLLECT_AT_LEAST:
        return _Bracket(finite.min, finite.max, finite)
    kept = keep / sum(scores.alive for scores in pool)
    margin = MARGIN * math.sqrt(sample.size * kept * (1 - kept)) + MARGIN
    first, last = math.floor(kept * sample.size - margin), math.ceil(kept * sample.size + margin)
    upper = float(sample[first]) if first >= 0 else finite.max
    lower = float(sample[last]) if last < sample.size else finite.min
    return _Bracket(lower, upper, finite)


@dataclass(frozen=True)
class _Scan:
    above: int
    inside: int
    collected: np.ndarray  # the scores inside; only the first of them if there are too many
    places: np.ndarray  # where they are, counted over the whole pool

    @property
    def complete(self) -> bool:
        return len(self.collected) == self.inside


def _scan(pool: Sequence[Scores], lower: float, upper: float, masks: Sequence[Tensor] | None = None) -> _Scan:
    """Count the scores above `upper` and those in [lower, upper]; collect the latter unless the two bounds agree.

    Where masks are given, they are written: True above `upper`.
    """
    units = sum(scores.units for scores in pool)
    limit = max(COLLECT_AT_LEAST, units // COLLECT_SHARE)
    above, inside, offset, room = 0, 0, 0, limit if lower < upper else 0
    collected, places = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    target = None if masks is None else [_array(mask) for mask in masks]
    for number, scores in enumerate(pool):
        start = 0
        for chunk in map(_array, scores.chunks()):
            over = chunk > upper
            within = (chunk >= lower) ^ over
            above += _count(over)
            if target is not None:
                target[number][start : start + len(chunk)] = over
            if room <= 0:
                inside += _count(within)
            else:
                where = _places(within)
                inside += len(where)
                where = where[:room]
                values = chunk[where]
                collected.append(_on_host(values))
                places.append(_on_host(where) + (offset + start))
                room -= len(where)
            start += len(chunk)
        offset += scores.units
    values = collected[1:] or collected
    return _Scan(above, inside, np.concatenate(values), np.concatenate(places))


def _on_host(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def _places(mask: Any) -> Any:
    return np.flatnonzero(mask) if isinstance(mask, np.ndarray) else mask.nonzero().reshape(-1)


def _read_off(values: np.ndarray, wanted: int) -> Threshold:
    place = values.size - wanted
    value = np.partition(values, place)[place]
    return Threshold(float(value), wanted - _count(values > value), _count(values == value))


def _next(value: float, finite: torch.finfo) -> float:
    return _step(value, math.inf, finite)


def _previous(value: float, finite: torch.finfo) -> float:
    return _step(value, -math.inf, finite)


def _step(value: float, towards: float, finite: torch.finfo) -> float:
    dtype = torch.float64 if finite.bits == 64 else torch.float32
    return torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)).item()


def best_in_rows(scores: Tensor, keep: Tensor) -> Tensor:
    """In each row of `scores` [rows, n], the `keep[row]` highest are True; ties go to the lower index.

    >>> best_in_rows(torch.tensor([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), torch.tensor([1, 2]))
    tensor([[ True, False, False],
            [ True,  True, False]])
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices
    ranks = torch.arange(scores.shape[1], device=scores.device)
    chosen = ranks < keep.to(scores.device)[:, None]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, chosen)
