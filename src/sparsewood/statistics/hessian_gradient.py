"""The Hessian times the gradient: how the norm of the gradient changes with each weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsewood.batches import count_examples, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, map_tensors
from sparsewood.parameters import Entry
from sparsewood.statistics.collect import gradients_of, in_mode, loss_value
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
        chosen: Sequence[Entry],
    ) -> list[Tensor]:
        assert loss is not None  # `collect` asks for one
        sizes = [count_examples(*split_batch(batch, number), number) for number, batch in enumerate(batches)]
        gradient, product = ([torch.zeros_like(entry.parameter) for entry in chosen] for _ in range(2))
        with sdpa_kernel(SDPBackend.MATH):
            for total, second in ((gradient, False), (product, True)):
                for number, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
                    with in_mode(model, self.mode, number):
                        found = gradients_of(self._loss(model, batch, loss, number), chosen, create_graph=second)
                        if second:
                            found = _derivative(found, gradient, chosen)
                    for of_all, one in zip(total, found, strict=True):
                        of_all.add_(one, alpha=size / sum(sizes))
        return product

    def _loss(self, model: nn.Module, batch: Any, loss: Callable[[Any, Any], Tensor], number: int) -> Tensor:
        inputs, target = split_batch(batch, number)
        output = call(model, inputs)
        if self.temperature != 1:
            output = map_tensors(lambda x: x / self.temperature if x.is_floating_point() else x, output)
        return loss_value(loss, output, target, number)


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
