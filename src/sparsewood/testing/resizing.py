"""Modules whose parameters became smaller: their tensors, and the integers that say how long axes are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["INSISTING", "Insisting", "assign", "insists", "integer_sizes", "put", "sizes_follow", "swapped"]

_FOLLOWING = ("groups", "input_size", "hidden_size", "proj_size", "normalized_shape")


@dataclass(frozen=True)
class Insisting:
    """A class of modules whose forward refuses other sizes than it was built with, and why that is no violation."""

    kind: type[nn.Module]
    why: str
    when: Callable[[Any], bool] = lambda _: True


INSISTING = (
    Insisting(nn.MultiheadAttention, "nn.MultiheadAttention insists on heads that are as wide as its input divides"),
    Insisting(nn.LSTM, "nn.LSTM insists on the sizes of its projection", lambda module: module.proj_size > 0),
)
"""The modules that may raise once units are removed: only a module of another class could hold what is left."""


def insists(error: BaseException, insisting: Sequence[Insisting]) -> str:
    """Why an error that one of these modules raised in its own forward is no violation; "" if none of them did."""
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_locals.get("self")
        for one in insisting:
            if isinstance(module, one.kind) and traceback.tb_frame.f_code.co_name == "forward" and one.when(module):
                return one.why
        traceback = traceback.tb_next
    return ""


def assign(container: Any, path: tuple[int | str, ...], value: int) -> None:
    """Set the integer that `path` leads to through lists, tuples, and objects."""
    key, *rest = path
    inner = container[key] if rest else None
    if isinstance(inner, tuple):
        items: list[Any] = list(inner)
        assign(items, tuple(rest), value)
        container[key] = tuple(items)
    elif rest:
        assign(inner if isinstance(inner, list) else vars(inner), tuple(rest), value)
    else:
        container[key] = value


def _recurrent_sizes(module: nn.RNNBase) -> dict[str, int]:
    weight, into = module.get_parameter("weight_hh_l0"), module.get_parameter("weight_ih_l0")
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    projected = weight.shape[1] if module.proj_size else 0
    return {"input_size": into.shape[1], "hidden_size": weight.shape[0] // gates, "proj_size": projected}


def integer_sizes(module: nn.Module) -> dict[str, Any]:
    """The attributes of PyTorch's own modules that `sizes_follow` sets."""
    return {name: vars(module)[name] for name in _FOLLOWING if name in vars(module)}


@contextmanager
def sizes_follow(model: nn.Module) -> Iterator[None]:
    """PyTorch's own modules take their sizes from their weights and inputs."""
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not module.transposed:
            hooks.append(module.register_forward_pre_hook(_regroup))
        elif isinstance(module, nn.RNNBase):
            vars(module).update(_recurrent_sizes(module))
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and isinstance(module.weight, Tensor):
            module.normalized_shape = tuple(module.weight.shape)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _regroup(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    assert isinstance(module, nn.modules.conv._ConvNd)
    axis = -1 - len(module.kernel_size)
    module.groups = arguments[0].shape[axis] // module.weight.shape[1]


def put(module: nn.Module, parameters: Mapping[str, Any], buffers: Mapping[str, Any]) -> None:
    module._parameters.update(parameters)
    module._buffers.update(buffers)
    if isinstance(module, nn.RNNBase):  # it keeps a list of its weights
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def swapped(tensors: Mapping[str, Tensor | None], replaced: Mapping[int, Tensor]) -> dict[str, Tensor | None]:
    return {name: replaced.get(id(tensor), tensor) for name, tensor in tensors.items()}
