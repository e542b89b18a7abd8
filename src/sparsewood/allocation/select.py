"""Exact selection of the best scores, over any number of tensors, without putting them together.

The rule, stated once: of N units the `keep` with the highest scores stay; among equal scores the one with the lower
index stays (tensors in model order, positions row-major). The number kept is exact, whatever the ties.

How: a pass over the scores, chunk by chunk, around a bracket guessed from a sample. Scores above the bracket are
counted, those inside (about one per cent) are collected, and the threshold is read off them. If the guess was wrong or
ties fill the bracket, the search goes on in the part that holds the threshold. A last pass writes the masks. Memory: the
masks, one chunk, and the collected scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError

logger = logging.getLogger(__name__)

SAMPLE = 32_000  # small enough that PyTorch starts no threads for it
COLLECT_AT_LEAST = 1 << 18
COLLECT_SHARE = 32  # beyond COLLECT_AT_LEAST, at most one score in this many is collected
MARGIN = 5.0  # half width of the first bracket, in standard deviations of a rank in the sample


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
    return _apply(pool, find_threshold(pool, keep))


def _apply(pool: Sequence[Scores], threshold: Threshold) -> list[Tensor]:
    every_tie = threshold.ties == threshold.equal
    left = threshold.ties
    masks = []
    for scores in pool:
        mask = torch.empty(scores.units, dtype=torch.bool, device=scores.device)
        view, start, tied = _array(mask), 0, 0
        for chunk in map(_array, scores.chunks()):
            part = view[start : start + len(chunk)]
            start += len(chunk)
            if every_tie:
                part[:] = chunk >= threshold.value
                continue
            part[:] = chunk > threshold.value
            equal = (chunk == threshold.value).nonzero()
            equal = equal[0] if isinstance(equal, tuple) else equal.reshape(-1)
            part[equal[:left]] = True
            left -= min(left, len(equal))
            tied += len(equal)
        if tied == scores.alive and tied > 1:
            logger.warning("All %d scores of %s are equal: what stays was decided by position.", tied, scores.name)
        masks.append(mask)
    return masks


def _array(tensor: Tensor) -> np.ndarray | Tensor:
    """On the CPU the NumPy view, whose comparisons are several times faster; elsewhere the tensor."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _count(mask: np.ndarray | Tensor) -> int:
    return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else int(mask.count_nonzero())


def find_threshold(pool: Sequence[Scores], keep: int) -> Threshold:
    """The `keep`-th highest score (keep >= 1), and how many of those equal to it are among the best `keep`."""
    lower, upper, finite = _first_bracket(pool, keep)
    while True:
        scan = _scan(pool, lower, upper)
        wanted = keep - scan.above
        if wanted <= 0:
            lower, upper = _next(upper, finite), finite.max
        elif wanted > scan.inside:
            lower, upper = finite.min, _previous(lower, finite)
        elif lower == upper:
            return Threshold(lower, wanted, scan.inside)
        elif scan.collected.size == scan.inside:
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


def _first_bracket(pool: Sequence[Scores], keep: int) -> tuple[float, float, torch.finfo]:
    """Two sample values that very likely have the threshold between them, and the limits of the scores' type."""
    units = sum(scores.units for scores in pool)
    share_of_units = min(1.0, SAMPLE / max(units, 1))
    samples = [scores.sample(math.ceil(share_of_units * scores.units)).cpu() for scores in pool if scores.units]
    finite = torch.finfo(samples[0].dtype)
    sample = np.sort(torch.cat(samples).numpy())
    sample = sample[sample >= finite.min][::-1]
    if sample.size == 0 or units <= COLLECT_AT_LEAST:
        return finite.min, finite.max, finite
    kept = keep / sum(scores.alive for scores in pool)
    margin = MARGIN * math.sqrt(sample.size * kept * (1 - kept)) + MARGIN
    first, last = math.floor(kept * sample.size - margin), math.ceil(kept * sample.size + margin)
    upper = float(sample[first]) if first >= 0 else finite.max
    lower = float(sample[last]) if last < sample.size else finite.min
    return lower, upper, finite


@dataclass(frozen=True)
class _Scan:
    above: int
    inside: int
    collected: np.ndarray  # the scores inside; only the first of them if there are too many


def _scan(pool: Sequence[Scores], lower: float, upper: float) -> _Scan:
    """Count the scores above `upper` and those in [lower, upper]; collect the latter unless the two bounds agree."""
    limit = max(COLLECT_AT_LEAST, sum(scores.units for scores in pool) // COLLECT_SHARE)
    above, inside, room = 0, 0, limit if lower < upper else 0
    collected: list[np.ndarray] = []
    for chunk in (_array(chunk) for scores in pool for chunk in scores.chunks()):
        over = chunk > upper
        above += _count(over)
        within = (chunk >= lower) ^ over
        inside += _count(within)
        if room > 0:
            values = chunk[within][:room]
            collected.append(values if isinstance(values, np.ndarray) else values.cpu().numpy())
            room -= len(values)
    return _Scan(above, inside, np.concatenate(collected) if collected else np.empty(0))


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
