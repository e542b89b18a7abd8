"""Modules of classes that can hold what is left, in the place of those that insist on sizes which fit one another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.shrinking.attention import MultiheadAttention
from sparsewood.shrinking.plan import Edit

__all__ = ["CLASSES", "needed", "refusal", "replace", "settings"]

Kept = Mapping[str, Mapping[int, Tensor]]
"""For tensors of a module, by their names in it, the positions that stay along an axis."""

CLASSES: dict[str, type[nn.Module]] = {"MultiheadAttention": MultiheadAttention}
"""The classes that modules may become, by the names that plans use."""


def needed(module: nn.Module, kept: Kept) -> str | None:
    """The key in `CLASSES` of the class that a module has to become to hold what is left of it, if there is one.

    >>> module, kept = nn.MultiheadAttention(8, 2), {"in_proj_weight": {1: torch.arange(4)}}
    >>> needed(module, kept), needed(module, {}), needed(nn.Linear(8, 2), {"weight": {0: torch.arange(1)}})
    ('MultiheadAttention', None, None)
    """
    return "MultiheadAttention" if kept and type(module) in (nn.MultiheadAttention, MultiheadAttention) else None


def refusal(module: nn.Module, kept: Kept, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Why a module could not run with what is left of it, and no other class could, either; `None` if it can.

    `shapes` are those of its tensors before.
    """
    if kept and isinstance(module, nn.MultiheadAttention) and needed(module, kept) is None:
        return f"{type(module).__name__}, a class of its own, inherits from nn.MultiheadAttention, whose sizes must fit"
    if isinstance(module, nn.LSTM) and module.proj_size > 0 and "weight_hr_l0" in shapes:
        projected, hidden = (
            _left(kept, "weight_hr_l0", axis, size) for axis, size in enumerate(shapes["weight_hr_l0"])
        )
        if projected == hidden:
            return "nn.LSTM takes a projection that is as wide as its hidden state for none"
    return None


def _left(kept: Kept, name: str, axis: int, size: int) -> int:
    axes = kept.get(name, {})
    return len(axes[axis]) if axis in axes else size


def replace(module: nn.Module, key: str, kept: Kept, shapes: Mapping[str, Sequence[int]]) -> None:
    """Make a module, of which the tensors have been cut, one of the class `CLASSES[key]`, in place.

    Its integers have to be those of before. Raises `UnknownName` for a key that is none, and `SparsewoodError` if the
    module is of a class that cannot become this one, or if what is left is no attention: heads that differ in size,
    queries without their keys.

    >>> module = nn.MultiheadAttention(8, 2)
    >>> stay = torch.tensor([4, 5, 6, 7])
    >>> kept = {
    ...     "in_proj_weight": {0: torch.cat([stay, stay + 8, stay + 16])}, "out_proj.weight": {1: stay},
    ...     "in_proj_bias": {0: torch.cat([stay, stay + 8, stay + 16])},
    ... }
    >>> shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    >>> for name, axes in kept.items():
    ...     for axis, index in axes.items():
    ...         tensor = module.get_parameter(name)
    ...         tensor.data = tensor.data.index_select(axis, index)
    >>> replace(module, "MultiheadAttention", kept, shapes)
    >>> type(module).__module__, module.num_heads, module.head_dim, module(*torch.ones(3, 5, 2, 8))[0].shape
    ('sparsewood.shrinking.attention', 1, 4, torch.Size([5, 2, 8]))
    """
    if key not in CLASSES:
        raise UnknownName.among("class of a replaced module", key, CLASSES)
    if type(module) is not nn.MultiheadAttention and type(module) is not MultiheadAttention:
        raise SparsewoodError(
            f"Only a module of class nn.MultiheadAttention can become {key}. Got {type(module).__name__}: the plan is "
            "for another architecture."
        )
    _attention(module, kept, shapes)


def settings(model: nn.Module, replaced: Iterable[str]) -> list[Edit]:
    """What other modules have to know of the replaced ones, which are given by name.

    `nn.TransformerEncoder` hands nested tensors to its layers if there is padding; only layers of PyTorch's own take
    them. Without, it gives the same results, except at places that are padding.
    """
    names = tuple(replaced)
    return [
        Edit(name, "use_nested_tensor", (), before=True, after=False)
        for name, module in model.named_modules()
        if isinstance(module, nn.TransformerEncoder)
        and vars(module).get("use_nested_tensor") is True
        and any(one.startswith(f"{name}.layers." if name else "layers.") for one in names)
    ]


# ---------------------------------------------------------------- attention


def _attention(module: nn.MultiheadAttention, kept: Kept, shapes: Mapping[str, Sequence[int]]) -> None:
    """Which heads stay, and how wide, by the rows that make queries, keys and values."""
    before = module.head_dim
    values = module.value_dim if isinstance(module, MultiheadAttention) else before
    scale = module.scale if isinstance(module, MultiheadAttention) else 1 / math.sqrt(before)
    widths = {"queries": before, "keys": before, "values": values}
    sizes = {name: module.num_heads * width for name, width in widths.items()}
    rows = dict(zip(sizes, _rows(kept, shapes, list(sizes.values())), strict=True))
    if not torch.equal(rows["queries"], rows["keys"]):
        raise _unfit("Queries and keys", "lose different rows")
    _require_alike(kept, rows, sizes, shapes)
    heads: dict[str, Tensor] = {}
    left: dict[str, int] = {}
    for name, width in widths.items():
        heads[name], counts = torch.unique(rows[name] // width, return_counts=True)
        if not len(counts) or (counts != counts[0]).any():
            raise _unfit(f"The {name} of heads {heads[name].tolist()}", f"have {counts.tolist()} rows left")
        left[name] = int(counts[0])
    if not torch.equal(heads["queries"], heads["values"]):
        raise _unfit(f"Queries of heads {heads['queries'].tolist()}", f"meet values of {heads['values'].tolist()}")
    module.__class__ = MultiheadAttention
    assert isinstance(module, MultiheadAttention)
    module.scale = scale
    module.sized(num_heads=len(heads["queries"]), head_dim=left["queries"], value_dim=left["values"])


def _rows(kept: Kept, shapes: Mapping[str, Sequence[int]], sizes: Sequence[int]) -> Iterator[Tensor]:
    """The rows that stay of those that make queries, keys, and values; each counted from 0."""
    if "in_proj_weight" in shapes:
        yield from _parts(kept, "in_proj_weight", sizes)
    else:
        for name, size in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), sizes, strict=True):
            yield from _parts(kept, name, [size])


def _parts(kept: Kept, name: str, sizes: Sequence[int], axis: int = 0) -> Iterator[Tensor]:
    """What stays of an axis, in parts of these sizes; each counted from 0."""
    index = kept.get(name, {}).get(axis, torch.arange(sum(sizes))).cpu()
    start = 0
    for size in sizes:
        yield index[(index >= start) & (index < start + size)] - start
        start += size


def _require_alike(
    kept: Kept, rows: Mapping[str, Tensor], sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Biases lose what their weights lose, and the output projection what the values lose."""
    places = {
        ("in_proj_bias", 0): ("queries", "keys", "values"),
        ("bias_k", 2): ("keys",),
        ("bias_v", 2): ("values",),
        ("out_proj.weight", 1): ("values",),
    }
    for (name, axis), made in places.items():
        found = _parts(kept, name, [sizes[one] for one in made], axis)
        if name in shapes and not all(torch.equal(part, rows[one]) for part, one in zip(found, made, strict=True)):
            raise _unfit(f"Axis {axis} of {name}", "does not lose what the weights of queries, keys and values lose")


def _unfit(what: str, how: str) -> SparsewoodError:
    return SparsewoodError(
        f"{what} {how}: that is no attention of equal heads any more. Remove whole heads, or the same places of the "
        "queries and keys of every head."
    )
