"""Carries a plan out: tensors, integers and settings of modules, classes of modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.shrinking.plan import Edit, ShrinkPlan
from sparsewood.shrinking.replacements import replace as replace_module

__all__ = ["apply_edits", "assign", "attribute", "by_module", "cut", "named_tensors", "own_edits", "take"]


def cut(model: nn.Module, plan: ShrinkPlan) -> None:
    """Make `model` what `plan` says, in place: parameters and buffers keep their identity, and lose positions.

    What is tied stays tied; `requires_grad`, hooks, device, dtype and memory format stay. Gradients are cut alike.
    Biases in `plan.added` are made, as zeros.
    """
    _add_biases(model, plan.added)
    tensors = named_tensors(model)
    for name in plan.kept:
        if name not in tensors:
            raise UnknownName.among("parameter", name, tensors)
    with torch.no_grad():
        _cut_tensors({id(tensors[name]): (tensors[name], axes) for name, axes in plan.kept.items()}.values())
    kept, shapes = by_module(plan.kept), by_module(plan.shapes)
    for name, key in plan.replaced.items():
        replace_module(model.get_submodule(name), key, kept[name], shapes[name])
    apply_edits(model, plan.edits)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def _cut_tensors(pairs: Iterable[tuple[Tensor, Mapping[int, Tensor]]]) -> None:
    """Cut tensors in place; those that are the same view of the same memory stay so."""
    taken: dict[object, Tensor] = {}
    places = [
        (tensor, axes, (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()))
        for tensor, axes in pairs
    ]
    for tensor, axes, place in places:  # all before any memory is given back, and its address used again
        if place not in taken:
            taken[place] = take(tensor.detach(), axes)
    for tensor, axes, place in places:
        gradient, tensor.grad = tensor.grad, None
        tensor.data = taken[place]
        if gradient is not None:
            tensor.grad = take(gradient, axes)


def take(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """The positions `axes[axis]` of a tensor, in the memory format that it has.

    >>> take(torch.arange(6).reshape(2, 3), {1: torch.tensor([0, 2])})
    tensor([[0, 2],
            [3, 5]])
    """
    found = tensor
    for axis, kept in axes.items():
        found = found.index_select(axis, kept.to(tensor.device))
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == ndim and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=memory_format):
            return found.contiguous(memory_format=memory_format)
    return found.clone() if found is tensor else found


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _add_biases(model: nn.Module, names: Iterable[str]) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if module._parameters.get(leaf) is not None:
            continue
        like = next(module.parameters())
        bias = like.new_zeros(_outputs(module, leaf))
        module.register_parameter(leaf, nn.Parameter(bias, requires_grad=like.requires_grad))


def _outputs(module: Any, leaf: str) -> int:
    """How long a bias of a module is that has not been cut."""
    if isinstance(module, nn.MultiheadAttention) and leaf == "in_proj_bias":
        return 3 * module.embed_dim
    if isinstance(module, _ConvNd):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else module.get_parameter("weight").shape[0]


def by_module(values: Mapping[str, Any]) -> defaultdict[str, dict[str, Any]]:
    """What is said of tensors, for every module that holds them, at any depth, by their names there.

    >>> dict(by_module({"a.b.weight": 1, "a.bias": 2}))
    {'': {'a.b.weight': 1, 'a.bias': 2}, 'a': {'b.weight': 1, 'bias': 2}, 'a.b': {'weight': 1}}
    """
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        found[""][name] = value
        dot = name.find(".")
        while dot >= 0:
            found[name[:dot]][name[dot + 1 :]] = value
            dot = name.find(".", dot + 1)
    return found


# ---------------------------------------------------------------- integers and settings


def apply_edits(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Give every place of `edits` its value `after`."""
    for edit in edits:
        assign(model, edit, edit.after)


def attribute(model: nn.Module, edit: Edit) -> Any:
    """The value that a model has now in the place of an edit; raises `SparsewoodError` if there is no such place."""
    value: Any = _container(model, edit)
    try:
        for step in (edit.name, *edit.path):
            inside: Any = value if isinstance(value, dict | list | tuple) else vars(value)
            value = inside[step]
    except (KeyError, IndexError, TypeError) as error:
        raise _no_place(edit) from error
    return value


def assign(model: nn.Module, edit: Edit, value: Any) -> None:
    """Put `value` into the place of an edit, through lists, tuples and objects."""
    try:
        _assign(_container(model, edit), (edit.name, *edit.path), value)
    except (KeyError, IndexError, TypeError) as error:
        raise _no_place(edit) from error


def _container(model: nn.Module, edit: Edit) -> dict[str, Any]:
    try:
        return vars(model.get_submodule(edit.module))
    except AttributeError as error:
        raise _no_place(edit) from error


def _no_place(edit: Edit) -> SparsewoodError:
    where = ".".join(map(str, (edit.module, edit.name, *edit.path))).lstrip(".")
    return SparsewoodError(f"The model has no value {where}, which the plan changes: it is another architecture.")


def _assign(container: Any, path: tuple[int | str, ...], value: Any) -> None:
    key, *rest = path
    inner = container[key]
    if not rest:
        container[key] = value
    elif isinstance(inner, tuple):
        items: list[Any] = list(inner)
        _assign(items, tuple(rest), value)
        container[key] = type(inner)(*items) if hasattr(inner, "_fields") else type(inner)(items)
    else:
        _assign(inner if isinstance(inner, list | dict) else vars(inner), tuple(rest), value)


def own_edits(model: nn.Module, plan: ShrinkPlan, before: nn.Module) -> list[Edit]:
    """The sizes that PyTorch's own modules hold of their weights, where the weights of `model` say otherwise by now.

    `before` is the network that they were cut from.
    """
    edits = list[Edit]()
    kept, shapes = by_module(plan.kept), by_module(plan.shapes)
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, _SIZED):
            continue
        sizes = _quietly(module, _own_sizes)
        if isinstance(module, _ConvNd):
            groups = _groups(before.get_submodule(name), kept[name], shapes[name])
            sizes |= _quietly(module, partial(_channels, groups=groups))
        edits += [
            Edit(name, key, (), vars(module)[key], value)
            for key, value in sizes.items()
            if key in vars(module) and vars(module)[key] != value
        ]
    return edits


def _quietly(module: nn.Module, sizes: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> dict[str, Any]:
    """What `sizes` says in eval mode, in which a parametrised weight can be looked at without changing its state."""
    modes = [(one, one.training) for one in module.modules()]
    try:
        module.eval()
        return dict(sizes(module))
    finally:
        for one, training in modes:
            one.training = training


def _own_sizes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for kind, sizes in _SIZES:
        if isinstance(module, kind):
            with suppress(AttributeError):  # a weight that is missing, or is made by a parametrisation that fails
                yield from sizes(module).items()


def _channels(module: Any, groups: int) -> Iterator[tuple[str, int]]:
    first, second = module.weight.shape[:2]
    axes = (second * groups, first) if isinstance(module, _ConvTransposeNd) else (first, second * groups)
    yield from zip(("groups", "out_channels", "in_channels"), (groups, *axes), strict=True)


def _groups(module: Any, kept: Mapping[str, Mapping[int, Tensor]], shapes: Mapping[str, Any]) -> int:
    """How many groups of a convolution have anything left: its weight's first axis holds them one after the other."""
    for name, axes in kept.items():
        size = shapes[name][0] if shapes[name] else 0
        if 0 in axes and len(shapes[name]) > 2 and size % module.groups == 0:
            return len(torch.unique(axes[0] // (size // module.groups)))
    return module.groups


def _linear(module: nn.Linear) -> dict[str, Any]:
    return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}


def _bilinear(module: nn.Bilinear) -> dict[str, Any]:
    return dict(zip(("out_features", "in1_features", "in2_features"), module.weight.shape, strict=True))


def _norm(module: _NormBase) -> dict[str, Any]:
    tensor = module.weight if module.weight is not None else module.running_mean
    return {} if tensor is None else {"num_features": len(tensor)}


def _group_norm(module: nn.GroupNorm) -> dict[str, Any]:
    return {"num_channels": len(module.weight)} if isinstance(module.weight, Tensor) else {}


def _normalized(module: nn.LayerNorm | nn.RMSNorm) -> dict[str, Any]:
    return {"normalized_shape": tuple(module.weight.shape)} if isinstance(module.weight, Tensor) else {}


def _embedding(module: nn.Embedding | nn.EmbeddingBag) -> dict[str, Any]:
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


def _recurrent(module: nn.RNNBase) -> dict[str, Any]:
    weight, into = module.get_parameter("weight_hh_l0"), module.get_parameter("weight_ih_l0")
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    projected = weight.shape[1] if module.proj_size else 0
    return {"input_size": into.shape[1], "hidden_size": weight.shape[0] // gates, "proj_size": projected}


def _cell(module: nn.RNNCellBase) -> dict[str, Any]:
    return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}


def _prelu(module: nn.PReLU) -> dict[str, Any]:
    return {"num_parameters": len(module.weight)}


_SIZES: tuple[tuple[Any, Callable[[Any], dict[str, Any]]], ...] = (
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_NormBase, _norm),
    (nn.GroupNorm, _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _normalized),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.PReLU, _prelu),
)
_SIZED = tuple(
    one for kinds, _ in [*_SIZES, (_ConvNd, None)] for one in (kinds if isinstance(kinds, tuple) else (kinds,))
)
"""PyTorch's own modules that hold sizes of their weights."""
