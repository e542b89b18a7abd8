"""Which elements of which parameters belong to which unit, as tensors that sums and their gradients are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sparsewood.structure import Group, Slice, Structure

__all__ = ["UnitMap"]


@dataclass(frozen=True, eq=False)
class _Place:
    """One axis of one parameter along which a group has units.

    `owner[j]` is the unit at position j, the number of units where there is none. `new` marks the elements that no
    earlier axis of the same parameter counts for the same unit; None if that is all of them.
    """

    name: str
    axis: int
    owner: Tensor
    new: Tensor | None

    def sums(self, tensor: Tensor, units: int) -> Tensor:
        """float[units]: the sum of each unit's elements."""
        counted = tensor if self.new is None else tensor * self.new.to(tensor.device)
        lines = counted.movedim(self.axis, 0).reshape(len(self.owner), -1).sum(1)
        return lines.new_zeros(units + 1).index_add(0, self.owner.to(tensor.device), lines)[:units]

    def spread(self, factors: Tensor, shape: Sequence[int]) -> Tensor:
        """The factor of each element's unit, broadcastable to `shape`; 0 where there is none."""
        line = torch.cat([factors, factors.new_zeros(1)])[self.owner.to(factors.device)]
        found = line.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        return found if self.new is None else found * self.new.to(factors.device)


@dataclass(frozen=True, eq=False)
class UnitMap:
    """Sums over the elements of each unit, and the way back: a factor for each unit onto its elements.

    Made by `UnitMap.of(structure, tensors)` for the parameters in `tensors`; `units` holds the number of units of each
    group, in the order of the structure. An element on two axes of the same unit counts once; one that belongs to units
    of two groups, as the weight between two layers, counts for both.

    >>> from torch import nn
    >>> from sparsewood import trace
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> tensors = {"0.weight": torch.tensor([[1.0], [2.0]]), "2.weight": torch.tensor([[3.0, 4.0]])}
    >>> units = UnitMap.of(trace(net, torch.ones(1, 1)), tensors)
    >>> units.sums(tensors)["0"], units.sizes["0"]
    (tensor([4., 6.]), tensor([2., 2.]))
    >>> units.spread({"0": torch.tensor([0.5, 0.0])}, tensors)["2.weight"]
    tensor([[0.5000, 0.0000]])
    """

    units: Mapping[str, int]
    sizes: Mapping[str, Tensor]
    places: Mapping[str, tuple[_Place, ...]]

    @classmethod
    def of(cls, structure: Structure, tensors: Mapping[str, Tensor]) -> UnitMap:
        """The map for these parameters; groups that have no unit in any of them are left out."""
        places = {group.name: _places(group, tensors) for group in structure.prunable}
        places = {name: found for name, found in places.items() if found}
        units = {group.name: group.units for group in structure.prunable if group.name in places}
        ones = {name: tensor.detach().new_ones(()).expand(tensor.shape) for name, tensor in tensors.items()}
        return cls(units, cls(units, {}, places).sums(ones), places)

    def sums(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each group float[units]: the sum of the elements of each unit, of the parameters in `tensors`."""
        found: dict[str, Tensor] = {}
        for group, places in self.places.items():
            for place in places:
                if place.name in tensors:
                    sums = place.sums(tensors[place.name], self.units[group])
                    found[group] = found[group] + sums.to(found[group].device) if group in found else sums
        return found

    def spread(self, factors: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each parameter the factors of its elements' units, summed over groups; broadcastable to its shape."""
        found: dict[str, Tensor] = {}
        for group, values in factors.items():
            for place in self.places[group]:
                tensor = tensors[place.name]
                own = place.spread(values.to(tensor.device), tensor.shape)
                found[place.name] = found[place.name] + own if place.name in found else own
        return found


def _places(group: Group, tensors: Mapping[str, Tensor]) -> tuple[_Place, ...]:
    found: list[_Place] = []
    by_name: dict[str, list[Slice]] = {}
    for one in group.slices:
        if one.param in tensors and (one.owner >= 0).any():
            by_name.setdefault(one.param, []).append(one)
    for name, slices in by_name.items():
        tensor = tensors[name]
        earlier: list[_Place] = []
        for one in slices:
            owner = torch.as_tensor(one.owner, dtype=torch.int64, device=tensor.device)
            owner = torch.where(owner < 0, group.units, owner)
            earlier.append(_Place(name, one.axis, owner, _new(owner, one.axis, earlier, tensor.dim())))
        found += earlier
    return tuple(found)


def _new(owner: Tensor, axis: int, earlier: Sequence[_Place], axes: int) -> Tensor | None:
    """bool, broadcastable: where no earlier axis has the same unit."""
    new = None
    for other in earlier:
        here = owner.reshape([-1 if a == axis else 1 for a in range(axes)])
        there = other.owner.reshape([-1 if a == other.axis else 1 for a in range(axes)])
        differs = here != there
        new = differs if new is None else new & differs
    return new
