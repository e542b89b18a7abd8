"""What a forward assigns while it is traced has no values: it is taken back."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["attributes_kept"]

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_DEPTH = 4
_HOOKS = frozenset(vars(nn.Module())) - {"_buffers", "_parameters", "_modules"}
"""What PyTorch keeps in every module, which a forward does not touch."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the attributes of all modules, the objects that they hold, and dicts and lists in them are as before.

    Tensors themselves are not copied; a network that keeps things where it cannot be seen (closures, globals,
    `functools.lru_cache`) keeps them.
    """
    undo: list[Callable[[], None]] = []
    seen: set[int] = set()
    for module in model.modules():
        _note(vars(module), undo, seen, _DEPTH)
    try:
        yield
    finally:
        for back in undo:
            back()


def _note(value: Any, undo: list[Callable[[], None]], seen: set[int], depth: int) -> None:
    """Remember the contents of a container or of an object's attributes, and of what is in them."""
    if id(value) in seen or not depth:
        return
    seen.add(id(value))
    before = value.copy()
    undo.append(lambda: _put_back(value, before))
    items = before.items() if isinstance(before, dict) else enumerate(before)
    for name, item in list(items):
        if name in _HOOKS:
            continue
        if type(item) in _CONTAINERS:
            _note(item, undo, seen, depth - 1)
        elif _is_plain_object(item):
            _note(vars(item), undo, seen, depth - 1)


def _is_plain_object(value: Any) -> bool:
    if isinstance(value, Tensor | nn.Module | type) or callable(value):
        return False
    return (
        type(value).__module__.partition(".")[0] not in ("torch", "builtins")
        and type(getattr(value, "__dict__", None)) is dict
    )


def _put_back(value: Any, before: Any) -> None:
    if isinstance(value, dict):
        same = value.keys() == before.keys() and all(value[key] is before[key] for key in before)
    else:
        same = len(value) == len(before) and all(a is b for a, b in zip(value, before, strict=True))
    if not same:
        value.clear()
        value.update(before) if isinstance(value, dict | set) else value.extend(before)
