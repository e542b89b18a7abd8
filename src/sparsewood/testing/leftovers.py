"""What a trace may not change or leave behind: values, modes, and what modules keep in attributes, as contents."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.shrinking.running import OPAQUE, attributes_of
from sparsewood.structure.tracked import Tracked
from sparsewood.testing.checks.shared import expect, fingerprint

__all__ = ["refuse_leftovers", "state_of"]


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything that tracing may not change, as comparable values by name."""
    values = fingerprint(model)
    values["grad mode"] = torch.is_grad_enabled()
    for name, _, contents in _attributes(model):
        values[name] = contents.read()
    return values


def refuse_leftovers(model: nn.Module) -> None:
    """Raise `AssertionError` if a module holds a tensor without values or an integer of the tracer."""
    stand_ins = not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    for name, _, contents in _attributes(model):
        contents.read()
        expect(not contents.tracked, f"Tracing left an integer of its own in {name}")
        expect(not (stand_ins and contents.meta), f"Tracing left a tensor without values in {name}")


def _attributes(model: nn.Module) -> Iterator[tuple[str, str, _Contents]]:
    modules = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            yield (f"{name}.{key}" if name else key), key, _Contents(value, modules)


class _Contents:
    """The contents of a value as nested tuples that can be compared, and what of a tracer was in it."""

    def __init__(self, value: object, modules: set[int]) -> None:
        self.value, self.modules = value, modules
        self.meta = self.tracked = False
        self.inside: set[int] = set()

    def read(self) -> object:
        self.inside.clear()
        return self._of(self.value)

    def _of(self, value: Any) -> object:
        kind = type(value)
        self.tracked |= kind is Tracked
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return kind, repr(value)
        if id(value) in self.inside or id(value) in self.modules or isinstance(value, OPAQUE):
            return kind, id(value)
        if isinstance(value, Tensor):
            return kind, self._tensor(value)
        self.inside.add(id(value))
        return kind, self._items(value)

    def _tensor(self, value: Tensor) -> object:
        self.meta |= value.is_meta
        about = (value.dtype, value.device, tuple(value.shape), value.requires_grad)
        if value.is_meta or value.layout is not torch.strided or value.is_quantized:
            return (*about, id(value))
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        return (*about, plain.view(torch.uint8).numpy().tobytes())

    def _items(self, value: Any) -> object:
        if isinstance(value, Mapping):
            items: object = [(self._of(key), self._of(item)) for key, item in value.items()]
        elif isinstance(value, list | tuple | deque):
            items = [self._of(item) for item in value]
        elif isinstance(value, set | frozenset):
            items = sorted(repr(self._of(item)) for item in value)
        else:
            items = id(value)
        return items, [(name, self._of(item)) for name, item in attributes_of(value).items()]
