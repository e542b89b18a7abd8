"""torch-pruning, used as its documentation does, for the benchmarks that put it beside `sparsewood.shrink`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsewood.structure import Structure

__all__ = ["Peer", "fixed_layers", "halve"]

_QUERIES = ("q", "query", "q_proj", "to_q")
_KEYS = ("k", "v", "key", "value", "k_proj", "v_proj", "to_k", "to_v")
_FUSED = ("qkv", "query_key_value", "c_attn")


@dataclass
class Peer:
    """A network that torch-pruning made smaller, in place.

    `masked` is a copy of what it was, with everything at 0 that was cut; `None` if this was not asked for, or if
    something was cut that is no convolution, linear layer, normalisation, embedding or parameter of its own.
    """

    model: nn.Module
    masked: nn.Module | None = None


@dataclass
class _Heads:
    """The attentions of a network that torch-pruning has to be told of: their projections and numbers of heads."""

    projections: dict[nn.Module, int] = field(default_factory=dict)
    owners: list[tuple[nn.Module, str, nn.Linear, int]] = field(default_factory=list)


def halve(
    model: nn.Module, inputs: Any, *, ignored: Sequence[nn.Module], everywhere: bool = False, mask: bool = False
) -> Peer:
    """Half of the channels of every layer go, or half of all with `everywhere`; of attention, half of the heads.

    Modules named `qkv`, or `q`, `k`, `v` and the like, in a module that has a number of heads, are given to
    torch-pruning as attention, and the attributes of these modules are set behind it, as its examples do.
    """
    import torch_pruning

    masking = _Masking(model) if mask else None
    heads = _heads(model)
    options: dict[str, Any] = {}
    if heads.projections:
        options = {
            "num_heads": heads.projections,
            "prune_num_heads": True,
            "prune_head_dims": False,
            "head_pruning_ratio": 0.5,
        }
    pruner: Any = torch_pruning.pruner.BasePruner(
        model,
        inputs,
        torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        global_pruning=everywhere,
        ignored_layers=list(ignored),
        **options,
    )
    for group in pruner.step(interactive=True):
        if masking is not None:
            masking.silence(pruner, group)
        group.prune()
    _set_attributes(model, heads, pruner)
    return Peer(model, masking.copy if masking is not None and masking.clear else None)


def fixed_layers(model: nn.Module, structure: Structure) -> list[nn.Module]:
    """The layers that make what has to stay as wide as it is, as what the network returns: our trace tells."""
    frozen = [group for group in structure.groups if group.frozen_by is not None]
    # Axes behind the first two are places in kernels, which nothing removes.
    made = {one.param for group in frozen for one in group.slices if one.role != "in" and one.axis < 2}
    weights = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in made}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)]
    return [layer for layer in layers if id(layer.weight) in weights]


class _Masking:
    """A copy of a network in which what torch-pruning cuts is set to 0; `clear` is false once that is not possible."""

    def __init__(self, model: nn.Module) -> None:
        self.copy = copy.deepcopy(model)
        self.clear = True
        owners = [*model.named_modules(), *model.named_parameters()]
        self._names: dict[int, str] = {id(one): name for name, one in owners}
        self._left: dict[tuple[str, int], Tensor] = {}

    def silence(self, pruner: Any, group: Any) -> None:
        """Set to 0 what a group of torch-pruning's is about to remove."""
        cut = dict[tuple[str, int], Tensor]()
        for dependency, indices in group:
            target = dependency.target.module
            name = self._names.get(id(target))
            if isinstance(target, nn.Parameter):
                dims = [dim for one, dim in pruner.DG.unwrapped_parameters if one is target]
                places = [(self.copy.get_parameter(name), dims[0], name)] if name and dims else []
            elif name is None or not any(True for _ in target.parameters()):
                continue  # an operation without parameters
            else:
                makes = pruner.DG.is_out_channel_pruning_fn(dependency.handler)
                module = self.copy.get_submodule(name)
                places = [(one, axis, f"{name}.{leaf}") for one, axis, leaf in _places(module, makes=makes)]
            self.clear = self.clear and bool(places)
            for tensor, axis, key in places:
                left = self._left.setdefault((key, axis), torch.arange(tensor.shape[axis]))
                gone = left[torch.as_tensor(indices, dtype=torch.int64)]
                cut[key, axis] = torch.cat([cut.get((key, axis), gone), gone])
                with torch.no_grad():
                    tensor.index_fill_(axis, gone, 0.0)
        for place, gone in cut.items():
            left = self._left[place]
            self._left[place] = left[~torch.isin(left, gone)]


def _places(module: nn.Module, *, makes: bool) -> Iterator[tuple[Tensor, int, str]]:
    if isinstance(module, _ConvNd) and module.groups > 1 and module.groups == module.in_channels:
        axis = 0
    elif isinstance(module, _ConvNd) and module.groups > 1:
        return
    elif isinstance(module, nn.Linear | _ConvNd):
        axis = int(makes == isinstance(module, _ConvTransposeNd))
    elif isinstance(module, _BatchNorm | nn.LayerNorm):
        axis = 0
    elif isinstance(module, nn.Embedding):
        axis = 1
    else:
        return
    for leaf, tensor in module.named_parameters(recurse=False):
        if tensor.dim() > 1:
            yield tensor, axis, leaf
        elif makes or isinstance(module, _BatchNorm | nn.LayerNorm):
            yield tensor, 0, leaf


def _heads(model: nn.Module) -> _Heads:
    found = _Heads()
    for module in model.modules():
        attribute = next((name for name in ("num_heads", "num_attention_heads", "heads") if name in vars(module)), "")
        if (
            isinstance(module, nn.MultiheadAttention)
            or not attribute
            or not isinstance(getattr(module, attribute), int)
        ):
            continue
        count = getattr(module, attribute)
        shared = getattr(module, "kv_heads", getattr(module, "num_key_value_heads", count))
        children = dict(module.named_children())
        for name, heads in [*((one, count) for one in (*_QUERIES, *_FUSED)), *((one, shared) for one in _KEYS)]:
            child = children.get(name)
            if isinstance(child, nn.Linear) and child.out_features % heads == 0:
                found.projections[child] = heads
                if name in _QUERIES + _FUSED:
                    found.owners.append((module, attribute, child, 3 if name in _FUSED else 1))
    return found


def _set_attributes(model: nn.Module, heads: _Heads, pruner: Any) -> None:
    """What its examples tell to do by hand after pruning."""
    for module, attribute, child, parts in heads.owners:
        count = pruner.num_heads[child]
        width = child.out_features // parts
        each = width // count
        values = {
            attribute: count,
            "kv_heads": count,
            "size": each,
            "head_dim": each,
            "attention_head_size": each,
            "all_head_size": width,
            "attn_dim": width,
        }
        for name, value in values.items():
            if isinstance(vars(module).get(name), int):
                setattr(module, name, value)
    stem = getattr(model, "conv_proj", None)
    if isinstance(stem, nn.Conv2d) and isinstance(getattr(model, "hidden_dim", None), int):
        vars(model)["hidden_dim"] = stem.out_channels
