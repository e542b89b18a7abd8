"""The layers of a network that could have a sparse kernel: what enters them, and why some are left alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.exporting.kernels import conv_padding
from sparsewood.inputs import Inputs, call, map_tensors
from sparsewood.shrinking.copies import duplicate
from sparsewood.snapshot import untouched

__all__ = ["Layer", "layers_of", "replace_modules"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layer:
    """A module with a matrix of weights; `shapes` of the inputs of its calls in one forward, with how many there were.

    `why_not` says why it has to stay dense, "" if it need not.
    """

    name: str
    module: nn.Module
    weight: Tensor
    shapes: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    why_not: str = ""


def layers_of(model: nn.Module, inputs: Inputs) -> Iterator[Layer]:
    """Every module of `model` that has a weight of two or more axes, each once, by one forward of a copy."""
    shapes = _shapes(model, inputs)
    owners = _owners(model)
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() < 2:
            continue
        others = [other for other in owners[_place(weight)] if other != name]
        yield Layer(name, module, weight.detach(), shapes[name], _why_not(module, shapes[name], others))


def replace_modules(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """`model` with modules replaced, under all of their names; it is changed, and given back unless it is replaced."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in made:
                parent._modules[name] = made[child].eval()
    return made[model].eval() if model in made else model


def _why_not(module: nn.Module, shapes: Mapping[tuple[int, ...], int], others: list[str]) -> str:
    """The first reason that holds."""
    kind = type(module).__name__
    convolution = module if type(module) is nn.Conv2d else None
    reasons = {
        f"there is no sparse kernel for {kind}": type(module) not in (nn.Linear, nn.Conv2d),
        f"its weight is shared with {', '.join(repr(other) for other in others[:3])}": bool(others),
        "it has hooks": any(getattr(module, hooks) for hooks in _HOOKS),
        "its forward was replaced": "forward" in vars(module),
        "it is not run as a module on the example inputs": not shapes,
    }
    if convolution is not None:
        reasons[f"it is a convolution of {convolution.groups} groups"] = convolution.groups != 1
        reasons[f"its padding is {convolution.padding_mode}, {convolution.padding}"] = conv_padding(convolution) is None
    return next((reason for reason, holds in reasons.items() if holds), "")


def _shapes(model: nn.Module, inputs: Inputs) -> Mapping[str, Counter[tuple[int, ...]]]:
    """What enters each module; no hooks, since some modules take other ways when they have any.

    What counts takes the place of the module, as a sparse one would: calls that go past it, as by a list of modules
    that PyTorch does not know of, are not counted.
    """
    watched = duplicate(model, double=False)
    seen: dict[str, Counter[tuple[int, ...]]] = {}
    twins: dict[nn.Module, nn.Module] = {}
    for name, module in watched.named_modules():
        seen[name] = Counter()
        if type(module) in (nn.Linear, nn.Conv2d) and "forward" not in vars(module):
            twins[module] = copy.copy(module)
            vars(twins[module])["forward"] = _counting(module, seen[name])
    watched = replace_modules(watched, twins)
    with torch.no_grad(), untouched(watched):
        call(watched, map_tensors(torch.clone, inputs))
    return seen


def _counting(module: nn.Module, seen: Counter[tuple[int, ...]]) -> Any:
    forward = module.forward

    def counted(input: Tensor) -> Tensor:
        seen[tuple(input.shape)] += 1
        return forward(input)

    return counted


def _owners(model: nn.Module) -> Mapping[tuple[int, int], list[str]]:
    """The modules that hold a parameter with the same memory."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.dim() > 1:
                found.setdefault(_place(parameter), []).append(name)
    return found


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())
