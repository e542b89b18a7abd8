"""What comes out of activation functions while a model runs, modules and plain function calls alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.inputs import call, map_tensors, to_model_device
from sparsewood.parameters import names_match
from sparsewood.snapshot import untouched

__all__ = ["FUNCTIONS", "ActivationCall", "activation_calls", "batch_size", "of_example"]

logger = logging.getLogger(__name__)

FUNCTIONS = frozenset(
    {
        *("celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu"),
        *("log_sigmoid", "logsigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu"),
        *("softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold"),
    }
)
CLAMPS = frozenset({"clamp", "clamp_min", "clip"})


@dataclass(frozen=True, eq=False)
class ActivationCall:
    """One call of an activation function.

    Attributes:
        module: name of the module that called it; "" is the model itself.
        function: what was called, "relu" for `nn.ReLU`, `F.relu`, `torch.relu` and `tensor.relu_` alike.
        number: of this function in this module, counted from 0.
        values: what came out for one example, on the CPU: as it was then, whatever was written over it later.
    """

    module: str
    function: str
    number: int
    values: Tensor


def activation_calls(
    model: nn.Module, inputs: Any, *, example: int = 0, layers: str | Sequence[str] | None = None
) -> list[ActivationCall]:
    """What came out of every activation function for one example of a batch, in the order of the calls.

    Seen are the activation functions of PyTorch, however they are called: modules, `torch.nn.functional`, methods, in
    place or not; `clamp(min=0)` counts as relu. Not seen is what another function does inside itself (the gates of
    `nn.LSTM`) and what runs as TorchScript.

    The model runs in eval mode, without gradients, where it is; afterwards it is as it was: mode, buffers, gradients,
    random state, hooks.

    Args:
        inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        example: which example of the batch, negative numbers from the end.
        layers: names of modules, or shell patterns; only calls in them or below them are kept. None is all.

    Raises `SparsewoodError` for an example that is not in the batch and where no activation function is called,
    `UnknownName` for `layers` in which none is.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    >>> _ = net[0].weight.data.copy_(torch.eye(2))
    >>> [(one.module, one.function, one.values) for one in activation_calls(net, torch.tensor([[3.0, -1.0]]))]
    [('1', 'relu', tensor([3., 0.]))]
    """
    require_model(model)
    size = batch_size(inputs)
    if not hasattr(example, "__index__") or not -size <= example < size:
        raise SparsewoodError(f"example must be one of the {size} of the batch, 0 to {size - 1}. Got {example}.")
    recorder = _Recorder(size, example % size)
    with untouched(model), torch.no_grad(), _eager(model), _names(model, recorder), recorder:
        call(model, to_model_device(map_tensors(torch.clone, inputs), model))  # which may be written over
    scripted = [name or "the model" for name, one in model.named_modules() if isinstance(one, torch.jit.ScriptModule)]
    if scripted:
        logger.warning("Not seen: activation functions inside %s, which is TorchScript.", ", ".join(scripted[:4]))
    if not recorder.calls:
        raise SparsewoodError(
            f"{type(model).__name__} calls no activation function on these inputs. Known are "
            f"{', '.join(sorted(FUNCTIONS))}, by whatever way they are called, except in TorchScript and inside other "
            "functions of PyTorch. Pass a model before scripting, or layers that call one of these."
        )
    return recorder.calls if layers is None else _below(recorder.calls, layers)


def of_example(tensor: Tensor, size: int, example: int) -> Tensor:
    """The part of a batch's tensor that belongs to one example.

    The first axis counts examples if it is as long as the batch, else the second if that is (sequence first), else the
    first counts examples and places folded into it (windows, frames). Other tensors are the same for all examples.

    >>> of_example(torch.arange(6).reshape(6, 1), 3, 1).tolist(), of_example(torch.zeros(5, 3, 4), 3, 1).shape
    ([[2], [3]], torch.Size([5, 4]))
    """
    if not tensor.ndim:
        return tensor
    if len(tensor) == size:
        return tensor[example]
    if tensor.ndim > 1 and tensor.shape[1] == size:
        return tensor[:, example]
    return tensor.unflatten(0, (size, -1))[example] if len(tensor) % size == 0 and len(tensor) else tensor


@dataclass(eq=False)
class _Recorder(TorchFunctionMode):
    """Keeps what activation functions return; is told which module runs."""

    size: int
    example: int
    calls: list[ActivationCall] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _activation(func, args, kwargs)
        if name is not None and isinstance(result, Tensor) and result.is_floating_point():
            self._keep(name, result)
        return result

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        """A hook before the forward of the module of this name."""
        return lambda _, __: self.running.append(name)

    def leaving(self, _: nn.Module, __: Any, ___: Any) -> None:
        """A hook after the forward of the module that was entered last."""
        self.running.pop()

    def _keep(self, function: str, result: Tensor) -> None:
        module = self.running[-1] if self.running else ""
        number = self.counts[module, function] = self.counts.get((module, function), -1) + 1
        values = of_example(result.detach(), self.size, self.example)
        self.calls.append(ActivationCall(module, function, number, values.to("cpu", copy=True)))


def _activation(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """What the activation function is called, or None if it is none."""
    name = getattr(func, "__name__", "").strip("_")
    if name == "hardtanh" and (*args[1:3], *kwargs.values())[:2] == (0, 6):
        return "relu6"  # as nn.ReLU6 calls it
    if name in FUNCTIONS:
        return name.replace("log_sigmoid", "logsigmoid")
    if name in CLAMPS:
        low = kwargs.get("min", args[1] if len(args) > 1 else None)
        high = kwargs.get("max", args[2] if len(args) > 2 else None)
        return "relu" if isinstance(low, int | float) and low == 0 and high is None else None
    return None


@contextmanager
def _names(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """While a model runs, the recorder knows the name of the module that is running."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            name = ".".join(part for part in path.split(".") if part != "_orig_mod")  # of a compiled module
            stack.callback(module.register_forward_pre_hook(recorder.entering(name)).remove)
            stack.callback(module.register_forward_hook(recorder.leaving, always_call=True).remove)
        yield


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Compiled modules run as they were written."""
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def batch_size(inputs: Any) -> int:
    sizes = [len(tensor) for tensor in tree_leaves(inputs) if isinstance(tensor, Tensor) and tensor.ndim]
    if not sizes or not sizes[0]:
        raise SparsewoodError("The inputs must hold a tensor whose first axis counts examples, at least one.")
    return sizes[0]


def _below(calls: Sequence[ActivationCall], layers: str | Sequence[str]) -> list[ActivationCall]:
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise SparsewoodError("layers names no module, so there is nothing to keep. Leave it out for all.")
    for selector in wanted:
        if not any(names_match([one.module], selector) for one in calls):
            raise UnknownName.among(
                "module with activation functions", selector, dict.fromkeys(c.module for c in calls)
            )
    return [one for one in calls if any(names_match([one.module], selector) for selector in wanted)]
