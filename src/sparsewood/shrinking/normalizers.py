"""Normalisations that average over units: a masked network in which they leave out what is gone.

Setting units to 0 is not removing them where a mean or variance counts them (LayerNorm). To prove the rest of the
removal, each such module of the masked network is replaced by that of the small network: it gets the positions that
stay, and its results go back to where they belong, among zeros. What is left inside is a few vectors that were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Structure
from sparsewood.structure.log import Event

__all__ = ["Places", "normalizers", "replaced_normalizers"]

Places = Mapping[int, np.ndarray]
"""For axes of a tensor, which positions stay."""


def normalizers(model: nn.Module, structure: Structure, keep: Keep, groups: Iterable[str]) -> dict[str, Places] | None:
    """The modules that make groups inexact, with what stays of what they take and return.

    `None` if something else makes one of the groups inexact: an operation that is not in a module of its own, with no
    more than vectors for parameters, from one tensor to one of the same shape.
    """
    record, sizes = structure.record, Sizes(structure, keep)
    numbers = {number for number, group in enumerate(structure.groups) if group.name in set(groups)}
    found: dict[str, Places] = {}
    for row, _, step in record.inexact:
        components = record.component[row[row > 0]]
        if not numbers & set(record.group_of[components].tolist()) or not sizes.gone[components].any():
            continue
        name = record.steps[step].module if step >= 0 else ""
        if name not in found:
            places = _places(model, structure, sizes, name)
            if places is None:
                return None
            found[name] = places
    return found


def _places(model: nn.Module, structure: Structure, sizes: Sizes, name: str) -> Places | None:
    if not name or any(parameter.dim() > 1 for parameter in model.get_submodule(name).parameters()):
        return None
    events = [event for event in structure.record.events if event.module == name]
    if {(event.at, event.index) for event in events} != {("input", 0), ("output", 0)}:
        return None
    seen = [_stays(event, structure, sizes) for event in events]
    first = seen[0]
    same = all(
        one.keys() == first.keys() and all(np.array_equal(one[axis], first[axis]) for axis in first) for one in seen
    )
    return first if same and first else None


def _stays(event: Event, structure: Structure, sizes: Sizes) -> Places:
    rows = {axis: row for axis, row in enumerate(event.rows) if row is not None}
    gone = {axis: (row > 0) & sizes.gone[structure.record.component[row]] for axis, row in rows.items()}
    return {axis: ~flags for axis, flags in gone.items() if flags.any()}


@contextmanager
def replaced_normalizers(large: nn.Module, small: nn.Module, places: Mapping[str, Places]) -> Iterator[None]:
    """Inside, these modules of `large` compute what those of `small` do, on the positions that stay."""
    modules = {name: large.get_submodule(name) for name in places}
    try:
        for name, module in modules.items():
            module.forward = _through(small.get_submodule(name), places[name])
        yield
    finally:
        for module in modules.values():
            vars(module).pop("forward", None)


def _through(module: nn.Module, places: Places) -> Callable[..., Any]:
    kept = {axis: torch.from_numpy(np.flatnonzero(flags)) for axis, flags in places.items()}

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        inside = x
        for axis, positions in kept.items():
            inside = inside.index_select(axis, positions.to(x.device))
        result: Tensor = module(inside, *args, **kwargs)
        for axis, positions in kept.items():
            shape = [*result.shape[:axis], x.shape[axis], *result.shape[axis + 1 :]]
            result = result.new_zeros(shape).index_copy(axis, positions.to(x.device), result)
        return result

    return forward
