"""A network as what is left of it for positive numbers: absolute weights, nothing added, nothing held back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["LetThrough", "absolute_weights"]


@contextmanager
def absolute_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
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


_SIGMOIDS = (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit, F.hardsigmoid)
_BOUNDED = (
    *(torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.hardtanh, F.hardtanh_, F.relu6, F.softsign),
    *(torch.erf, Tensor.erf, torch.special.erf),
)
_RANKS: Mapping[Any, int] = dict.fromkeys(_SIGMOIDS, 2) | dict.fromkeys(_BOUNDED, 1)
_UNBOUNDED = frozenset(
    {
        *(F.gelu, F.silu, F.mish, F.elu, F.elu_, F.selu, F.selu_, F.celu, F.celu_, F.softplus, F.hardswish),
        *(F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink, F.threshold, F.prelu, F.leaky_relu),
        *(F.leaky_relu_, F.rrelu, F.rrelu_, F.log_softmax, torch.log_softmax, Tensor.log_softmax),
    }
)
_CLAMPS = frozenset(getattr(of, name) for of in (torch, Tensor) for name in ("clamp", "clamp_", "clip", "clip_"))
_CEILINGS = frozenset(getattr(of, name) for of in (torch, Tensor) for name in ("clamp_max", "clamp_max_"))
_SOFTMAXES = frozenset({F.softmax, torch.softmax, Tensor.softmax})
_PRODUCTS = frozenset(
    {
        *(torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.mul_, Tensor.multiply_),
        *(Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__),
    }
)
_NORMALIZATIONS: Mapping[Any, int] = {F.layer_norm: 2, F.rms_norm: 2, F.group_norm: 2, F.instance_norm: 3}
_SHAPED_LIKE = frozenset({Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.type_as})
_LOOKUPS = frozenset({F.embedding, F.embedding_bag})


class LetThrough(TorchFunctionMode):
    """Activations return what they are given, normalisations of single examples only scale by their weight.

    A gate, that is a bounded activation (sigmoid, softmax, tanh, clamp ...) whose result is multiplied with another
    activation, counts as 1: as a factor that lets all through it would make a square of what is linear. Of two gates
    the sigmoid is the one. Upper bounds of clamps fall away, lower ones, which keep divisors above 0, stay. What the
    network makes in another precision comes in `dtype`.

    Args:
        inputs: the tensors that go into the network, so that activations are told from weights.
    """

    def __init__(self, dtype: torch.dtype, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.dtype = dtype
        # By identity, which holds as long as the tensors live: they are kept.
        self._of_inputs = {id(x): x for x in inputs}
        self._gates: dict[int, tuple[Tensor, int]] = {}
        self._softmaxes: dict[int, tuple[Tensor, Tensor]] = {}
        self._read: set[int] = set()
        self.lookups: list[Tensor] = []
        """Embeddings of whole numbers that are inputs."""

    @property
    def met_softmax(self) -> bool:
        return bool(self._softmaxes)

    def before_softmax(self, output: Tensor) -> Tensor:
        """What a softmax was given, if `output` is its result and nothing is made of it, as of weights of attention."""
        return output if id(output) in self._read else self._softmaxes.get(id(output), (output, output))[1]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = kwargs or {}
        flowing = [x for x in tree_leaves((args, given)) if id(x) in self._of_inputs]
        result = self._result(func, args, given, flowing)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != self.dtype:
            result = result.to(self.dtype)
        if flowing:
            made = {id(x): x for x in tree_leaves(result) if isinstance(x, Tensor)}
            self._of_inputs.update(made)
            self._read.update(id(x) for x in flowing if made)
            if func in _LOOKUPS and isinstance(result, Tensor):
                self.lookups.append(result)
        return result

    def _result(self, func: Any, args: tuple[Any, ...], given: Mapping[str, Any], flowing: list[Tensor]) -> Any:
        x: Any = args[0] if args else given.get("input")
        through = self._through(func, x, args, given, flowing)
        if through is not None:
            return through
        result = func(*args, **given)
        if func in _SOFTMAXES:
            self._softmaxes[id(result)] = (result, x)
            return self._gate(result, 2)
        tensors = [one for one in tree_leaves((args, given)) if isinstance(one, Tensor)]
        tensors = tensors[:1] if func in _SHAPED_LIKE else tensors
        if len(tensors) == 1 and id(tensors[0]) in self._gates:  # of another shape, times a number, 1 plus it ...
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self._gate(one, self._gates[id(tensors[0])][1])
        return result

    def _through(
        self, func: Any, x: Any, args: tuple[Any, ...], given: Mapping[str, Any], flowing: list[Tensor]
    ) -> Tensor | None:
        """What takes the place of the result; None for all that is computed as it is."""
        numbers = bool(flowing) and isinstance(x, Tensor) and x.is_floating_point()
        if func in _RANKS:
            return self._gate(x.view_as(x), _RANKS[func]) if flowing else x
        if func in _UNBOUNDED or (func in _CEILINGS and numbers):
            return x
        if func in _CLAMPS and numbers:
            least, most = (*args[1:], None, None)[:2]
            return self._unclamped(func, x, given.get("min", least), given.get("max", most))
        if func is F.glu:
            return x.chunk(2, args[1] if len(args) > 1 else given.get("dim", -1))[0]
        if func in _PRODUCTS and len(args) == len(flowing) == 2:
            return self._product(func, *args)
        return _only_scaled(func, x, args, given)

    def _gate(self, x: Tensor, rank: int) -> Tensor:
        """Note what may turn out to be a gate: a tensor of its own, as what was given may be used elsewhere."""
        self._gates[id(x)] = (x, rank)
        return x

    def _unclamped(self, func: Any, x: Tensor, least: Any, most: Any) -> Tensor:
        if least is None:
            return x
        raised = func(x, min=least)
        return raised if most is None else self._gate(raised, 1)

    def _product(self, func: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
        first, second = (self._gates.get(id(x), (x, 0))[1] for x in (one, other))
        if second and second >= first:
            return func(one, torch.ones_like(other))
        return torch.mul(torch.ones_like(one), other) if first else func(one, other)


def _only_scaled(func: Any, x: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> Tensor | None:
    """What a normalisation leaves of `x`, and None of all else."""
    if func in _NORMALIZATIONS:
        place, last = _NORMALIZATIONS[func], func in (F.layer_norm, F.rms_norm)
    elif func is F.batch_norm and bool(args[5] if len(args) > 5 else given.get("training", False)):
        place, last = 3, False  # without running statistics: ones would be normalised to 0
    else:
        return None
    weight = args[place] if len(args) > place else given.get("weight")
    if weight is None:
        return x
    return x * (weight if last else weight.reshape(-1, *[1] * (x.ndim - 2)))
