"""Which layers' units are looked at, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from torch import nn

from sparsewood.batches import prepared, require_batches, split_batch
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.snapshot import same_random_state
from sparsewood.structure import Structure
from sparsewood.units.sites import Site, find_layers, find_sites
from sparsewood.units.tracing import structure_of

__all__ = ["chosen_sites", "sites_for"]


def chosen_sites(structure: Structure, layers: str | Sequence[str] | None) -> tuple[Site, ...]:
    """The sites at which the units of the named layers are seen; all sites without names.

    A name is that of a layer (see `find_layers`), of a module around layers, or a shell pattern. Raises `UnknownName`
    for one that means no layer.
    """
    sites = find_sites(structure)
    if layers is None:
        return sites
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted or not all(isinstance(one, str) for one in wanted):
        raise SparsewoodError(f"'layers' must be names or patterns of layers, as 'conv1'. Got {layers!r}.")
    known = find_layers(structure, sites)
    chosen: set[str] = set()
    for one in wanted:
        found = [name for name in known if fnmatch.fnmatchcase(name, one) or name.startswith(f"{one}.")]
        if not found:
            raise UnknownName.among("layer whose units are seen", one, known)
        chosen.update(site for name in found for site in known[name].sites)
    return tuple(site for site in sites if site.name in chosen)


def sites_for(
    model: nn.Module, data: Iterable[Any], layers: str | Sequence[str] | None, structure: Structure | None
) -> tuple[Iterable[Any], Structure | None, tuple[Site, ...] | None]:
    """The data, the structure and the sites of the named layers; as they are given, if no layer is named."""
    if layers is None:
        return data, structure, None
    if structure is None:
        require_batches(data)
        with same_random_state(model):
            batches = iter(data)
            first = next(batches, None)
        if first is None:
            raise SparsewoodError("The data is empty: no batch was read. A generator that was used up is empty too.")
        structure = structure_of(model, split_batch(prepared(first, model))[0])
        data = chain([first], batches)  # not read twice, nor all held
    return data, structure, chosen_sites(structure, layers)
