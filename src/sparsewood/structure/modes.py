"""What stands between the forward and PyTorch while a model is traced.

`Operations` sees every ATen operation, composite ones taken apart. `Functions` sees what the Python code calls: sizes
asked for, attributes of tensors, values that leave the graph. `modules_of` keeps track of the module that is running.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparsewood.structure.asked import note_integers
from sparsewood.structure.axes import axes_of
from sparsewood.structure.integers import length_of, number_of_elements, shape_of, size_of, stride_of
from sparsewood.structure.log import Call, Event
from sparsewood.structure.rules import find_function_rule, find_rule
from sparsewood.structure.tracer import RULE_ERRORS, Tracer

__all__ = ["Functions", "Operations", "modules_of"]

log = logging.getLogger(__name__)


class Operations(TorchDispatchMode):
    """Hands every ATen operation to the tracer."""

    def __init__(self, trace: Tracer) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if find_rule(func) is None:
            with self:  # in inference mode composite operations arrive whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        with torch._C.DisableTorchFunction():
            return self.trace.run(func, args, kwargs)


class Functions(TorchFunctionMode):
    """Notes which function the Python code called, and answers for what stand-ins cannot know."""

    def __init__(self, trace: Tracer) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = self.trace
        answer = _answers.get(func)
        if answer is not None:
            return answer(trace, func, args, kwargs)
        trace.calls.append(Call(func, getattr(func, "__name__", str(func)), args, kwargs))
        try:
            note_integers(trace, trace.calls[-1])
            rule = find_function_rule(func)
            if rule is not None:
                try:
                    return rule(trace, func, args, kwargs)
                except RULE_ERRORS:  # then it is taken apart, and every operation in it has a rule or is a barrier
                    log.debug("the rule of %s failed", func, exc_info=True)
            return func(*args, **kwargs)
        finally:
            trace.calls.pop()


Answer = Callable[[Tracer, Any, tuple[Any, ...], dict[str, Any]], Any]


def _pass(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _device(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A stand-in is where the model is."""
    device = func(*args, **kwargs)
    return trace.device if device.type == "meta" else device


def _on_cuda(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return _device(trace, _tensor.device.__get__, args[:1], {}).type == "cuda"


def _data(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`tensor.data` goes around the dispatcher and would lose the labels."""
    return args[0].detach()


def _replaced(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`tensor.data = other`: which of them is meant from now on is not followed."""
    trace.barrier(map(trace.stand_in, args), "a tensor's data is replaced")
    return func(*args, **kwargs)


def _leaves(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Values that leave the graph: nobody can follow them."""
    trace.calls.append(Call(func, getattr(func, "__name__", str(func)), args, kwargs))
    try:
        trace.read([trace.stand_in(args[0])])
        trace.barrier([trace.stand_in(args[0])], "its values leave the graph")
    finally:
        trace.calls.pop()
    return func(*args, **kwargs)


_tensor: Any = Tensor  # its properties are descriptors, which type checkers do not know
_answers: dict[Any, Answer] = {
    _tensor.device.__get__: _device,
    _tensor.is_cuda.__get__: _on_cuda,
    _tensor.data.__get__: _data,
    _tensor.dtype.__get__: _pass,
    Tensor.dim: _pass,
    _tensor.ndim.__get__: _pass,
    Tensor.is_floating_point: _pass,
    _tensor.requires_grad.__get__: _pass,
    _tensor.shape.__get__: shape_of,
    Tensor.size: size_of,
    Tensor.__len__: length_of,
    Tensor.stride: stride_of,
    Tensor.numel: number_of_elements,
    torch.numel: number_of_elements,
    Tensor.nelement: number_of_elements,
    _tensor.data.__set__: _replaced,
    Tensor.untyped_storage: _leaves,
    Tensor.data_ptr: _leaves,
    Tensor.numpy: _leaves,
    Tensor.tolist: _leaves,
    Tensor.__array__: _leaves,
}


@contextmanager
def modules_of(names: Mapping[int, str], trace: Tracer) -> Iterator[None]:
    """While a model runs: the name of the module that is running, and the tensors that enter and leave modules."""
    counts: dict[str, int] = {}
    numbers: list[int] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        name = names.get(id(module))
        if name is None:
            return
        trace.modules.append(name)
        numbers.append(counts.get(name, 0))
        counts[name] = numbers[-1] + 1
        _observe(trace, "input", numbers[-1], inputs)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) in names:
            _observe(trace, "output", numbers.pop(), output)
            trace.modules.pop()

    with ExitStack() as stack:
        stack.callback(module_hooks.register_module_forward_pre_hook(enter).remove)
        stack.callback(module_hooks.register_module_forward_hook(leave).remove)
        yield


def _observe(trace: Tracer, at: str, call: int, values: Any) -> None:
    values = values if isinstance(values, tuple | list) else (values,)
    with torch._C.DisableTorchFunction():
        for index, value in enumerate(values):
            axes = axes_of(value) if isinstance(value, Tensor) else None
            if axes is not None and axes.step >= 0 and axes.labelled:
                trace.events.append(Event(trace.module, call, at, index, axes.step, axes.rows))
