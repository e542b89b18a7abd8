"""What a network costs once units are gone: entries, bytes and multiply-adds, exact and quick to evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
from scipy.sparse import csr_matrix
from torch import nn

from sparsewood.shrinking.plan import Keep
from sparsewood.structure import Structure
from sparsewood.structure.counts import slices_by_tensor
from sparsewood.structure.structure import Slice

__all__ = ["Costs", "element_sizes"]

Product = tuple[int, Sequence[tuple[int, np.ndarray]]]
"""A factor that stays, and factors with a unit for each of their positions (-1 = it stays)."""


def element_sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of one element of each parameter and persistent buffer, by name: what `Costs` takes.

    >>> element_sizes(nn.Linear(2, 2).half())
    {'weight': 2, 'bias': 2}
    """
    stored = model.state_dict(keep_vars=True).keys()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.element_size() for name, tensor in tensors if name in stored}


class Costs:
    """Parameters, bytes and multiply-adds of what is left of a network.

    `params(keep)` are entries of all parameters, `bytes(keep)` those of the parameters and buffers named in `bytes_of`
    times their element sizes, `macs(keep)` multiply-adds of one forward on the traced inputs. Tied parameters count
    once. Groups that `keep` does not name stay whole.

    Every axis has a size that is linear in the numbers of units that are gone from each group, and every tensor or
    operation costs the product of its axes. Where the units of a group own unequally many positions, they are counted
    in as many classes as there are.

    >>> import torch, sparsewood as sw
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> costs = Costs(sw.trace(model, torch.zeros(2, 4)), element_sizes(model))
    >>> half = {"0": np.arange(8) < 4}
    >>> costs.params({}), costs.params(half), costs.bytes(half), costs.macs(half)
    (67, 35, 140, 56)
    """

    def __init__(self, structure: Structure, bytes_of: Mapping[str, int]) -> None:
        self.names = tuple(group.name for group in structure.prunable)
        self.units = np.array([group.units for group in structure.prunable], np.int64)
        self._start = np.concatenate([[0], np.cumsum(self.units)]).astype(np.int64)
        tensors, numbers = list(_tensors(structure, self._start)), list(structure.shapes)
        multiplied = list(_operations(structure, self._start))
        self._class_of, self._group_of_class = self._classes([*tensors, *multiplied])
        members = np.bincount(self._class_of, minlength=len(self._group_of_class))
        size = np.array([bytes_of.get(name, 0) for name in numbers], np.int64)
        parameter = np.array([name in structure.record.parameters for name in numbers], np.int64)
        self._sizes = _Products(tensors, self._class_of, members)
        self._operations = _Products(multiplied, self._class_of, members)
        self._entries_of, self._bytes_of = parameter, size

    @property
    def uniform(self) -> bool:
        """Whether all units of each group cost the same, so that their number is all that counts."""
        return len(self._group_of_class) == len(self.units)

    def params(self, keep: Keep) -> int:
        """Entries of parameters that are left."""
        return self._sum(self._sizes, self._entries_of, keep)

    def bytes(self, keep: Keep) -> int:
        """Bytes of parameters and buffers that are left."""
        return self._sum(self._sizes, self._bytes_of, keep)

    def macs(self, keep: Keep) -> int:
        """Multiply-adds that are left."""
        return int(self._operations(self._gone(keep)).sum())

    def _sum(self, products: _Products, weights: np.ndarray, keep: Keep) -> int:
        return int(products(self._gone(keep)) @ weights)

    def _gone(self, keep: Keep) -> np.ndarray:
        """How many units of each class are gone."""
        gone = np.zeros(self._start[-1], bool)
        for number, name in enumerate(self.names):
            if name in keep:
                gone[self._start[number] : self._start[number + 1]] = ~np.asarray(keep[name], bool)
        return np.bincount(self._class_of[gone], minlength=len(self._group_of_class))

    def _classes(self, products: Iterable[Product]) -> tuple[np.ndarray, np.ndarray]:
        """The class of every unit, and the group of every class: units of one class own equally many positions."""
        uneven: dict[int, list[np.ndarray]] = {}
        for _, factors in products:
            for _, owner in factors:
                for group, counts in self._uneven(owner):
                    uneven.setdefault(group, []).append(counts)
        class_of, group_of, total = np.zeros(self._start[-1], np.int64), list[int](), 0
        for group in range(len(self.units)):
            inverse = np.zeros(self.units[group], np.int64)
            if group in uneven:
                inverse = np.unique(np.stack(uneven[group]), axis=1, return_inverse=True)[1].reshape(-1)
            class_of[self._start[group] : self._start[group + 1]] = total + inverse
            classes = int(inverse.max(initial=0)) + 1
            group_of += [group] * classes
            total += classes
        return class_of, np.array(group_of, np.int64)

    def _uneven(self, owner: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The groups of whose units some own more positions of an axis than others, and how many each owns."""
        units, counts = np.unique(owner[owner >= 0], return_counts=True)
        groups = np.searchsorted(self._start, units, side="right") - 1
        for group in np.unique(groups):
            mine = groups == group
            if int(mine.sum()) < self.units[group] or (counts[mine] != counts[mine][0]).any():
                full = np.zeros(self.units[group], np.int64)
                full[units[mine] - self._start[group]] = counts[mine]
                yield int(group), full


def _tensors(structure: Structure, start: np.ndarray) -> Iterator[Product]:
    """For every parameter and buffer its axes."""
    owners: dict[str, dict[int, np.ndarray]] = {}
    for number, group in enumerate(structure.prunable):
        for name, slices in slices_by_tensor(group.slices).items():
            for one in slices:
                _add(owners.setdefault(name, {}), one.axis, one, int(start[number]))
    for name, shape in structure.shapes.items():
        axes = owners.get(name, {})
        yield (
            prod(size for axis, size in enumerate(shape) if axis not in axes),
            [(shape[axis], owner) for axis, owner in axes.items()],
        )


def _add(axes: dict[int, np.ndarray], axis: int, one: Slice, first: int) -> None:
    before = axes.get(axis, np.full(len(one.owner), -1))
    axes[axis] = np.where(one.owner >= 0, one.owner + first, before)


def _operations(structure: Structure, start: np.ndarray) -> Iterator[Product]:
    """For every operation that multiplies its factors."""
    record = structure.record
    first = np.full(len(structure.groups) + 1, -1, np.int64)  # the last is for components without a group
    numbers = [number for number, group in enumerate(structure.groups) if group.frozen_by is None]
    first[numbers] = start[:-1]
    for cost in record.costs:
        stays, factors = 1, []
        for size, row in zip(cost.sizes, cost.rows, strict=True):
            components = record.component[row[row > 0]] if row is not None else np.zeros(0, np.int64)
            begin = first[record.group_of[components]]
            owner = np.where(begin >= 0, begin + record.unit_of[components], -1)
            if (owner >= 0).any():
                factors.append((size, owner))
            else:
                stays *= size
        yield stays, factors


class _Products:
    """Products of sizes that are linear in how many units of each class are gone: call it with int64[classes]."""

    def __init__(self, products: Sequence[Product], class_of: np.ndarray, members: np.ndarray) -> None:
        rows: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        shares: list[np.ndarray] = []
        sizes: list[int] = []
        begins: list[int] = []
        for stays, factors in products:
            begins.append(len(sizes))
            sizes.append(stays)
            for size, owner in factors:
                found, counts = np.unique(class_of[owner[owner >= 0]], return_counts=True)
                rows.append(np.full(len(found), len(sizes)))
                columns.append(found)
                shares.append(counts // members[found])
                sizes.append(size)
        self._sizes, self._begins = np.array(sizes, np.int64), np.array(begins, np.int64)
        entries = [np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (shares, rows, columns)]
        self._shares = csr_matrix((entries[0], (entries[1], entries[2])), shape=(len(sizes), len(members)))

    def __call__(self, gone: np.ndarray) -> np.ndarray:
        left = self._sizes - self._shares @ gone
        return np.multiply.reduceat(left, self._begins) if len(left) else left
