"""The scores of one parameter's units: a criterion and a granularity at work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsewood.criteria import Criterion, Inputs
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import Granularity, Units, grid, to_elements, to_units
from sparsewood.parameters import Entry
from sparsewood.types import Statistics

CHUNK = 1 << 18  # scores computed at a time on the CPU: small enough for the cache
CUDA_CHUNK = 1 << 24
REMOVED = -math.inf


@dataclass(frozen=True)
class View:
    """A criterion at work: how a parameter's units are scored."""

    criterion: Criterion
    granularity: Granularity
    statistics: Statistics
    generator: torch.Generator
    dtype: torch.dtype

    def tile(self, entry: Entry) -> tuple[int, ...]:
        """The size of a unit along each axis; granularities speak of (outputs, inputs of one output, ...)."""
        shape = tuple(entry.parameter.shape)
        try:
            if not entry.inputs_first:
                tile = self.granularity.tile(shape)
                # All outputs of one input channel are those of its group.
                whole = isinstance(self.granularity, Units) and 0 not in self.granularity.axes
                return (tile[0] // entry.groups, *tile[1:]) if whole else tile
            inputs, outputs, *space = shape
            tile = self.granularity.tile((outputs, inputs // entry.groups, *space))
        except SparsewoodError as error:
            raise SparsewoodError(f"{entry.name}: {error} Leave it out with exclude=[{entry.name!r}].") from error
        return (tile[1], tile[0], *tile[2:])

    def means(self, entry: Entry) -> dict[str, Tensor]:
        """The statistics of one parameter, as means over examples."""
        return {kind: tensor / self.statistics.samples for kind, tensor in self.sums(entry).items()}

    def sums(self, entry: Entry) -> dict[str, Tensor]:
        """The statistics of one parameter; raises `SparsewoodError` for those of another."""
        shape = entry.parameter.shape
        found = {kind: self.statistics.get(kind, entry.name) for kind in self.criterion.reads}
        for kind, tensor in found.items():
            fits = tensor.ndim == len(shape) and all(n in (1, m) for n, m in zip(tensor.shape, shape, strict=True))
            if not fits:
                raise SparsewoodError(
                    f"The statistic {kind!r} of {entry.name} has shape {tuple(tensor.shape)}, the parameter "
                    f"{tuple(shape)}: it was collected on another model. Collect it on this one."
                )
        return found

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


def joined(
    criterion: Criterion, chosen: Sequence[Entry], statistics: Statistics, masks: Mapping[str, Tensor]
) -> Statistics:
    """The statistics with what the criterion makes of all chosen parameters together; masked weights count as 0."""
    if type(criterion).across is Criterion.across:
        return statistics  # so that no masked copy of the weights is made for nothing
    weights = {}
    for entry in chosen:
        weight = entry.parameter.detach()
        weights[entry.name] = weight * masks[entry.name] if entry.name in masks else weight
    return criterion.across(weights, statistics)


def checked(name: str, scores: Tensor) -> Tensor:
    # One cheap reduction finds NaN and infinities; a sum that merely overflows is looked at closely.
    if not math.isfinite(scores.sum().item()) and not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise SparsewoodError(
            f"{bad} of {scores.numel()} scores of {name} are NaN or infinite: selecting by them would mean nothing. "
            "Check the weights, and the loss if the criterion uses gradients."
        )
    return scores


class ParameterScores:
    """The scores of one parameter's units, with the units that are already removed at -inf.

    Pointwise scores of single elements are computed chunk by chunk whenever they are asked for; all others once.
    """

    def __init__(self, view: View, entry: Entry, mask: Tensor | None) -> None:
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

    def computed(self) -> Tensor:
        """All scores, in the shape of the grid."""
        return self._finished(checked(self.name, self.view.units(self.entry, self.mask)), self.alive_units)

    def stored(self) -> Tensor:
        """The same, computed at the first call and kept."""
        if self._stored is None:
            self._stored = self.computed()
        return self._stored

    def chunks(self) -> Iterator[Tensor]:
        if not self.lazy:
            yield from self.stored().reshape(-1).split(chunk_size(self.device))
            return
        weight, sums = self.entry.parameter.detach(), self.view.sums(self.entry)
        mask = self.mask
        if weight.is_contiguous() and all(s.shape == weight.shape and s.is_contiguous() for s in sums.values()):
            weight, sums = weight.reshape(-1), {kind: s.reshape(-1) for kind, s in sums.items()}
            mask = None if mask is None else mask.reshape(-1)
        rows = weight.shape[0]
        step = max(1, chunk_size(self.device) * rows // max(1, weight.numel()))
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
        means = {kind: s.expand(weight.shape)[places] for kind, s in self.view.sums(self.entry).items()}
        return self._pointwise(weight[places], means, None if self.mask is None else self.mask[places])

    def by_output(self, scores: Tensor) -> Tensor:
        """What has the shape of the grid, with one row for each output of the layer."""
        if self.entry.inputs_first:  # [groups x inputs of one output, outputs of one group, ...]
            scores = scores.unflatten(0, (self.entry.groups, -1)).transpose(1, 2).flatten(0, 1)
        return scores.reshape(len(scores) if scores.ndim else 1, -1)

    def from_output(self, rows: Tensor) -> Tensor:
        """What is arranged as `by_output`, in the order of the grid."""
        if not self.entry.inputs_first:
            return rows.reshape(-1)
        inputs, outputs, *space = self.grid
        groups = self.entry.groups
        return rows.reshape(groups, outputs, inputs // groups, *space).transpose(1, 2).reshape(-1)

    def kept(self, units: Tensor) -> Tensor:
        """The element mask for a mask of units, without what was removed before."""
        spread = to_elements(units.reshape(self.grid), self.tile).reshape(self.entry.parameter.shape)
        return spread if self.mask is None else spread & self.mask

    def _pointwise(self, weight: Tensor, sums: Mapping[str, Tensor], alive: Tensor | None) -> Tensor:
        means = {kind: tensor / self.view.statistics.samples for kind, tensor in sums.items()}
        weight = weight if alive is None else weight.where(alive, weight.new_zeros(()))
        scores = self.view.criterion.finish(self.view.elements(self.entry, weight, means), 1)
        return self._finished(checked(self.name, scores), alive)

    def _finished(self, scores: Tensor, alive: Tensor | None) -> Tensor:
        scores = scores.to(torch.promote_types(scores.dtype, self.view.dtype))
        return scores if alive is None else scores.masked_fill(~alive, REMOVED)


def chunk_size(device: torch.device) -> int:
    return CHUNK if device.type == "cpu" else CUDA_CHUNK


def _spread(count: int, size: int, device: torch.device) -> Tensor:
    """`count` positions over `range(size)`, irregular enough not to follow the tensor's own period."""
    steps = np.arange(count)
    offsets = (steps * 0.6180339887498949) % 1.0
    places = ((steps + offsets) * (size / max(count, 1))).astype(np.int64)
    return torch.from_numpy(np.minimum(places, size - 1)).to(device)
