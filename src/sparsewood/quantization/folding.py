"""BatchNorm into the weights of the layer before it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.inputs import Inputs, call, to_model_device
from sparsewood.parameters import entries
from sparsewood.snapshot import untouched

__all__ = ["Folded", "fold_batchnorm"]

NOT_RUN = "it does not run on the example inputs"

_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Folded:
    """A network with the BatchNorm layers that could be folded.

    Attributes:
        model: the copy, in eval mode; folded layers are `nn.Identity` in it.
        folded: by the name of a BatchNorm layer that of the layer which took it in.
        kept: by the name of a BatchNorm layer why it stays.
        difference: the largest difference of the outputs over the largest output, on the example inputs.
    """

    model: nn.Module
    folded: Mapping[str, str]
    kept: Mapping[str, str]
    difference: float


def fold_batchnorm(model: nn.Module, example_inputs: Inputs, *, tolerance: float = _TOLERANCE) -> Folded:
    """A copy of `model` in which convolutions and linear layers do the work of the BatchNorm layers behind them.

        a = gamma / sqrt(var + eps)     w' = a w   for each output     b' = a (b - mean) + beta

    A BatchNorm layer is folded if the network in eval mode runs it once, on what a convolution or a linear layer (of
    two axes: with more the axes differ) returned, and nothing else reads that. Both have PyTorch's forward, not that of
    a subclass, which may do more. The others stay, and are listed.
    The copy's outputs on the example inputs are compared with the model's, which is not changed.

    Raises `SparsewoodError` if the outputs differ by more than `tolerance` of the largest.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))
    >>> found = fold_batchnorm(net, torch.ones(1, 1, 5, 5))
    >>> found.folded, found.kept
    ({'1': '0'}, {'3': 'it does not follow a convolution or a linear layer'})
    """
    require_model(model)
    copied = copy.deepcopy(model).eval()
    norms = {name: module for name, module in copied.named_modules() if isinstance(module, _BatchNorm)}
    inputs = to_model_device(example_inputs, copied)
    watched = _Watched(copied)
    with untouched(copied), torch.no_grad():
        before = watched.run(inputs) if norms else call(copied, inputs)
    folded: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, norm in norms.items():
        layer, reason = _layer_before(norm, watched)
        if layer is None:
            kept[name] = reason
            continue
        _fold(watched.layers[layer], norm)
        _replace(copied, norm)
        folded[name] = layer
    difference = 0.0
    if folded:
        with untouched(copied), torch.no_grad():
            difference = _difference(before, call(copied, inputs))
    if not difference <= tolerance:
        raise SparsewoodError(
            f"fold_batchnorm: the outputs of {type(model).__name__} with BatchNorm folded differ by {difference:.2g} "
            f"of the largest one, more than {tolerance:g}. Run it in float64, or check for outputs that are not finite."
        )
    return Folded(copied, folded, kept, difference)


class _Watched:
    """One forward: what layers and BatchNorm layers took and returned, and how often each tensor was read."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)}
        # A weight that others use, or that is computed, is not the layer's to scale.
        shared = {owner for entry in entries(model) if len(entry.owners) > 1 for owner in entry.owners}
        self.tied = {name for name, m in self.layers.items() if m in shared or m._parameters.get("weight") is None}
        self.returned: dict[int, list[str]] = {}
        self.calls: dict[str, int] = {}
        self.taken: dict[nn.Module, list[Tensor]] = {}
        self.reads: dict[int, int] = {}
        self._held: list[Any] = []

    def run(self, inputs: Inputs) -> Any:
        reader = _Reads(self.reads, self._held)
        with ExitStack() as stack:
            for name, module in self.layers.items():
                stack.callback(module.register_forward_hook(self._note_layer(name)).remove)
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    stack.callback(module.register_forward_pre_hook(self._note_norm).remove)
            with reader:
                output = call(self.model, inputs)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.reads[id(leaf)] = self.reads.get(id(leaf), 0) + 1
        return output

    def _note_layer(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.returned.setdefault(id(output), []).append(name)
            self._held.append(output)

        return hook

    def _note_norm(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.taken.setdefault(module, []).append(inputs[0] if inputs else torch.empty(0))


class _Reads(TorchDispatchMode):
    """Counts how often each tensor is an operand; holds them all, so that identities are not used again."""

    def __init__(self, reads: dict[int, int], held: list[Any]) -> None:
        super().__init__()
        self.reads, self.held = reads, held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.reads[id(leaf)] = self.reads.get(id(leaf), 0) + 1
                self.held.append(leaf)
        self.held.append(result)
        return result


def _layer_before(norm: _BatchNorm, watched: _Watched) -> tuple[str | None, str]:
    """The layer that can take in `norm`, or None and why there is none."""
    taken = watched.taken.get(norm, [])
    if len(taken) != 1:
        return None, NOT_RUN if not taken else f"it runs {len(taken)} times"
    if norm.running_mean is None or norm.running_var is None:
        return None, "it has no running statistics, and takes those of each batch"
    if not _is_plain(norm):
        return None, f"{type(norm).__name__} has a forward of its own"
    names = watched.returned.get(id(taken[0]), [])
    if not names:
        return None, "it does not follow a convolution or a linear layer"
    reason = _unfit(names[0], taken[0], watched)
    return (None, reason) if reason else (names[0], "")


def _unfit(name: str, returned: Tensor, watched: _Watched) -> str | None:
    """Why a layer cannot take in what follows it."""
    if not _is_plain(watched.layers[name]):
        return f"{name!r} before it, {type(watched.layers[name]).__name__}, has a forward of its own"
    if watched.calls[name] > 1:
        return f"{name!r} before it runs more than once"
    if name in watched.tied:
        return f"the weight of {name!r} before it is shared or computed"
    if watched.reads.get(id(returned), 0) != 1:
        return f"what {name!r} before it returns is read elsewhere, too"
    if isinstance(watched.layers[name], nn.Linear) and returned.ndim != 2:
        return f"{name!r} before it is a linear layer on {returned.ndim} axes, of which the outputs are the last"
    return None


def _is_plain(module: nn.Module) -> bool:
    """Whether its forward is PyTorch's, and not one that does something else, too."""
    return "forward" not in vars(module) and type(module).forward.__module__.startswith("torch.nn.modules.")


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    if isinstance(bias, Tensor):
        shift = shift + bias.detach().double() * factor
    with torch.no_grad():
        weight.copy_(weight.double() * _for_outputs(layer, factor, weight))
        if isinstance(bias, Tensor):
            bias.copy_(shift)
        else:
            layer.bias = nn.Parameter(shift.to(weight), requires_grad=weight.requires_grad)


def _for_outputs(layer: nn.Module, factor: Tensor, weight: Tensor) -> Tensor:
    """One factor for each output, in a shape that broadcasts to the weight's."""
    ones = [1] * (weight.ndim - 2)
    if not isinstance(layer, _ConvTransposeNd):
        return factor.reshape(-1, 1, *ones)
    # [inputs, outputs of a group]: the inputs of a group have that group's outputs.
    each = factor.reshape(layer.groups, 1, -1).expand(layer.groups, weight.shape[0] // layer.groups, -1)
    return each.reshape(weight.shape[0], -1, *ones)


def _replace(model: nn.Module, norm: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is norm:
                module._modules[name] = nn.Identity()


def _difference(before: Any, after: Any) -> float:
    """The largest difference of floating-point outputs over the largest output."""
    pairs = zip(tree_leaves(before), tree_leaves(after), strict=True)
    tensors = [
        (a.double(), b.double()) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point() and a.numel()
    ]
    if not tensors:
        return 0.0
    off = max(float((a - b).abs().nan_to_num(nan=torch.inf).max()) for a, b in tensors)
    return off / max(*(float(a.abs().max()) for a, _ in tensors), 1e-12) if off else 0.0
