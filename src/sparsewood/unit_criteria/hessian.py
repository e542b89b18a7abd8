"""Hessian-aware pruning: the trace of a unit's Hessian times its squared weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsewood.batches import count_examples, prepared, require_batches, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, refuse_sum
from sparsewood.parameters import Entry, entries, is_weight
from sparsewood.snapshot import kernels_with_backward, untouched
from sparsewood.statistics import Loss
from sparsewood.statistics.collect import gradients_enabled, loss_value
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["HessianTrace"]


@dataclass(frozen=True)
class HessianTrace(UnitCriterion):
    """score_j = trace(H_jj) / (2 p) * ||w_j||^2, over the p weights that make unit j.

    H is the Hessian of the mean loss. Its trace is estimated by Hutchinson's method, with `probes` vectors of +1 and -1
    drawn from the generator for each batch: the mean of v_i (H v)_i summed over the unit. Second derivatives are taken
    through the network in eval mode; they see nothing of how a ReLU bends.

    Source: Yu et al. 2022, "Hessian-Aware Pruning and Optimal Neural Implant", https://arxiv.org/abs/2101.08940.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [3.0]]))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> from sparsewood import trace
    >>> x = torch.ones(1, 1)
    >>> found = HessianTrace(probes=200)(net, trace(net, x), data=[(x, None)], loss=lambda y, _: y.square().mean() / 2,
    ...                                  generator=torch.Generator().manual_seed(0))["0"]
    >>> bool(((found - torch.tensor([0.5, 18.0])).abs() < torch.tensor([0.6, 6.0])).all())  # 1^2 1^2 / 2, 2^2 3^2 / 2
    True
    """

    probes: int = 8
    reads_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.probes, bool) or not isinstance(self.probes, int) or self.probes < 1:
            raise SparsewoodError(f"HessianTrace needs a whole number of probes >= 1. Got {self.probes!r}.")

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        assert data is not None
        assert loss is not None
        require_batches(data)
        refuse_sum(loss)
        chosen = [entry for entry in entries(model) if is_weight(entry)]
        total, samples = {e.name: torch.zeros_like(e.parameter, dtype=torch.float64) for e in chosen}, 0
        # Of the kernels of attention, only the plain one has second derivatives.
        plain = sdpa_kernel(SDPBackend.MATH)
        with untouched(model), gradients_enabled(chosen), kernels_with_backward(model), plain:
            for number, batch in enumerate(data):
                inputs, target = split_batch(prepared(batch, model), number)
                examples = count_examples(inputs, target, number)
                value = loss_value(loss, call(model, inputs), target, number)
                for name, product in _products(value, chosen, self.probes, generator):
                    total[name] += product * examples
                samples += examples
        if not samples:
            raise SparsewoodError("The data is empty: no batch was read.")
        traces = structure.to_units({n: one / samples for n, one in total.items()}, part="producers")
        weights = {e.name: e.parameter.detach().double() for e in chosen}
        norms = structure.to_units({n: w.square() for n, w in weights.items()}, part="producers")
        sizes = structure.to_units({n: torch.ones_like(w) for n, w in weights.items()}, part="producers")
        return {name: traces[name] / (2 * sizes[name]) * norms[name] for name in traces}


def _products(
    value: Tensor, chosen: list[Entry], probes: int, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """v * (H v) of every weight, for each probe v, divided by their number."""
    weights = [entry.parameter for entry in chosen]
    first = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
    used = [(e, w, g) for e, w, g in zip(chosen, weights, first, strict=True) if g is not None and g.requires_grad]
    if not used:
        return
    for _ in range(probes):
        signs = [
            torch.randint(2, w.shape, generator=generator, device=generator.device).to(w.device, w.dtype) * 2 - 1
            for _, w, _ in used
        ]
        second = torch.autograd.grad(
            [g for _, _, g in used], [w for _, w, _ in used], signs, retain_graph=True, allow_unused=True
        )
        for (entry, _, _), sign, product in zip(used, signs, second, strict=True):
            if product is not None:
                yield entry.name, (sign * product).double() / probes
