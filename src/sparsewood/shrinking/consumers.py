"""Where units are read linearly: which module, along which axis of its weight, and which bias takes what they add."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence

from sparsewood.parameters import entries, is_raw
from sparsewood.structure import Structure

__all__ = ["Chosen", "Consumer", "Unreadable", "find_consumers", "is_linear", "positions"]

Chosen = Mapping[str, np.ndarray]
"""For groups by name, one truth value for each unit."""

Parts = list[tuple[int, Tensor]]
"""What a weight adds: pieces [positions, outputs], and which output is the first of each."""

_Make = partial["Consumer"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_STOCK = frozenset(layer.forward for layer in _LAYERS)


@dataclass(frozen=True, eq=False)
class Consumer:
    """A weight that reads units linearly, in one module.

    `weight` is its name in the structure, `axis` the one along which it reads. Each call of `module` adds, to what
    `bias` of `holder` is added to, from entry `offset` on, what `read(arguments, keywords, weight)` returns; that bias
    has as many `entries`. `name` is the holder's. `tied` if another layer has the same weight; `doubtful` if it is not
    known that the module is linear in its weight.
    """

    name: str
    weight: str
    leaf: str
    axis: int
    module: nn.Module = field(repr=False)
    holder: nn.Module = field(repr=False)
    read: Callable[[tuple[Any, ...], dict[str, Any], Tensor], Parts] = field(repr=False)
    bias: str = "bias"
    outputs: int = 0
    offset: int = 0
    entries: int = 0
    tied: bool = False
    doubtful: bool = False

    def __str__(self) -> str:
        return f"{self.name}.{self.leaf}" if self.name else self.leaf

    @property
    def bias_name(self) -> str:
        return f"{self.name}.{self.bias}" if self.name else self.bias

    @property
    def value(self) -> Tensor:
        return getattr(self.holder, self.leaf).detach()

    @property
    def by_channel(self) -> bool:
        """Whether position j of the axis reads channel j of the module's input, and nothing else."""
        one_block = isinstance(self.holder, nn.Linear) or getattr(self.holder, "groups", 0) == 1
        return self.module is self.holder and not self.doubtful and self.axis == 1 and one_block

    @property
    def pads(self) -> bool:
        """Whether zeros are put around what enters."""
        layer = self.holder
        if not isinstance(layer, _ConvNd) or layer.padding_mode != "zeros":
            return False
        return layer.padding == "same" or any(layer.padding) or isinstance(layer, _ConvTransposeNd)

    def channels(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
        """What enters, in float64: [channels, positions]; for modules that read by channel."""
        x: Tensor = arguments[0] if arguments else keywords["input"]
        return x.detach().movedim(_channel_axis(self.holder, x), 0).flatten(1).double()

    def staying(self, structure: Structure, removed: Chosen) -> np.ndarray:
        """Which outputs are not removed themselves: bool[outputs]."""
        gone = positions(structure, self.weight, 0 if self.axis else 1, removed)
        return ~np.tile(gone, self.outputs // len(gone))  # the groups of a transposed convolution share an axis


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A weight that reads units along an axis where no bias can take what they add, and why."""

    name: str
    weight: str
    axis: int
    why: str


def positions(structure: Structure, param: str, axis: int, chosen: Chosen) -> np.ndarray:
    """Which positions of an axis belong to chosen units."""
    found = np.zeros(structure.shapes[param][axis], bool)
    for name, units in chosen.items():
        for one in structure.group(name).slices:
            if (one.param, one.axis) == (param, axis):
                found |= np.append(units, False)[one.owner]
    return found


def find_consumers(model: nn.Module, structure: Structure, chosen: Chosen) -> tuple[list[Consumer], list[Unreadable]]:
    """What reads the chosen units, and where no bias can take what they add."""
    known = {entry.name: entry for entry in entries(model)}
    names = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    users = _users(model)
    found: dict[tuple[int, str], Consumer] = {}
    unreadable: list[Unreadable] = []
    for param, axis, both in _read_at(structure, chosen):
        entry = known.get(param)
        if entry is None or is_raw(entry):
            why = "a layer computes its weight from it" if entry else "it is a buffer"
            unreadable.append(Unreadable(param, param, axis, why))
            continue
        here = 0
        for holder in entry.owners:
            leaf = next(leaf for leaf, value in holder._parameters.items() if value is entry.parameter)
            make = partial(Consumer, names[id(holder)], param, leaf, axis, holder=holder, tied=len(entry.owners) > 1)
            one = (
                _layer(model, make, holder, leaf, axis) or _recurrent(make, holder, leaf) or _other(make, holder, leaf)
            )
            if one is None:
                continue
            here += 1
            why = _refused(one, {names[user] for user in users.get(id(getattr(holder, one.bias)), ())})
            if why:
                unreadable.append(Unreadable(str(one), param, axis, why))
            else:
                found[(id(one.holder), one.leaf)] = one
        if here < (1 if both else len(entry.owners)):
            kinds = ", ".join(type(holder).__name__ for holder in entry.owners)
            unreadable.append(Unreadable(param, param, axis, f"it is not known how {kinds} reads it"))
    return list(found.values()), unreadable


def _refused(consumer: Consumer, users: set[str]) -> str:
    if len(users) > 1:
        return f"its bias is also that of {', '.join(sorted(users - {consumer.name}))}"
    if isinstance(consumer.holder, nn.RNNBase | nn.RNNCellBase) and not consumer.holder.bias:
        return f"a {type(consumer.holder).__name__} made with bias=False cannot be given one"
    return ""


def _users(model: nn.Module) -> dict[int, set[int]]:
    users: dict[int, set[int]] = {}
    for module in model.modules():
        for value in module._parameters.values():
            if value is not None:
                users.setdefault(id(value), set()).add(id(module))
    return users


def _read_at(structure: Structure, chosen: Chosen) -> Iterator[tuple[str, int, bool]]:
    """The axes along which chosen units are read, and whether they are made there, too."""
    seen: set[tuple[str, int]] = set()
    for name, units in chosen.items():
        for one in structure.group(name).slices:
            place = (one.param, one.axis)
            if one.role != "out" and place not in seen and np.append(units, False)[one.owner].any():
                seen.add(place)
                yield one.param, one.axis, one.role == "both"


# ---------------------------------------------------------------- ways to read


def _layer(model: nn.Module, make: _Make, holder: nn.Module, leaf: str, axis: int) -> Consumer | None:
    """A linear layer or convolution, or the output projection of an attention that does not call it."""
    reads = 0 if isinstance(holder, _ConvTransposeNd) else 1
    if not isinstance(holder, nn.Linear | _ConvNd) or leaf != "weight" or axis != reads:
        return None
    outputs = holder.weight.shape[1 - reads] * (getattr(holder, "groups", 1) if reads == 0 else 1)
    module = _attention_of(model, holder) or holder
    doubtful = module is holder and type(holder).forward not in _STOCK
    read = partial(_swapped_call, module, holder)
    return make(module=module, read=read, outputs=outputs, entries=outputs, doubtful=doubtful)


def _recurrent(make: _Make, holder: nn.Module, leaf: str) -> Consumer | None:
    """The weights of the first layer of a recurrent module that multiply its input."""
    names = ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
    if not isinstance(holder, nn.RNNBase | nn.RNNCellBase) or leaf not in names:
        return None
    bias, outputs = leaf.replace("weight", "bias"), getattr(holder, leaf).shape[0]
    return make(module=holder, read=_first_times, bias=bias, outputs=outputs, entries=outputs)


def _other(make: _Make, holder: nn.Module, leaf: str) -> Consumer | None:
    """The projections of an attention; or a module that has a matrix and a bias, and may be linear."""
    value: Tensor = getattr(holder, leaf)
    axis = make.args[3]
    if isinstance(holder, nn.MultiheadAttention):
        return _projection(make, holder, leaf, value) if axis == 1 else None
    matrix = leaf == "weight" and value.dim() == 2 and "bias" in holder._parameters
    if not matrix or isinstance(holder, nn.Linear):
        return None
    read, outputs = partial(_swapped_call, holder, holder), value.shape[1 - axis]
    return make(module=holder, read=read, outputs=outputs, entries=outputs, doubtful=True)


def _attention_of(model: nn.Module, holder: nn.Module) -> nn.MultiheadAttention | None:
    """The attention that reads this output projection without calling it."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and module.out_proj is holder:
            return module
    return None


def _projection(make: _Make, attention: nn.MultiheadAttention, leaf: str, value: Tensor) -> Consumer | None:
    third = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}.get(leaf)
    if leaf == "in_proj_weight":
        read, offset = _three_times, 0
    elif third is not None:
        read, offset = partial(_argument_times, third), third * attention.embed_dim
    else:
        return None
    entries = 3 * attention.embed_dim
    outputs = value.shape[0]
    return make(module=attention, read=read, bias="in_proj_bias", outputs=outputs, offset=offset, entries=entries)


def _swapped_call(
    module: nn.Module, holder: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], weight: Tensor
) -> Parts:
    """What the module returns with another weight and the bias 0."""
    bias = holder._parameters["bias"]
    return _called(module, holder, arguments, keywords, weight, None if bias is None else torch.zeros_like(bias))


def _called(
    module: nn.Module,
    holder: nn.Module,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    weight: Tensor,
    bias: Tensor | None,
) -> Parts:
    with _swapped(holder, weight, bias):
        result = module.forward(*arguments, **keywords)  # no hooks: one of them is who asks
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return [(0, output.movedim(_channel_axis(holder, output), -1).flatten(0, -2))]


def _channel_axis(layer: nn.Module, x: Tensor) -> int:
    return x.dim() - len(layer.kernel_size) - 1 if isinstance(layer, _ConvNd) else x.dim() - 1


@contextmanager
def _swapped(holder: nn.Module, weight: Tensor, bias: Tensor | None) -> Iterator[None]:
    before = dict(holder._parameters)
    try:
        holder._parameters["weight"] = weight  # pyright: ignore[reportArgumentType]
        holder._parameters["bias"] = bias  # pyright: ignore[reportArgumentType]
        yield
    finally:
        holder._parameters.update(before)


def is_linear(consumer: Consumer, arguments: tuple[Any, ...], keywords: dict[str, Any], mask: Tensor) -> bool:
    """Whether what a module returns is the sum of what two parts of its weight and its bias add to it."""
    weight = consumer.value
    ones = weight.new_ones(consumer.outputs)
    parts = [weight * mask, weight * ~mask]
    ((_, one),), ((_, other),) = (consumer.read(arguments, keywords, part) for part in parts)
    ((_, whole),) = _called(consumer.module, consumer.holder, arguments, keywords, weight, ones)
    if whole.shape != one.shape or whole.shape[-1] != consumer.outputs:
        return False
    # A square root of the precision: a term that is forgotten is far larger, and rounding far smaller.
    return torch.allclose(
        one + other + 1, whole, rtol=0.0, atol=float(whole.abs().max()) * torch.finfo(whole.dtype).eps ** 0.5
    )


def _rows(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.reshape(-1, x.shape[-1]), weight)


def _first_times(arguments: tuple[Any, ...], keywords: dict[str, Any], weight: Tensor) -> Parts:
    x = arguments[0] if arguments else keywords["input"]
    return [(0, _rows(x.data if isinstance(x, PackedSequence) else x, weight))]


def _argument_times(third: int, arguments: tuple[Any, ...], keywords: dict[str, Any], weight: Tensor) -> Parts:
    x = arguments[third] if third < len(arguments) else keywords[("query", "key", "value")[third]]
    return [(0, _rows(x, weight))]


def _three_times(arguments: tuple[Any, ...], keywords: dict[str, Any], weight: Tensor) -> Parts:
    size = len(weight) // 3
    parts = zip(range(3), weight.split(size), strict=True)
    return [(third * size, _argument_times(third, arguments, keywords, part)[0][1]) for third, part in parts]
