"""What a network returns as a flat list of named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import MappingKey, SequenceKey, tree_flatten_with_path, tree_leaves

from sparsewood.errors import SparsewoodError

__all__ = ["flatten_outputs", "named_tensors", "plain_containers"]


def named_tensors(output: Any) -> list[tuple[str, Tensor]]:
    """The tensors of an output with names, in order: "output" for one, keys of a dict, fields, places in a sequence.

    None is passed over. Raises `SparsewoodError` for what is neither a tensor nor a container of tensors.

    >>> import torch
    >>> x = torch.zeros(1)
    >>> [name for name, _ in named_tensors({"logits": x, "states": (x, None, x)})]
    ['logits', 'states_0', 'states_2']
    >>> [name for name, _ in named_tensors(x)], [name for name, _ in named_tensors([x])]
    (['output'], ['output_0'])
    """
    found = list(_walk(output, ""))
    if not found:
        raise SparsewoodError("The network returns no tensor, so there is nothing to compute in an exported one.")
    names = [name or "output" for name, _ in found]
    plain = [f"output_{name}" if name[0].isdigit() else name for name in names]
    return [(name, tensor) for name, (_, tensor) in zip(_distinct(plain), found, strict=True)]


def flatten_outputs(model: nn.Module) -> None:
    """Make `model`, which is the caller's to change, return a tuple of the tensors that it returns now."""
    model.register_forward_hook(lambda _module, _inputs, output: tuple(t for _, t in named_tensors(output)))


def plain_containers(model: nn.Module) -> None:
    """Make `model`, which is the caller's to change, return tuples for named tuples, and dicts for dataclasses that
    PyTorch does not know as containers: what it cannot write to a file."""
    model.register_forward_hook(lambda _module, _inputs, output: _plain(output))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if type(value) is list:
        return list(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type) and _unknown(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if value is None:
        return
    for key, item in _items(value, name):
        yield from _walk(item, f"{name}_{key}" if name else str(key))


def _items(value: Any, name: str) -> Sequence[tuple[Any, Any]]:
    if isinstance(value, Mapping):  # a ModelOutput of transformers is both a dict and a dataclass
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if _unknown(value):
        where = f" under {name!r}" if name else ""
        raise SparsewoodError(
            f"The network returns a {type(value).__name__}{where}; what is exported returns tensors, and tuples, "
            "lists, dicts and dataclasses of them. Let its forward return these (in transformers: use_cache=False)."
        )
    leaves, _ = tree_flatten_with_path(value)  # what was registered with PyTorch as a container
    return [("_".join(map(_key, path)), leaf) for path, leaf in leaves]


def _unknown(value: Any) -> bool:
    """Whether it is no container for PyTorch."""
    leaves = tree_leaves(value)
    return len(leaves) == 1 and leaves[0] is value


def _key(entry: Any) -> str:
    if isinstance(entry, MappingKey):
        return str(entry.key)
    return str(entry.idx) if isinstance(entry, SequenceKey) else str(entry).strip(".[]'")


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with numbers where one is there before."""
    fresh: dict[str, None] = {}
    for name in names:
        tries = (name, *(f"{name}_{number}" for number in range(2, len(names) + 2)))
        fresh[next(one for one in tries if one not in fresh)] = None
    return list(fresh)
