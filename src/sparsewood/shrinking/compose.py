"""Plans one after another as one plan, and the way back from a small network to a large one with zeros."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.cut import cut, named_tensors
from sparsewood.shrinking.plan import Edit, Scaling, ShrinkPlan

__all__ = ["compose", "expand", "require_left", "require_shapes", "shapes_after", "shapes_of"]

Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[str, str, tuple[int | str, ...]]


def shapes_after(plan: ShrinkPlan) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters and buffers that a plan leaves, of the biases that it makes, too.

    A bias of which `kept` says nothing is as long as the weight beside it has rows.

    >>> plan = ShrinkPlan("Linear", {"weight": (4, 2)}, {"weight": {0: torch.tensor([0, 3])}}, added=("bias",))
    >>> shapes_after(plan)
    {'weight': (2, 2), 'bias': (2,)}
    """
    shapes = {name: _left(shape, plan.kept.get(name, {})) for name, shape in plan.shapes.items()}
    for name in plan.added:
        kept = plan.kept.get(name, {}).get(0)
        weight = shapes.get(_weight_of(name), ())
        shapes[name] = weight[:1] if kept is None else (len(kept),)
    return shapes


def compose(first: ShrinkPlan, second: ShrinkPlan) -> ShrinkPlan:
    """One plan that does what the two do one after the other: `kept = first[second]` along every axis.

    Raises `SparsewoodError` if `second` was not made for the network that `first` leaves.

    >>> first = ShrinkPlan("Linear", {"weight": (4, 2)}, {"weight": {0: torch.tensor([0, 2, 3])}})
    >>> second = ShrinkPlan("Linear", {"weight": (3, 2)}, {"weight": {0: torch.tensor([1, 2])}})
    >>> compose(first, second).kept["weight"][0]
    tensor([2, 3])
    """
    different = _differences(_settled(first, second.shapes), second.shapes, ("leaves", "expects"))
    if different:
        raise SparsewoodError(
            f"The second plan was not made for the network that the first leaves: {'; '.join(different)}. Compose "
            "plans in the order in which they were made; if layers were changed in between, start from that network."
        )
    names = dict.fromkeys([*first.kept, *second.kept])
    return ShrinkPlan(
        model=first.model,
        shapes=dict(first.shapes),
        kept={name: _kept(first.kept.get(name, {}), second.kept.get(name, {})) for name in names},
        edits=_edits(first, second),
        replaced={**first.replaced, **second.replaced},
        added=(*first.added, *(name for name in second.added if name not in first.added)),
        source=first.source,
        steps=(*first.steps, *second.steps),
        scalings=_merged([*_after(first, second), *second.scalings]),
    )


def expand(small: nn.Module, plan: ShrinkPlan, fresh: nn.Module) -> nn.Module:
    """A copy of `fresh`, of full size, with the values of `small` where they came from and zeros where units went.

    This is the masked network: it computes what `small` does, but for groups that the report calls inexact. Its buffers
    keep, for the units that went, the values of `fresh`; biases that the plan made are in it. Settings, dtypes and
    devices are those of `fresh`, and `plan.scalings` are divided out: it divides by its own widths again.

    Raises `SparsewoodError` if `fresh` is not what the plan was made for, or `small` not what it leaves.
    """
    require_shapes(fresh, plan.shapes, "The plan was made for another network than this")
    require_left(small, plan)
    large = duplicate(fresh, double=False)
    cut(large, ShrinkPlan(plan.model, plan.shapes, {}, added=plan.added))
    values, done = _unscaled(small, plan.scalings), set[int]()
    with torch.no_grad():
        for name, tensor in named_tensors(large).items():
            if id(tensor) not in done:
                done.add(id(tensor))
                _fill(tensor, values[name], plan.kept.get(name, {}))
    return large


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters and buffers, tied ones under each of their names."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def require_shapes(model: nn.Module, expected: Shapes, what: str) -> None:
    """Raise `SparsewoodError`, with the first differences, if the model's tensors have other names or shapes."""
    different = _differences(expected, shapes_of(model), ("expected", "got"))
    if different:
        raise SparsewoodError(
            f"{what} {type(model).__name__}: {'; '.join(different)}. Build the network with the arguments that it was "
            "built with then."
        )


def require_left(small: nn.Module, plan: ShrinkPlan) -> None:
    """Raise `SparsewoodError` if the model is not what the plan leaves."""
    require_shapes(small, _settled(plan, shapes_of(small)), "The plan leaves another network than this")


def _settled(plan: ShrinkPlan, got: Shapes) -> Shapes:
    """The shapes that a plan leaves.

    Of a bias of which `kept` says nothing, beside a weight that is computed or has its outputs along another axis, only
    the network knows the length.
    """
    shapes = shapes_after(plan)
    for name in plan.added:
        weight, bias = shapes.get(_weight_of(name)), got.get(name, ())
        if name not in plan.kept and len(bias) == 1 and (weight is None or len(weight) > 2):
            shapes[name] = bias
    return shapes


def _differences(expected: Shapes, got: Shapes, words: tuple[str, str], most: int = 4) -> list[str]:
    found = [
        f"{name}: {words[0]} {_shape(expected.get(name))}, {words[1]} {_shape(got.get(name))}"
        for name in dict.fromkeys([*(name for name in got if name in expected), *expected, *got])
        if expected.get(name) != got.get(name)
    ]
    return found if len(found) <= most else [*found[:most], f"and {len(found) - most} more"]


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else str(list(shape))


def _left(shape: tuple[int, ...], axes: Mapping[int, Tensor]) -> tuple[int, ...]:
    return tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(shape))


def _weight_of(bias: str) -> str:
    """Of "fc.bias" "fc.weight", of "attention.in_proj_bias" "attention.in_proj_weight"."""
    owner, dot, leaf = bias.rpartition(".")
    return owner + dot + leaf.replace("bias", "weight")


def _kept(first: Mapping[int, Tensor], second: Mapping[int, Tensor]) -> dict[int, Tensor]:
    axes = dict(first)
    for axis, kept in second.items():
        axes[axis] = first[axis][kept] if axis in first else kept
    return dict(sorted(axes.items()))


def _fill(large: Tensor, small: Tensor, axes: Mapping[int, Tensor]) -> None:
    """Put the values where they came from; parameters are 0 elsewhere."""
    if isinstance(large, nn.Parameter):
        large.zero_()
    if not large.dim():
        large.copy_(small)
        return
    index = [axes.get(axis, torch.arange(size)).to(large.device) for axis, size in enumerate(large.shape)]
    grid = [one.reshape([-1 if axis == place else 1 for place in range(large.dim())]) for axis, one in enumerate(index)]
    large[tuple(grid)] = small.to(large)


# ---------------------------------------------------------------- scalings


def _unscaled(small: nn.Module, scalings: Sequence[Scaling]) -> dict[str, Tensor]:
    """The tensors of a network as they were before `scalings`, in float64 where they had any."""
    tensors = named_tensors(small)
    before: dict[int, Tensor] = {}
    for one in reversed(scalings):
        scaled = tensors[one.param]
        values = before.setdefault(id(scaled), scaled.detach().double())
        index = one.positions.to(values.device)
        entries = (values.index_select(one.axis, index) + one.offset) / one.factor - one.offset
        before[id(scaled)] = values.index_copy(one.axis, index, entries)
    return {name: before.get(id(tensor), tensor) for name, tensor in tensors.items()}


def _after(first: ShrinkPlan, second: ShrinkPlan) -> Iterator[Scaling]:
    """The scalings of the first plan, at the positions that they have after the second.

    A bias that the second made, for outputs that the first scaled, was made for scaled ones.
    """
    for one in first.scalings:
        kept = second.kept.get(one.param, {}).get(one.axis)
        positions = one.positions if kept is None else torch.isin(kept, one.positions).nonzero().flatten()
        if len(positions):
            yield dataclasses.replace(one, positions=positions)
            for bias in second.added:
                if bias not in first.added and _weight_of(bias) == one.param and one.axis == 0:
                    yield dataclasses.replace(one, param=bias, axis=0, positions=positions)


def _merged(scalings: Sequence[Scaling]) -> tuple[Scaling, ...]:
    """Those of the same entries as one; where a parameter is scaled from several offsets the order matters."""
    offsets: dict[str, set[float]] = {}
    for one in scalings:
        offsets.setdefault(one.param, set()).add(one.offset)
    merged: dict[object, Scaling] = {}
    for number, one in enumerate(scalings):
        alone = number if len(offsets[one.param]) > 1 else -1
        key = (alone, one.param, one.axis, tuple(one.positions.tolist()))
        factor = merged[key].factor if key in merged else 1.0
        merged[key] = dataclasses.replace(one, factor=factor * one.factor)
    return tuple(merged.values())


# ---------------------------------------------------------------- edits


def _edits(first: ShrinkPlan, second: ShrinkPlan) -> tuple[Edit, ...]:
    """Before the first, after the second.

    What the second changed in modules that the first replaced, and the first did not, is only there since then; these
    modules work it out from what is kept.
    """
    merged: dict[Place, Edit] = {_place(edit): edit for edit in _single(first.edits)}
    for edit in _single(second.edits):
        before = merged.get(_place(edit))
        if before is None:
            if edit.module not in first.replaced:
                merged[_place(edit)] = edit
        elif not _same(before.after, edit.before):
            where = ".".join(map(str, (edit.module, edit.name, *edit.path))).lstrip(".")
            raise SparsewoodError(
                f"The first plan makes {where} {before.after!r}, and the second expects {edit.before!r}. Compose plans "
                "in the order in which they were made."
            )
        else:
            merged[_place(edit)] = dataclasses.replace(edit, before=before.before)
    return tuple(edit for edit in merged.values() if not _same(edit.before, edit.after))


def _place(edit: Edit) -> Place:
    return edit.module, edit.name, edit.path


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _single(edits: tuple[Edit, ...]) -> Iterator[Edit]:
    """Edits of whole sequences as one for each item, since another plan may have changed one of them."""
    for edit in edits:
        if isinstance(edit.before, tuple) and isinstance(edit.after, tuple) and len(edit.before) == len(edit.after):
            pairs = enumerate(zip(edit.before, edit.after, strict=True))
            yield from _single(
                tuple(Edit(edit.module, edit.name, (*edit.path, i), before, after) for i, (before, after) in pairs)
            )
        else:
            yield edit
