"""Training the shared values: the weights of a cluster take their steps together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.quantization.sharing import SharedWeight, Sharing

__all__ = ["CentroidKeeper", "tune_centroids"]

_KEEPERS = WeakKeyDictionary[Optimizer, list["CentroidKeeper"]]()
"""Of each optimizer, those that were not removed."""


def tune_centroids(model: nn.Module, sharing: Sharing, optimizer: Optimizer) -> CentroidKeeper:
    """Let `optimizer` train the values of shared weights, not the single weights, until the keeper is removed.

        before a step:  dL/dw_i <- sum of dL/dw over the cluster of w_i  =  dL/dc, the gradient of its value
        after it:       w_i <- mean of w over its cluster, and exactly 0 where the weight had zeros

    All weights of a cluster get the same gradient and take the same step, so that it is that of the value itself, with
    momentum, Adam and weight decay as they are; the mean removes what rounding, or an optimizer that remembers
    steps from before, made unequal. Other parameters are trained as ever. Gradients clipped before the step are those
    of single weights; a cluster of n has a gradient of up to n times that size: learning rates of SGD must be
    small.

    The clusters hold at once, and the values are in the model: another `share_weights` with as many clusters returns
    them, without error. With several optimizers, call it once for each: only what an optimizer updates is its keeper's.

    Raises `SparsewoodError` if the optimizer updates none of the shared weights, or a weight has a keeper with it
    already, for weights of another shape than they had, for LBFGS, and at a step with a closure or with sums too large
    for the type of the weights; `UnknownName` for weights that the model does not have.

    Source: Han et al. 2016, "Deep Compression", https://arxiv.org/abs/1510.00149, section 3.

    >>> from sparsewood.quantization import share_weights
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 1.0, 5.0]]))
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> with tune_centroids(layer, share_weights(layer, clusters=2), optimizer) as keeper:
    ...     layer(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    ...     optimizer.step()
    >>> layer.weight.data, keeper.codebooks["weight"]
    (tensor([[0.7000, 0.7000, 4.7000]]), tensor([0.7000, 4.7000]))
    """
    require_model(model)
    if not isinstance(sharing, Sharing):
        raise SparsewoodError(f"tune_centroids needs what share_weights returned. Got {sharing!r:.80}.")
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        raise SparsewoodError(
            f"tune_centroids needs an optimizer that steps once for each gradient, such as SGD or Adam. "
            f"Got {optimizer!r:.80}."
        )
    return CentroidKeeper(model, sharing, optimizer)


class CentroidKeeper:
    """Keeps the weights of each cluster equal while their values are trained; made by `tune_centroids`.

    Leaving its `with` block, or `remove()`, ends it: the hooks of the optimizer are gone, the weights are as they are.
    """

    def __init__(self, model: nn.Module, sharing: Sharing, optimizer: Optimizer) -> None:
        self._tied = _tied(model, sharing, optimizer)
        self._removed = False
        self._beside = _KEEPERS.setdefault(optimizer, [])
        self._require_alone(optimizer)
        self._gather()
        self._beside.append(self)
        self._handles = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )

    @property
    def codebooks(self) -> dict[str, Tensor]:
        """The values as they are now, in the shape and order of `SharedWeight.codebook`, by parameter name.

        Once trained they need not ascend. Values that no weight has are 0.
        """
        return {tied.name: tied.values(tied.parameter.detach()) for tied in self._tied}

    def remove(self) -> None:
        """End it. May be called again without effect."""
        if not self._removed:
            self._beside.remove(self)
        self._removed = True
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> CentroidKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else ", ".join(tied.name for tied in self._tied)
        return f"CentroidKeeper({state})"

    def _require_alone(self, optimizer: Optimizer) -> None:
        kept = {id(tied.parameter) for keeper in self._beside for tied in keeper._tied}
        for tied in self._tied:
            if id(tied.parameter) in kept:
                raise SparsewoodError(
                    f"tune_centroids: {tied.name!r} of this {type(optimizer).__name__} optimizer already has a keeper, "
                    "and two would add its gradients up twice. Call remove() of the first, or leave its with block."
                )

    @torch.no_grad()
    def _gather(self) -> None:
        for tied in self._tied:
            weight = tied.parameter.detach()
            weight.copy_(tied.spread(tied.values(weight)))

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        closure = kwargs.get("closure", next((arg for arg in args if arg is not optimizer), None))
        if closure is not None:
            raise SparsewoodError(
                f"{type(optimizer).__name__}.step was given a closure, whose gradients would not be added up over "
                "clusters. Call backward() first and step() without arguments."
            )
        with_gradient = [(tied, tied.parameter.grad) for tied in self._tied if tied.parameter.grad is not None]
        # All sums come first: an error leaves the gradients as they are.
        sums = [tied.gradient(gradient) for tied, gradient in with_gradient]
        for (tied, gradient), total in zip(with_gradient, sums, strict=True):
            gradient.copy_(tied.spread(total))

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        self._gather()


@dataclass(frozen=True, eq=False)
class _Tied:
    """A parameter whose entries are tied by the indices of a shared weight."""

    name: str
    parameter: nn.Parameter
    shared: SharedWeight

    def sums(self, entries: Tensor) -> Tensor:
        """The sum over each cluster, in float64, of the codebook's shape; 0 for the zeros."""
        cells = self.shared.cells().to(entries.device)
        total = torch.zeros(self.shared.codebook.numel(), dtype=torch.float64, device=entries.device)
        total.index_add_(0, cells, entries.reshape(-1).double())
        total = total.reshape(self.shared.codebook.shape)
        if self.shared.zeros:
            total[..., 0] = 0.0
        return total

    def gradient(self, gradient: Tensor) -> Tensor:
        """The gradient of the values, in the dtype of that of the weights."""
        if gradient.layout is not torch.strided:
            raise SparsewoodError(
                f"tune_centroids: the gradient of {self.name!r} is sparse; expected a dense one. Make its layer "
                "without sparse=True."
            )
        total = self.sums(gradient).to(gradient.dtype)
        if not bool(total.isfinite().all()) and bool(gradient.isfinite().all()):
            raise SparsewoodError(
                f"tune_centroids: the gradients of {self.name!r} add up over a cluster to more than "
                f"{gradient.dtype} can hold. Scale the loss down, or train in float32 or bfloat16."
            )
        return total

    def values(self, weight: Tensor) -> Tensor:
        """The mean over each cluster, in the weight's dtype."""
        counts = self.shared.counts().clamp(min=1).to(weight.device)
        return (self.sums(weight) / counts).to(weight.dtype)

    def spread(self, values: Tensor) -> Tensor:
        return self.shared.weight(values)


def _tied(model: nn.Module, sharing: Sharing, optimizer: Optimizer) -> list[_Tied]:
    managed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    tied = []
    for name, shared in sharing.weights.items():
        if name not in parameters:
            raise UnknownName.among(f"parameter of {type(model).__name__}", name, parameters)
        parameter = parameters[name]
        if parameter.shape != shared.indices.shape:
            raise SparsewoodError(
                f"tune_centroids: {name!r} has shape {tuple(parameter.shape)}; it was {tuple(shared.indices.shape)} "
                "when it was shared. Share the weights of this model again."
            )
        if id(parameter) in managed:
            tied.append(_Tied(name, parameter, shared))
    if not tied:
        raise SparsewoodError(
            f"tune_centroids: the {type(optimizer).__name__} optimizer updates none of the {len(sharing.weights)} "
            "shared weights. Pass the optimizer that was built from this model's parameters."
        )
    return tied
