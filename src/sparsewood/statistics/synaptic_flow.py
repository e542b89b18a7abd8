"""Synaptic flow: how much of what goes into a network of positive weights passes through each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sparsewood.batches import count_examples, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, map_tensors
from sparsewood.parameters import Entry
from sparsewood.statistics.kinds import ModelStatistic

__all__ = ["SynapticFlow"]

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class SynapticFlow(ModelStatistic):
    """dR/d|w| for each parameter, R the sum of the outputs of the network with weights |w| for an input of ones.

    Of the data only the shape of one example is used (and whole numbers, such as tokens, as they are). For the pass,
    the network is what is left of it for positive numbers: nothing is added (biases and running means are 0),
    activations (ReLU, tanh, sigmoid, GELU ...) let all through, BatchNorm scales by its running variance as in eval
    mode, other normalisations only by their weight. R is then linear in the weights of every layer, and where all that
    flows goes through a layer, sum_w |w| dR/d|w| = R: the flow is conserved from layer to layer and from the inputs of
    a unit to its outputs. Softmax and the gates inside nn.LSTM and nn.GRU stay as they are, and are not conserved.

    float64 holds the flow of networks that are too deep for float32, where it overflows.
    """

    precision: Precision = "float64"
    needs_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise SparsewoodError(
                f"SynapticFlow: precision must be one of {', '.join(get_args(Precision))}. Got {self.precision!r}."
            )

    @property
    def kind(self) -> str:
        return f"synaptic flow, {self.precision}"

    def measure(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        loss: Callable[[Any, Any], Tensor] | None,
        chosen: Sequence[Entry],
    ) -> list[Tensor]:
        del loss
        parameters = [entry.parameter for entry in chosen]
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        inputs, target = split_batch(batches[0])
        examples = count_examples(inputs, target)
        ones = map_tensors(lambda x: _one_example(x, examples, dtype), inputs)
        with _positive(model, dtype):
            with _LetThrough():
                outputs = [x for x in tree_leaves(call(model, ones)) if isinstance(x, Tensor) and x.is_floating_point()]
            through = torch.stack([x.sum() for x in outputs]).sum() if outputs else None
            if through is None or not through.requires_grad:
                raise SparsewoodError(
                    f"Synaptic flow: no output of {type(model).__name__} depends on its weights. Compute "
                    "floating-point outputs from them, without detach() or no_grad()."
                )
            found = torch.autograd.grad(through, parameters, allow_unused=True)
            pairs = zip(found, parameters, strict=True)
            flow = [torch.zeros_like(p) if one is None else one.detach() for one, p in pairs]
        if not all(bool(torch.isfinite(one).all()) for one in flow):
            remedy = "Use precision='float64'." if self.precision == "float32" else "Scale the weights down."
            raise SparsewoodError(f"The synaptic flow of {type(model).__name__} is too large for {dtype}. {remedy}")
        return flow


def _one_example(tensor: Tensor, examples: int, dtype: torch.dtype) -> Tensor:
    one = tensor[:1] if tensor.ndim and tensor.shape[0] == examples else tensor
    return torch.ones_like(one, dtype=dtype) if one.is_floating_point() else one


@contextmanager
def _positive(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, weights are their absolute values and nothing is added. Buffers are put back by who calls."""
    before = {parameter: parameter.data for parameter in model.parameters()}
    try:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.is_floating_point():
                    data = before[parameter]
                    parameter.data = (torch.zeros_like(data) if "bias" in name else data.abs()).to(dtype)
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    # All others, such as masks of attention, are not weights.
                    module._buffers[name] = (torch.zeros_like(buffer) if name == "running_mean" else buffer).to(dtype)
        yield
    finally:
        for parameter, data in before.items():
            parameter.data = data


_ACTIVATIONS = frozenset(
    {
        *(torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid),
        *(Tensor.sigmoid_, F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.softplus, F.hardtanh, F.relu6),
        *(F.hardswish, F.hardsigmoid, F.softsign, F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink),
        *(F.threshold, F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.prelu, F.leaky_relu),
    }
)
_NORMALIZATIONS: Mapping[Any, int] = {F.layer_norm: 2, F.rms_norm: 2, F.group_norm: 2, F.instance_norm: 3}


class _LetThrough(TorchFunctionMode):
    """Activations return what they are given, normalisations of single examples only scale by their weight."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = kwargs or {}
        x: Any = args[0] if args else given.get("input")
        if func in _ACTIVATIONS:
            return x
        if func in _NORMALIZATIONS:
            place = _NORMALIZATIONS[func]
            weight = args[place] if len(args) > place else given.get("weight")
            return x if weight is None else _scaled(x, weight, last=func in (F.layer_norm, F.rms_norm))
        if func is F.batch_norm and _by_batch(args, given):
            weight = args[3] if len(args) > 3 else given.get("weight")
            return x if weight is None else _scaled(x, weight, last=False)
        return func(*args, **given)


def _by_batch(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether a BatchNorm has no running statistics, so that it would normalise ones to 0."""
    return bool(args[5] if len(args) > 5 else given.get("training", False))


def _scaled(x: Tensor, weight: Tensor, *, last: bool) -> Tensor:
    return x * weight if last else x * weight.reshape(-1, *[1] * (x.ndim - 2))
