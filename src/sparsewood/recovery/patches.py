"""Rows of a linear layer or convolution: what it multiplies with its weights at positions that are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["at", "batched", "draw", "patches", "unsolvable", "users_of"]


_FORWARDS = {kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}


def users_of(model: nn.Module) -> dict[int, int]:
    """How many modules own each parameter, by its id."""
    users: dict[int, int] = {}
    for module in model.modules():
        for value in module._parameters.values():
            users[id(value)] = users.get(id(value), 0) + 1
    return users


def unsolvable(layer: nn.Module, users: Mapping[int, int]) -> str:
    """Why no other weights can be computed for this layer from its inputs, or an empty string."""
    if not isinstance(layer, nn.Linear | _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return f"layers of type {type(layer).__name__} are not refitted"
    if type(layer).forward not in _FORWARDS:
        return "its forward is its own"
    parameters = [layer._parameters.get("weight"), layer._parameters.get("bias")]
    if parameters[0] is None:
        return "its weight is computed from other parameters"
    if any(value is not None and users[id(value)] > 1 for value in parameters):
        return "it shares its parameters with another layer"
    return ""


def batched(layer: nn.Linear | _ConvNd, x: Tensor) -> Tensor:
    """[examples, channels, *positions]."""
    if isinstance(layer, _ConvNd):
        return x.unsqueeze(0) if x.dim() == len(layer.kernel_size) + 1 else x
    return x.unsqueeze(0) if x.dim() == 1 else x.movedim(-1, 1)


def draw(y: Tensor, samples: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of drawn rows: of the example, then of the position along each axis; int64[rows] each."""
    examples, positions = len(y), math.prod(y.shape[2:])
    if positions > samples:
        chosen = torch.rand(examples, positions, generator=generator, dtype=torch.float64).topk(samples).indices
    else:
        chosen = torch.arange(positions).expand(examples, -1)
    number = torch.arange(examples).unsqueeze(1).expand_as(chosen).flatten()
    along = torch.unravel_index(chosen.flatten(), y.shape[2:]) if y.dim() > 2 else ()
    return [place.to(y.device) for place in (number, *along)]


def at(y: Tensor, places: Sequence[Tensor]) -> Tensor:
    return y.movedim(1, -1)[tuple(places)]


def patches(layer: nn.Linear | _ConvNd, x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """What the layer multiplies its weights with at these places: [rows, groups, features]."""
    if isinstance(layer, nn.Linear):
        return at(x, places).unsqueeze(1)
    padding = layer._reversed_padding_repeated_twice
    if any(padding):
        x = F.pad(x, padding, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    number, *along = places
    axes = len(along)
    index = [number.reshape(-1, *[1] * axes)]
    for axis, place in enumerate(along):
        window = torch.arange(layer.kernel_size[axis], device=x.device) * layer.dilation[axis]
        shape = [len(place), *[1] * axes]
        shape[axis + 1] = len(window)
        index.append((place.unsqueeze(1) * layer.stride[axis] + window).reshape(shape))
    found = x.movedim(1, -1)[tuple(index)].movedim(-1, 1)  # [rows, channels, *kernel]
    return found.reshape(len(number), layer.groups, -1)
