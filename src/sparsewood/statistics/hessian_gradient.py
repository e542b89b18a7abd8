"""The Hessian times the gradient: how the norm of the gradient changes with each weight."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsewood.batches import count_examples, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, describe
from sparsewood.parameters import Entry
from sparsewood.statistics.collect import gradients_of, in_mode, loss_value
from sparsewood.statistics.kinds import Mode, ModelStatistic, require_mode, wide

__all__ = ["HessianGradient"]


@dataclass(frozen=True)
class HessianGradient(ModelStatistic):
    """H g for each parameter, g the gradient of the mean loss over all examples and H its Hessian.

    H g = d/dw (g(w) . c) at c = g, so that it takes two backward passes over the data and no matrix. Of weights that
    are masked g counts as 0: they are not trained. Both passes see the same batches; in eval mode their sizes do not
    matter. Attention is computed step by step, since fused kernels have no second derivative.

    The loss is that of outputs / temperature: what has an axis in a tensor, tuple, list or mapping that the model
    returns. If the loss depends on none of these, as one that the model computed itself, there is a `SparsewoodError`.
    """

    temperature: float = 1.0
    mode: Mode = "eval"
    needs_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not 0 < self.temperature < math.inf:
            raise SparsewoodError(f"HessianGradient: temperature must be a number above 0. Got {self.temperature!r}.")
        require_mode("HessianGradient", self.mode)

    @property
    def kind(self) -> str:
        return f"hessian times gradient, temperature {self.temperature:.15g}, {self.mode} mode"

    def measure(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        loss: Callable[[Any, Any], Tensor] | None,
        chosen: Sequence[Entry],
        kept: Mapping[str, Tensor],
    ) -> list[Tensor]:
        assert loss is not None  # `collect` asks for one
        with sdpa_kernel(SDPBackend.MATH):
            gradient = self._mean(model, batches, loss, chosen)
            along = [one * kept.get(entry.name, 1) for one, entry in zip(gradient, chosen, strict=True)]
            return self._mean(model, batches, loss, chosen, along)

    def _mean(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        loss: Callable[[Any, Any], Tensor],
        chosen: Sequence[Entry],
        along: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """The gradient over all examples, or the Hessian times `along`."""
        sizes = [count_examples(*split_batch(batch, number), number) for number, batch in enumerate(batches)]
        total = [wide(torch.zeros_like(entry.parameter)) for entry in chosen]
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
            with in_mode(model, self.mode, number):
                value = self._loss(model, batch, loss, number)
                found = gradients_of(value, chosen, create_graph=along is not None)
                if along is not None:
                    found = _derivative(found, along, chosen)
            for of_all, one in zip(total, found, strict=True):
                of_all.add_(one, alpha=size / sum(sizes))
        return total

    def _loss(self, model: nn.Module, batch: Any, loss: Callable[[Any, Any], Tensor], number: int) -> Tensor:
        inputs, target = split_batch(batch, number)
        output = call(model, inputs)
        if self.temperature == 1:
            return loss_value(loss, output, target, number)
        divided: list[Tensor] = []
        value = loss_value(loss, _divided(output, self.temperature, divided), target, number)
        reached = [x for x in divided if x.requires_grad]
        if not reached or all(x is None for x in _gradients(value, reached)):
            raise SparsewoodError(
                f"HessianGradient: temperature {self.temperature:g} divides the outputs, but the loss of batch "
                f"{number} depends on none that can be divided; the model returned {describe((output,))}. Return the "
                "outputs as a tensor, tuple, list or mapping and compute the loss from them, outside the model, or use "
                "temperature=1."
            )
        return value


def _divided(value: Any, by: float, divided: list[Tensor]) -> Any:
    """What a model returned, of the same types, its outputs divided and put on the list; single numbers are losses."""
    if isinstance(value, Tensor):
        if not value.is_floating_point() or value.ndim == 0:
            return value
        divided.append(value / by)
        return divided[-1]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_divided(item, by, divided) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_divided(item, by, divided) for item in value)
    if not isinstance(value, Mapping):
        return value
    # A copy, as outputs may be read by key and by attribute.
    items = copy.copy(value) if isinstance(value, MutableMapping) else dict(value)
    for name, item in value.items():
        items[name] = _divided(item, by, divided)
    return items


def _gradients(value: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)


def _derivative(gradients: Sequence[Tensor], along: Sequence[Tensor], chosen: Sequence[Entry]) -> list[Tensor]:
    """The Hessian of one batch times `along`, from its gradients."""
    product = torch.stack([(one * other).sum() for one, other in zip(gradients, along, strict=True)]).sum()
    if not product.requires_grad:  # a loss that is linear in all weights has no curvature
        return [torch.zeros_like(entry.parameter) for entry in chosen]
    parameters = [entry.parameter for entry in chosen]
    try:
        # Of weights that the loss is linear in there is none, which is right and no reason to warn.
        found = torch.autograd.grad(product, parameters, allow_unused=True)
    except RuntimeError as error:
        raise SparsewoodError(
            f"The network cannot be differentiated twice: {error}. Replace the operation that has no second "
            "derivative, or use a criterion of first order."
        ) from error
    return [torch.zeros_like(p) if one is None else one.detach() for one, p in zip(found, parameters, strict=True)]
