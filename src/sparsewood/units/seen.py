"""What is seen of units in one tensor of one batch, reduced to numbers for each example and unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.units.sites import Site

__all__ = ["Seen"]


@dataclass(eq=False)
class Seen:
    """The activations of one site's units for the examples of one batch.

    `values` is [examples, ..., positions of the site's axis, ...], the site's axis being number `axis`; every other
    axis holds places: space, tokens, time steps. `gradient`, if there is one, is that of each example's own loss, of
    the same shape. `folded` says that places of each example were folded into the first axis; they are now axis 1.
    `target` is what the batch is labelled with, `first` the number of its first example in the data.

    Numbers are [examples, units]. Where a unit has several positions (a head, a channel that was flattened), all of
    them count as places.
    """

    site: Site
    values: Tensor
    axis: int
    target: object = None
    first: int = 0
    gradient: Tensor | None = None
    numbers: Tensor | None = None
    folded: bool = False

    @property
    def examples(self) -> int:
        return self.values.shape[0]

    @cached_property
    def index(self) -> Tensor:
        """int64[examples]: the number of each example in the data."""
        return torch.arange(self.first, self.first + self.examples) if self.numbers is None else self.numbers

    @cached_property
    def places(self) -> Tensor:
        """float64[units]: at how many places each unit is seen in one example."""
        return self._shares * (self.values[0].numel() // max(self.values.shape[self.axis], 1))

    @cached_property
    def mean(self) -> Tensor:
        """The mean over places."""
        return self._of_sums(self._sum(self.values))

    @cached_property
    def energy(self) -> Tensor:
        """The mean square over places."""
        rest = self._rest
        wide = self._wide(self.values)
        squares = torch.linalg.vector_norm(wide, dim=rest).square() if rest else wide.square()
        return self._of_sums(squares)

    @cached_property
    def zeros(self) -> Tensor:
        """The fraction of places at which the unit is exactly 0."""
        rest = self._rest
        alive = torch.count_nonzero(self.values, dim=rest) if rest else (self.values != 0).long()
        per_position = self.values[0].numel() // max(self.values.shape[self.axis], 1)
        return self._of_sums((per_position - alive).double())

    @cached_property
    def maximum(self) -> Tensor:
        """The largest value at any place."""
        return self._extreme(self.values.amax, "amax")

    @cached_property
    def minimum(self) -> Tensor:
        """The smallest value at any place."""
        return self._extreme(self.values.amin, "amin")

    @cached_property
    def first_order(self) -> Tensor:
        """sum over places of a * g: minus the first-order change of the example's loss when the unit becomes 0."""
        assert self.gradient is not None
        return self._gathered(self._sum(self._wide(self.values) * self.gradient))

    def about(self, means: Tensor) -> Tensor:
        """sum over places of (m_j - a) * g, m_j a number for each unit; exactly 0 where all a are m_j."""
        assert self.gradient is not None
        per_position = torch.cat([means.to(self.values.device), means.new_zeros(1).to(self.values.device)])[
            self._columns
        ]
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        wide = self._wide(self.values)
        return self._gathered(self._sum((per_position.to(wide.dtype).view(shape) - wide) * self.gradient))

    @cached_property
    def gradient_sum(self) -> Tensor:
        """sum over places of g."""
        assert self.gradient is not None
        return self._gathered(self._sum(self.gradient))

    @cached_property
    def maps(self) -> Tensor:
        """[examples, units, places]: the values themselves, of units that are all seen at as many places."""
        moved = self.values.movedim(self.axis, 1)
        lines = moved.reshape(*moved.shape[:2], -1)
        if self._identity:
            return lines
        counts = np.bincount(self.site.owner[self.site.owner >= 0], minlength=self.site.columns)
        different = sorted(set(counts.tolist()))
        if len(different) > 1:
            raise SparsewoodError(
                f"Units at {self.site.name!r} are seen at different numbers of places ({different}): what compares "
                "their maps place by place cannot be measured there."
            )
        order = torch.from_numpy(np.argsort(self.site.owner, kind="stable")[-int(counts.sum()) :]).to(lines.device)
        return lines[:, order].unflatten(1, (self.site.columns, int(counts[0]))).flatten(2)

    # ------------------------------------------------------------ reductions

    @property
    def _rest(self) -> list[int]:
        return [axis for axis in range(1, self.values.ndim) if axis != self.axis]

    @cached_property
    def _identity(self) -> bool:
        owner = self.site.owner
        return len(owner) == self.site.columns and bool((owner == np.arange(len(owner))).all())

    @cached_property
    def _shares(self) -> Tensor:
        """float64[units]: how many positions of the axis each unit has."""
        owner = self.site.owner
        counts = np.bincount(owner[owner >= 0], minlength=self.site.columns)
        return torch.from_numpy(counts).to(self.values.device, torch.float64)

    def _wide(self, tensor: Tensor) -> Tensor:
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def _sum(self, tensor: Tensor) -> Tensor:
        wide = torch.promote_types(tensor.dtype, torch.float32)
        return tensor.sum(self._rest, dtype=wide) if self._rest else tensor.to(wide)

    def _of_sums(self, sums: Tensor) -> Tensor:
        return self._gathered(sums) / self.places

    def _gathered(self, sums: Tensor) -> Tensor:
        """float64[examples, units] from [examples, positions]."""
        sums = sums.double()
        if self._identity:
            return sums
        total = sums.new_zeros(len(sums), self.site.columns + 1)
        return total.index_add_(1, self._columns, sums)[:, : self.site.columns]

    def _extreme(self, reduce: Callable[..., Tensor], how: str) -> Tensor:
        found = reduce(self._rest) if self._rest else self.values
        found = found.double()
        if self._identity:
            return found
        start = -torch.inf if how == "amax" else torch.inf
        total = found.new_full((len(found), self.site.columns + 1), start)
        place = self._columns.expand(len(found), -1)
        return total.scatter_reduce_(1, place, found, how)[:, : self.site.columns]

    @cached_property
    def _columns(self) -> Tensor:
        """The column of every position, the one behind the last for positions that are no unit."""
        owner = np.where(self.site.owner < 0, self.site.columns, self.site.owner)
        return torch.from_numpy(owner).to(self.values.device)
