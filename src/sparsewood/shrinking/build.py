"""From the units that stay to a plan, and to the small network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.cut import apply_edits, by_module, cut, named_tensors, own_edits
from sparsewood.shrinking.plan import Edit, Keep, ShrinkPlan
from sparsewood.shrinking.replacements import needed, refusal, settings
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Structure

__all__ = ["Built", "build", "kept_positions", "merged", "refused"]


@dataclass(frozen=True, eq=False)
class Built:
    """The small network, and its plan."""

    model: nn.Module
    plan: ShrinkPlan


def build(reference: nn.Module, structure: Structure, keep: Keep, added: Iterable[str] = ()) -> Built:
    """A copy of `reference` without the units that are not kept, and the plan that makes it.

    `added` are biases of `reference` that the network, of which `structure` is the trace, does not have.
    """
    draft = _draft(reference, structure, keep, tuple(added))
    small = duplicate(reference, double=False)
    cut(small, draft)
    own = own_edits(small, draft, reference)
    apply_edits(small, own)
    return Built(small, replace(draft, edits=merged([*draft.edits, *own])))


def refused(model: nn.Module, structure: Structure, keep: Keep) -> dict[str, str]:
    """Groups that lose units which modules of fixed sizes hold, where no other class could hold the rest, and why."""
    kept, shapes = by_module(kept_positions(structure, keep)), by_module(structure.shapes)
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        why = refusal(module, kept[name], shapes[name]) if name in kept else None
        if why:
            prefix = f"{name}." if name else ""
            for group, stays in keep.items():
                if not stays.all() and any(one.param.startswith(prefix) for one in structure.group(group).slices):
                    found.setdefault(group, why)
    return found


def kept_positions(structure: Structure, keep: Keep) -> dict[str, dict[int, Tensor]]:
    """For every parameter and buffer that loses positions, those that stay along each axis."""
    stays: dict[str, dict[int, np.ndarray]] = {}
    for name, units in keep.items():
        if units.all():
            continue
        for one in structure.group(name).slices:
            axes = stays.setdefault(one.param, {})
            mine = (one.owner < 0) | units[one.owner]
            axes[one.axis] = axes[one.axis] & mine if one.axis in axes else mine
    return {
        name: {axis: torch.from_numpy(np.flatnonzero(flags)) for axis, flags in sorted(axes.items())}
        for name, axes in stays.items()
    }


def _draft(reference: nn.Module, structure: Structure, keep: Keep, added: tuple[str, ...]) -> ShrinkPlan:
    tensors = named_tensors(reference)
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    positions = kept_positions(structure, keep)
    kept: dict[str, Mapping[int, Tensor]] = {
        alias: axes for name, axes in positions.items() for alias in names[id(tensors[name])]
    }
    for name in added:
        axes = _of_bias(reference, name, kept)
        if axes:
            kept[name] = axes
    edits = [
        Edit(one.module, one.name, one.path, one.value, value) for one, value in Sizes(structure, keep).changed.items()
    ]
    inside = by_module(kept)
    found = {name: needed(module, inside[name]) for name, module in reference.named_modules()}
    replaced = {name: key for name, key in found.items() if key is not None}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in added}
    kind = type(reference)
    order = [name for name in tensors if name in kept]
    return ShrinkPlan(
        model=f"{kind.__module__}.{kind.__qualname__}",
        shapes=shapes,
        kept={name: kept[name] for name in order},
        edits=merged([*edits, *settings(reference, replaced)]),
        replaced=replaced,
        added=added,
    )


def _of_bias(model: nn.Module, name: str, kept: Mapping[str, Mapping[int, Tensor]]) -> Mapping[int, Tensor]:
    """What stays of a bias: what stays of the axis of its module's weight along which it is added."""
    owner = name.rpartition(".")[0]
    axis = 1 if isinstance(model.get_submodule(owner), _ConvTransposeNd) else 0
    for axes in by_module(kept)[owner].values():
        if axis in axes:
            return {0: axes[axis]}
    return {}


def merged(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit for each place: the first one's value before, the last one's value after."""
    found: dict[tuple[object, ...], Edit] = {}
    for edit in edits:
        place = (edit.module, edit.name, edit.path)
        found[place] = replace(found[place], after=edit.after) if place in found else edit
    return tuple(one for one in found.values() if one.before != one.after)
