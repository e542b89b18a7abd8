"""What hangs together in a network: slices, groups, taps, barriers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.structure.reasons import INHERENT, NO_RULE, advice, short_op

if TYPE_CHECKING:
    from sparsewood.structure.record import Record
    from sparsewood.structure.units import Part, Reduction
    from sparsewood.types import Masks

__all__ = ["Barrier", "Group", "Slice", "Structure", "Tap"]

Role = Literal["out", "in", "both"]


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of a group along one axis of a parameter or buffer.

    `owner[j]` is the unit of the group that owns position j, -1 if none does (it is frozen, or another group's).
    `role`: at "out" axes the unit is made, at "in" axes it is read (the axis is summed over), "both" in tied weights.
    """

    param: str
    axis: int
    owner: np.ndarray = field(repr=False)
    role: Role = "out"


@dataclass(frozen=True, eq=False)
class Tap:
    """Where the activation of a group's units can be observed.

    `producer` is the weight that makes the units. They are seen behind its normalisation, shortcut and activation
    function: in the `index`-th tensor that enters (`at="input"`) or leaves (`at="output"`) the `call`-th call of
    `module`, along `axis`; `owner` as in `Slice`.
    """

    producer: str
    module: str
    call: int
    at: Literal["input", "output"]
    index: int
    axis: int
    owner: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Barrier:
    """Why units stay: the operation, where it ran, its operands' shapes, the reason, and what it froze.

    The text of it, and `frozen_by` of groups, name operations shortly: "addmm" for "aten.addmm.default".

    `parameters` counts the entries of parameters that cannot be removed and for which this is the first reason.
    """

    op: str
    module: str
    shapes: str
    why: str
    parameters: int = 0

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        return f"{self.why} ({short_op(self.op)}{where})" if self.op else f"{self.why}{where}"

    @property
    def advice(self) -> str:
        """What it would take to remove what this holds, as far as is known; begins with "nothing" if it cannot be."""
        return advice(self.why)

    @property
    def inherent(self) -> bool:
        """Whether there is nothing to tell: the places in a kernel, where no parameter stays because of them."""
        return not self.parameters and self.why == INHERENT


@dataclass(frozen=True, eq=False)
class Group:
    """Units with the same footprint: each owns as many positions along the same axes of the same parameters.

    `exact` is false if zeroing a unit and removing it differ, for the reasons in `inexact`. If `frozen_by` is set,
    none of the group's `units` can be removed, and `owner` is -1 in all its slices.
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    taps: tuple[Tap, ...] = ()
    exact: bool = True
    frozen_by: str | None = None
    inexact: tuple[str, ...] = ()

    def __repr__(self) -> str:
        state = f", frozen by {self.frozen_by}" if self.frozen_by else "" if self.exact else ", exact=False"
        return f"Group({self.name!r}, {self.units} units, {len(self.slices)} slices{state})"


@dataclass(frozen=True, eq=False)
class Structure:
    """The groups of coupled units of a network.

    `groups` holds the removable ones first, then what is frozen; `shapes` the shape of every parameter and buffer;
    `barriers` why something is frozen, most parameters first.
    """

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    barriers: tuple[Barrier, ...]
    record: Record = field(repr=False)

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups whose units can be removed."""
        return tuple(group for group in self.groups if group.frozen_by is None)

    def group(self, name: str) -> Group:
        """The group called `name`; raises `UnknownName` if there is none."""
        _require_text(name)
        for group in self.groups:
            if group.name == name:
                return group
        raise self._unknown(name)

    def group_of(self, param: str, axis: int = 0) -> tuple[Group, ...]:
        """The groups whose units own positions along one axis of a parameter or buffer; empty if all of it stays.

        Raises `UnknownName` for a name that is neither, and `SparsewoodError` for an axis that it does not have.
        """
        if param not in self.shapes:
            raise UnknownName.among("parameter", str(param), self.shapes)
        axes = len(self.shapes[param])
        if not isinstance(axis, int) or not -axes <= axis < axes:
            raise SparsewoodError(f"{param!r} has {axes} axes, the first is 0. Got axis {axis!r}.")
        place = (param, axis % axes)
        return tuple(
            group
            for group in self.prunable
            if any((one.param, one.axis) == place and (one.owner >= 0).any() for one in group.slices)
        )

    def _unknown(self, name: str) -> UnknownName:
        """The error for a name that is no group's: whose the units are that it means, or names that are like it."""
        owned = [param for param in self.shapes if param == name or param.rpartition(".")[0] == name]
        owners = next((found for param in owned if self.shapes[param] and (found := self.group_of(param))), ())
        if owners:
            of = f"group{'s' if len(owners) > 1 else ''} {', '.join(repr(group.name) for group in owners)}"
            return UnknownName(f"Unknown group {name!r}: the units of {name} belong to {of}.")
        known = [group.name for group in self.prunable]
        if owned:
            return UnknownName(f"Unknown group {name!r}: none of its units can be removed. explain({name!r}) says why.")
        if not known or name.startswith("frozen"):
            known += [group.name for group in self.groups if group.frozen_by is not None]
        return UnknownName.among("group", name, known)

    def __repr__(self) -> str:
        units = sum(group.units for group in self.prunable)
        told = sum(bool(one.parameters) or one.why.startswith(NO_RULE) for one in self.barriers)
        return f"Structure({units} removable units in {len(self.prunable)} groups, {told} barriers)"

    def __str__(self) -> str:
        return self.summary()

    def summary(self, *, width: int = 120, groups: int = 40, reasons: int = 12) -> str:
        """A table of what can go, what stays, and why, with at most so many lines for `groups` and `reasons`."""
        from sparsewood.structure.show import summary

        return summary(self, width=width, groups=groups, reasons=reasons)

    def explain(self, name: str | Group) -> str:
        """Why the units of a group hang together, or stay; of a parameter or module, which groups own it."""
        from sparsewood.structure.explain import explain

        _require_text(name.name if isinstance(name, Group) else name)
        return explain(self, name)

    # ------------------------------------------------------------ elements and units

    def to_units(
        self, element_scores: Mapping[str, Tensor], *, reduction: Reduction = "sum", part: Part = "group"
    ) -> dict[str, Tensor]:
        """Unit scores from scores of elements: for every group that has some, float64[units]; see `units.to_units`."""
        from sparsewood.structure.units import to_units

        return to_units(self, element_scores, reduction=reduction, part=part)

    def to_masks(self, keep: Mapping[str, Any]) -> Masks:
        """Masks of parameters from one truth value for each unit of each group in `keep`; see `units.to_masks`."""
        from sparsewood.structure.units import to_masks

        return to_masks(self, keep)

    def parameters(self, group: str | Group) -> Tensor:
        """How many entries of parameters go with each unit of a group alone: int64[units]."""
        return torch.tensor(self.unit_parameters[self._removable(group)])

    def macs(self, group: str | Group) -> Tensor:
        """How many multiply-adds of the traced forward go with each unit of a group alone: int64[units]."""
        return torch.tensor(self.unit_macs[self._removable(group)])

    def _removable(self, group: str | Group) -> str:
        found = self.group(group.name if isinstance(group, Group) else group)
        if found.frozen_by is not None:
            raise SparsewoodError(f"The units of group {found.name!r} cannot be removed: {found.frozen_by}.")
        return found.name

    @cached_property
    def unit_parameters(self) -> dict[str, np.ndarray]:
        """`parameters` of all removable groups, counted once."""
        from sparsewood.structure.counts import parameters_of_units

        return parameters_of_units(self)

    @cached_property
    def unit_macs(self) -> dict[str, np.ndarray]:
        """`macs` of all removable groups, counted once."""
        from sparsewood.structure.counts import macs_of_units

        return macs_of_units(self)

    # ------------------------------------------------------------ for other programs

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, as `json.dumps` takes them; see `graphs.to_json`."""
        from sparsewood.structure.graphs import to_json

        return to_json(self)

    def to_dot(self) -> str:
        """A graph in the language of Graphviz."""
        from sparsewood.structure.graphs import to_dot

        return to_dot(self)

    def to_svg(self, *, title: str = "") -> str:
        """A picture: a row for every module, a column for every group."""
        from sparsewood.structure.picture import to_svg

        return to_svg(self, title=title)


def _require_text(name: object) -> None:
    if not isinstance(name, str):
        raise SparsewoodError(f"A group or parameter is asked for by its name, a text such as 'conv1'. Got {name!r}.")
