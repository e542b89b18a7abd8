"""The Hessian times the gradient: how the norm of the gradient changes with each weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, map_tensors
from sparsewood.statistics.collect import count_examples, in_mode, loss_value, split_batch
from sparsewood.statistics.kinds import Mode, ModelStatistic, require_mode

__all__ = ["HessianGradient"]


@dataclass(frozen=True)
class HessianGradient(ModelStatistic):
    """H g for each parameter, g the gradient of the mean loss over all examples and H its Hessian.

    H g = d/dw (g(w) . c) at c = g, so that it takes two backward passes over the data and no matrix. The loss is that
    of outputs / temperature. Both passes see the same batches; in eval mode their sizes do not matter. Attention is
    computed step by step, since fused kernels have no second derivative.
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
        parameters: Sequence[nn.Parameter],
    ) -> list[Tensor]:
        assert loss is not None  # `collect` asks for one
        sizes = [count_examples(*split_batch(batch, number), number) for number, batch in enumerate(batches)]
        shares = [size / sum(sizes) for size in sizes]
        with sdpa_kernel(SDPBackend.MATH):
            return self._product(model, batches, shares, loss, parameters)

    def _product(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        shares: Sequence[float],
        loss: Callable[[Any, Any], Tensor],
        parameters: Sequence[nn.Parameter],
    ) -> list[Tensor]:
        gradient = [torch.zeros_like(parameter) for parameter in parameters]
        for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            with in_mode(model, self.mode, number):
                found = _gradients(self._loss(model, batch, loss, number), parameters, create_graph=False)
            for total, one in zip(gradient, found, strict=True):
                total.add_(one, alpha=share)
        product = [torch.zeros_like(parameter) for parameter in parameters]
        for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            with in_mode(model, self.mode, number):
                found = _gradients(self._loss(model, batch, loss, number), parameters, create_graph=True)
                along = torch.stack([(one * total).sum() for one, total in zip(found, gradient, strict=True)]).sum()
                if along.requires_grad:  # a loss that is linear in all weights has no curvature
                    second = _gradients(along, parameters, create_graph=False)
                    for total, one in zip(product, second, strict=True):
                        total.add_(one, alpha=share)
        return product

    def _loss(self, model: nn.Module, batch: Any, loss: Callable[[Any, Any], Tensor], number: int) -> Tensor:
        inputs, target = split_batch(batch, number)
        output = call(model, inputs)
        if self.temperature != 1:
            output = map_tensors(lambda x: x / self.temperature if x.is_floating_point() else x, output)
        return loss_value(loss, output, target, number)


def _gradients(value: Tensor, parameters: Sequence[nn.Parameter], *, create_graph: bool) -> list[Tensor]:
    try:
        found = torch.autograd.grad(value, list(parameters), create_graph=create_graph, allow_unused=True)
    except RuntimeError as error:
        raise SparsewoodError(
            f"The network cannot be differentiated twice: {error}. Replace the operation that has no second "
            "derivative, or use a criterion of first order."
        ) from error
    pairs = zip(found, parameters, strict=True)
    found = [torch.zeros_like(parameter) if one is None else one for one, parameter in pairs]
    return found if create_graph else [one.detach() for one in found]
