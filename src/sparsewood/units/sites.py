"""Where the units of a network are seen: the tensors of its forward, and which of their positions are which unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparsewood.errors import SparsewoodError
from sparsewood.structure import Structure, Tap
from sparsewood.structure.log import Event, Span

__all__ = ["Layer", "Site", "find_layers", "find_sites", "sites_of_groups"]

Integers = np.ndarray


@dataclass(frozen=True, eq=False)
class Site:
    """A tensor of the forward in which units are seen.

    It is the `index`-th tensor that enters (`at="input"`) or leaves (`at="output"`) the `call`-th call of `module`;
    units lie along `axis`. Statistics have one column for each unit: column c is unit `units[c]` of the group number
    `groups[c]` of the structure, or, where both are -1, a unit that cannot be removed. `owner[j]` is the column of
    position j, -1 if position j is no unit.
    """

    name: str
    module: str
    call: int
    at: str
    index: int
    axis: int
    owner: Integers = field(repr=False)
    groups: Integers = field(repr=False)
    units: Integers = field(repr=False)

    @property
    def columns(self) -> int:
        """How many units are seen."""
        return len(self.units)

    def of_group(self, group: int) -> Integers:
        """The columns of the units of one group."""
        return np.flatnonzero(self.groups == group)


@dataclass(frozen=True, eq=False)
class Layer:
    """The units that one weight makes, in the order of its outputs, and where they are seen.

    Unit j is column `columns[k][j]` of site `sites[k]`, -1 if it is not seen there; `groups[j]` and `units[j]` say
    where it belongs in the structure (-1 if it cannot be removed). A weight that is used several times in one forward
    is seen at several sites. `name` is that of the module, or of the weight if the module has several such weights.
    """

    name: str
    producer: str
    sites: tuple[str, ...]
    columns: tuple[Integers, ...] = field(repr=False)
    groups: Integers = field(repr=False)
    units: Integers = field(repr=False)

    def __len__(self) -> int:
        return len(self.units)


# ---------------------------------------------------------------- sites


def find_sites(structure: Structure) -> tuple[Site, ...]:
    """Every tensor in which units of the structure are seen, in the order in which the groups list them.

    Derived from the graph, not from names: from the operation that makes a unit on to its activation, behind
    normalisations and shortcuts (see `structure.taps`). Two weights whose units meet in one sum are seen at one site.

    Raises `SparsewoodError` if no unit of the structure is seen anywhere.

    >>> import torch, sparsewood as sw
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> [(site.name, site.at, site.columns) for site in find_sites(sw.trace(net, torch.ones(1, 2)))]
    [('1', 'output', 3)]
    """
    rows = _Rows(structure)
    places = {_place(tap): None for group in structure.groups for tap in group.taps}
    sites = [_site(rows, place) for place in places]
    if not sites:
        raise SparsewoodError(
            "No unit of this network is seen anywhere: none can be removed, or no module's input or output holds one. "
            "print(sparsewood.trace(model, inputs)) says why units stay."
        )
    return tuple(sites)


Place = tuple[str, int, str, int, int]


def _place(tap: Tap) -> Place:
    return (tap.module, tap.call, tap.at, tap.index, tap.axis)


class _Rows:
    """The labels of axes: of tensors that enter and leave modules, and of parameters."""

    def __init__(self, structure: Structure) -> None:
        record = structure.record
        self.component, self.group_of, self.unit_of = record.component, record.group_of, record.unit_of
        self.events: dict[tuple[str, int, str, int], Event] = {
            (event.module, event.call, event.at, event.index): event for event in record.events
        }
        self.spans: dict[tuple[str, int], Span] = {(span.param, span.axis): span for span in record.spans}

    def of_place(self, place: Place) -> Integers:
        row = self.events[place[:4]].rows[place[4]]
        assert row is not None, f"{place} holds no units"
        return np.where(row > 0, self.component[row], 0)

    def of_parameter(self, name: str, axis: int) -> Integers:
        span = self.spans[name, axis]
        return self.component[span.start : span.start + span.size]


def _site(rows: _Rows, place: Place) -> Site:
    module, call, at, index, axis = place
    components = rows.of_place(place)
    # What has lost its label (a channel that meets padding) is a unit of its own all the same, which stays.
    keys = np.where(components > 0, components, -1 - np.arange(len(components)))
    _, first, owner = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    owner = np.argsort(order)[owner]
    components = components[first[order]]
    removable = (components > 0) & (rows.group_of[components] >= 0)
    groups = np.where(removable, rows.group_of[components], -1)
    units = np.where(removable, rows.unit_of[components], -1)
    name = module + ("" if at == "output" else ".input") + ("" if index == 0 else f".{index}")
    name += "" if call == 0 else f"#{call + 1}"
    return Site(name, module, call, at, index, axis, owner, groups, units)


# ---------------------------------------------------------------- layers


def find_layers(structure: Structure, sites: Sequence[Site]) -> dict[str, Layer]:
    """The layers whose units are seen at `sites`, by name, in the order of the network's parameters.

    >>> import torch, sparsewood as sw
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> structure = sw.trace(net, torch.ones(1, 1, 8, 8))
    >>> {name: len(layer) for name, layer in find_layers(structure, find_sites(structure)).items()}
    {'0': 4}
    """
    rows, by_place = _Rows(structure), {(s.module, s.call, s.at, s.index, s.axis): s for s in sites}
    seen: dict[str, dict[str, Site]] = {}
    for group in structure.groups:
        for tap in group.taps:
            site = by_place.get(_place(tap))
            if site is not None:
                seen.setdefault(tap.producer, {})[site.name] = site
    names = _names(seen)
    ordered = [name for name in structure.shapes if name in seen]
    return {names[one]: _layer(names[one], one, rows, list(seen[one].values())) for one in ordered}


def _names(producers: Iterable[str]) -> dict[str, str]:
    modules: dict[str, list[str]] = {}
    for one in producers:
        modules.setdefault(_module(one), []).append(one)
    return {one: module if len(ones) == 1 and module else one for module, ones in modules.items() for one in ones}


def _module(parameter: str) -> str:
    return parameter.partition(".parametrizations.")[0].rpartition(".")[0]


def _layer(name: str, producer: str, rows: _Rows, sites: Sequence[Site]) -> Layer:
    made = _made_along(rows, producer, sites)
    first = np.sort(np.unique(made, return_index=True)[1])
    components, whole = made[first], len(first) == len(made)
    groups = np.where(components > 0, rows.group_of[components], -1)
    pairs = list(zip(groups.tolist(), rows.unit_of[components].tolist(), strict=True))
    columns = []
    for site in sites:
        known = {pair: number for number, pair in enumerate(_pairs(site)) if pair[0] >= 0}
        found = np.array([known.get(pair, -1) for pair in pairs], np.int64)
        columns.append(_aligned(site, found) if whole else found)
    return Layer(name, producer, tuple(s.name for s in sites), tuple(columns), groups, rows.unit_of[components])


def _pairs(site: Site) -> list[tuple[int, int]]:
    return list(zip(site.groups.tolist(), site.units.tolist(), strict=True))


def _made_along(rows: _Rows, producer: str, sites: Sequence[Site]) -> Integers:
    """The components of the axis of `producer` along which it makes what is seen: the one that has most of them."""
    wanted = {pair for site in sites for pair in _pairs(site) if pair[0] >= 0}
    axes = sorted(axis for name, axis in rows.spans if name == producer)
    found = {axis: rows.of_parameter(producer, axis) for axis in axes}

    def seen(axis: int) -> int:
        pairs = zip(rows.group_of[found[axis]].tolist(), rows.unit_of[found[axis]].tolist(), strict=True)
        return sum(pair in wanted for pair in pairs)

    return found[max(axes, key=lambda axis: (seen(axis), -axis))]


def _aligned(site: Site, columns: Integers) -> Integers:
    """Columns of units without a label too, where position j of the site is output j as far as labels tell."""
    positions = np.arange(len(columns))
    one_each = len(site.owner) == len(columns) == site.columns and bool((site.owner == positions).all())
    agree = (columns == positions) | (columns < 0)
    return positions if one_each and bool(agree.all()) and bool((columns >= 0).any()) else columns


# ---------------------------------------------------------------- groups


def sites_of_groups(structure: Structure, sites: Sequence[Site]) -> Mapping[str, tuple[Site, ...]]:
    """For every removable group that is seen, the sites that show units of it."""
    found = {}
    for number, group in enumerate(structure.groups):
        if group.frozen_by is None:
            here = tuple(site for site in sites if (site.groups == number).any())
            if here:
                found[group.name] = here
    return found
