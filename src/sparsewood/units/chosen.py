"""Which layers' units are looked at, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.structure import Structure
from sparsewood.units.sites import Site, find_layers, find_sites

__all__ = ["chosen_sites"]


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
