"""Hooks that let a layer compute with rounded weights and inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.quantization.affine import Affine, affine_of, affine_parameters, dequantize, quantize

__all__ = ["AfterForward", "BeforeForward", "Range", "Rounding", "Weight", "rounded"]

OPERANDS: dict[type[nn.Module], tuple[str, ...]] = {nn.MultiheadAttention: ("query", "key", "value")}
"""What a layer reads, by the names of its forward's arguments; others read "input"."""


@dataclass(frozen=True)
class Rounding:
    """Bits and kinds of ranges, as `QuantizationAware` takes them."""

    bits: int
    per_channel: bool
    symmetric: bool
    activation_bits: int | None
    momentum: float
    freeze_after: int | None

    def of_weight(self, weight: Tensor, axis: int | None) -> Affine:
        return affine_of(weight, bits=self.bits, symmetric=self.symmetric, axis=axis if self.per_channel else None)


@dataclass(frozen=True)
class Weight:
    """A weight of a layer: its parameter's name, the attributes that lead to it from there, and the outputs' axis."""

    parameter: str
    path: tuple[str, ...]
    axis: int | None


@dataclass
class Range:
    """The running range of what a layer reads; `seen` is of how many batches, `learnt` how many of training."""

    low: float = 0.0
    high: float = 0.0
    seen: int = 0
    learnt: int = 0

    def add(self, low: float, high: float, share: float | None) -> None:
        """Move to a batch's range by `share`, or widen to it (None)."""
        if not self.seen:
            self.low, self.high = low, high
        elif share is None:
            self.low, self.high = min(self.low, low), max(self.high, high)
        else:
            self.low, self.high = self.low + share * (low - self.low), self.high + share * (high - self.high)
        self.seen += 1


@dataclass(eq=False)
class BeforeForward:
    """Rounds what the layer reads, and puts rounded weights in the places of its parameters until `AfterForward`."""

    rounding: Rounding
    weights: Sequence[Weight]
    name: str
    ranges: dict[str, Range] = field(default_factory=dict)
    widening: bool = False
    frozen: bool = False
    held: list[tuple[nn.Module, str, nn.Parameter]] = field(default_factory=list)

    def __call__(
        self, module: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.put_back()
        changed = self._inputs(module, positional, keywords)
        for weight in self.weights:
            owner = module.get_submodule(".".join(weight.path[:-1]))
            leaf = weight.path[-1]
            parameter = owner._parameters[leaf]
            assert parameter is not None
            self.held.append((owner, leaf, parameter))
            # No `nn.Parameter`: the layer reads what is in this place, and gradients go on to the parameter.
            owner._parameters[leaf] = rounded(parameter, self.rounding.of_weight(parameter, weight.axis))  # pyright: ignore[reportArgumentType]
        return changed

    def put_back(self) -> None:
        """The parameters in their places again."""
        while self.held:
            owner, leaf, parameter = self.held.pop()
            owner._parameters[leaf] = parameter

    def _inputs(
        self, module: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.rounding.activation_bits is None:
            return None
        operands = next((names for kind, names in OPERANDS.items() if isinstance(module, kind)), ("input",))
        done: dict[int, Tensor] = {}
        given = list(positional)
        keywords = dict(keywords)
        for place, operand in enumerate(operands):
            value = given[place] if place < len(given) else keywords.get(operand)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            if id(value) not in done:  # attention is quicker where query and key are one tensor: they stay one
                done[id(value)] = self._rounded(value, "" if place == 0 else operand, training=module.training)
            if place < len(given):
                given[place] = done[id(value)]
            else:
                keywords[operand] = done[id(value)]
        return tuple(given), keywords

    def _rounded(self, value: Tensor, operand: str, *, training: bool) -> Tensor:
        one = self.ranges.setdefault(operand, Range())
        full = self.rounding.freeze_after is not None and one.learnt >= self.rounding.freeze_after
        learns = training and not self.frozen and not full
        if (not one.seen or learns or self.widening) and value.numel():
            low, high = (float(end) for end in value.detach().aminmax())
            if not math.isfinite(high - low):
                raise SparsewoodError(
                    f"QuantizationAware: layer {self.name!r} reads values that are not finite. Lower the learning "
                    "rate, or check the data."
                )
            one.add(low, high, None if self.widening else self.rounding.momentum)
            one.learnt += training
        bits = self.rounding.activation_bits
        assert bits is not None
        return rounded(value, affine_parameters(one.low, one.high, bits=bits, signed=False))


@dataclass(eq=False)
class AfterForward:
    """Puts the parameters back, also where the forward raised."""

    before: BeforeForward

    def __call__(self, *_: Any) -> None:
        self.before.put_back()


def rounded(tensor: Tensor, affine: Affine) -> Tensor:
    """`dequantize(quantize(tensor))` with the gradient of a clamp to the range: 1 inside, 0 outside.

    >>> x = torch.tensor([0.4, 9.0], requires_grad=True)
    >>> y = rounded(x, affine_parameters(-3.0, 3.0, bits=3, symmetric=True))
    >>> y.sum().backward()
    >>> y.data, x.grad
    (tensor([0., 3.]), tensor([1., 0.]))
    """
    out = _Rounded.apply(tensor, affine)
    assert isinstance(out, Tensor)
    return out


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, affine: Affine) -> Tensor:
        found = dequantize(quantize(tensor, affine), affine)
        # Half a step beyond the last integer is still rounded to it, not cut off.
        ctx.save_for_backward((found - tensor).abs() <= _steps(affine, tensor) * 0.501)
        return found.to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


def _steps(affine: Affine, tensor: Tensor) -> Tensor:
    scale = affine.scale.to(tensor.device)
    if affine.axis is None:
        return scale
    shape = [1] * tensor.ndim
    shape[affine.axis] = -1
    return scale.reshape(shape)
