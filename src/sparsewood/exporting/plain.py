"""A copy of a network with plain weights: masks and parametrizations are computed once, and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.copies import duplicate
from sparsewood.snapshot import untouched

__all__ = ["plain_copy"]

_Place = tuple[nn.Module, str]
"""A module, and the name of a weight of it."""


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode, with the weights that its modules compute with under their plain names.

    What makes weights out of others is gone: `torch.nn.utils.parametrize`, masks of `torch.nn.utils.prune`, and weight
    and spectral normalisation of the old style.

    >>> layer = prune.l1_unstructured(nn.Linear(2, 2), "weight", amount=0.5)
    >>> list(layer.state_dict()), list(plain_copy(layer).state_dict())
    (['bias', 'weight_orig', 'weight_mask'], ['bias', 'weight'])
    """
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise SparsewoodError(
                f"{name!r} of {type(model).__name__} is on the meta device and has no values to export. Give the "
                "network its weights first."
            )
    copied = duplicate(model, double=False).eval()
    with untouched(copied, buffers=False):
        shared = _separate(copied)
        for module in list(copied.modules()):
            _make_plain(module)
    for first, *others in shared:
        _tie(first, others)
    return copied


def _separate(model: nn.Module) -> list[list[_Place]]:
    """Give weights that are made out of a parameter which is elsewhere, too, one of their own: it is changed in place.

    Returns the weights that had one in common.
    """
    sources = [
        (source, key, (module, name))
        for module in model.modules()
        for source, key, name in (*_parametrized(module), *_masked(module))
    ]
    uses = Counter(id(held) for module in model.modules() for held in module._parameters.values())
    found: dict[int, list[_Place]] = {}
    for source, key, place in sources:
        held = source._parameters.get(key)
        if held is not None and uses[id(held)] > 1:
            found.setdefault(id(held), []).append(place)
            source._parameters[key] = nn.Parameter(held.detach().clone(), held.requires_grad)
    return list(found.values())


def _parametrized(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """The module that holds a parameter, the parameter's name there, and that of the weight made out of it."""
    if parametrize.is_parametrized(module):
        made: Any = module.parametrizations
        yield from ((held, "original", name) for name, held in made.items() if held.is_tensor)


def _masked(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            yield module, f"{hook._tensor_name}_orig", hook._tensor_name


def _tie(first: _Place, others: Sequence[_Place]) -> None:
    """Weights that are the same stay one parameter."""
    held = first[0]._parameters[first[1]]
    for module, name in others:
        own = module._parameters[name]
        if held is not None and own is not None and torch.equal(held, own):
            module._parameters[name] = held


def _make_plain(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        _own_class(module)
        for name in list(module.parametrizations):  # pyright: ignore[reportArgumentType, reportCallIssue]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            made = module._buffers.pop(name, None)
            if made is not None:  # of several parameters none of which takes a gradient
                module._parameters[name] = nn.Parameter(made, requires_grad=False)
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
        elif isinstance(hook, WeightNorm | SpectralNorm):
            _remove(hook, module)
            module._forward_pre_hooks.pop(key, None)


def _remove(hook: Any, module: nn.Module) -> None:
    hook.remove(module)
    if isinstance(hook, SpectralNorm):  # as torch.nn.utils.remove_spectral_norm does
        for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
            for key, other in list(hooks.items()):
                if getattr(getattr(other, "hook", other), "fn", None) is hook:
                    del hooks[key]


def _own_class(module: nn.Module) -> None:
    """PyTorch gives a parametrized module a class of its own, copies share it, and removing a parametrization changes
    the class: the network that was copied would lose its weight."""
    kind: Any = type(module)
    content = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    own: Any = type(kind.__name__, kind.__bases__, content)
    module.__class__ = own
