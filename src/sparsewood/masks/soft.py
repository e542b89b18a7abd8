"""Masked weights that go on learning: the network sees w * mask, the optimizer updates w.

No parametrisation is needed: what is hidden by the mask lies in a copy beside the model, and is put into the
parameters only while the optimizer steps. Names, forward and state dict are those of a plain model with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.masks.apply import as_masks, clear, local, resolve
from sparsewood.masks.enforce import require_managed
from sparsewood.types import Masks

__all__ = ["SoftKeeper", "soften"]

Gradient = Literal["all", "kept"]


def soften(
    model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer, *, gradient: Gradient = "all"
) -> SoftKeeper:
    """Mask the model, and let `optimizer` go on training the masked weights out of sight, until the keeper is removed.

        forward:  v = w * mask                  the parameters hold v, with exact zeros
        step:     w <- step(w, dL/dv)           the straight-through gradient: masked weights learn, too

    A masked weight that a later mask gives back comes with the value that it has by then. Weight decay and momentum act
    on all of w, as they would on the parameter of a parametrisation.

    Args:
        gradient: "all" as above; with "kept" masked weights get no gradient, dL/dw = mask * dL/dv, and only weight
            decay and what is left of their momentum moves them.

    Masks must be given for every parameter that is to be masked later. Raises as `apply_masks` does, and
    `SparsewoodError` if the optimizer updates none of the parameters, for LBFGS, at a step with a closure (it would see
    the weights without masks), and for sharded parameters.

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons",
    https://arxiv.org/abs/1308.3432; for masks Guo et al. 2016, "Dynamic Network Surgery",
    https://arxiv.org/abs/1608.04493.

    >>> import torch
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    >>> with soften(layer, {"weight": torch.tensor([[True, False]])}, optimizer) as keeper:
    ...     layer(torch.tensor([[0.5, 0.5]])).sum().backward()
    ...     optimizer.step()
    ...     print(keeper.dense["weight"])
    tensor([[0.5000, 1.5000]])
    >>> layer.weight.data
    tensor([[0.5000, 0.0000]])
    """
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        raise SparsewoodError(
            f"soften needs an optimizer that steps once for each gradient, such as SGD or Adam. Got {optimizer!r:.80}."
        )
    if gradient not in ("all", "kept"):
        raise SparsewoodError(f"soften: gradient must be 'all' or 'kept'. Got {gradient!r}.")
    return SoftKeeper(model, masks, optimizer, gradient)


class SoftKeeper:
    """Keeps the masked weights learning beside the model; made by `soften`.

    Leaving its `with` block, or `remove()`, ends it and leaves the masked network, with exact zeros. It holds the masks
    and a copy of the masked parameters.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer, gradient: Gradient) -> None:
        self._model, self._only_kept = model, gradient == "kept"
        self._masks = as_masks(masks)
        resolved = resolve(model, self._masks)
        require_managed(resolved, optimizer)
        self._owners = {name: parameter for name, parameter, _ in resolved}
        _require_whole(self._owners)
        self._removed = False
        self._hidden = {name: owner.detach().clone() for name, owner in self._owners.items()}
        self._handles = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )
        self._hide()

    @property
    def masks(self) -> Masks:
        """The masks in force.

        New ones, for the same parameters, may be assigned, and then hold at once: what they give back has the value
        that it learned. They are checked first; those that fail leave the old in force.
        """
        return self._masks

    @masks.setter
    def masks(self, masks: Mapping[str, Tensor]) -> None:
        checked = as_masks(masks)
        self._require(checked)
        resolve(self._model, checked)
        self._show()
        self._masks = checked
        self._hide()

    @property
    def dense(self) -> dict[str, Tensor]:
        """Copies of the weights behind the masks, by parameter name: those that are kept, and those that are not."""
        return {name: self._whole(name) for name in self._owners}

    @dense.setter
    def dense(self, weights: Mapping[str, Tensor]) -> None:
        """Of an earlier moment, as when a training goes on: the model then holds them masked."""
        self._require(weights)
        for name, owner in self._owners.items():
            if weights[name].shape != owner.shape:
                raise SparsewoodError(
                    f"The dense weights of {name!r} have shape {tuple(weights[name].shape)}; expected "
                    f"{tuple(owner.shape)}."
                )
            owner.detach().copy_(weights[name])
        self._hide()

    def remove(self) -> None:
        """End it. May be called again without effect."""
        self._removed = True
        for handle in self._handles:
            handle.remove()
        self._hidden = {}

    def __enter__(self) -> SoftKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else repr(self._masks)
        return f"SoftKeeper({state}, {type(self._model).__name__})"

    def _require(self, given: Mapping[str, Tensor]) -> None:
        if self._removed:
            raise SparsewoodError("This keeper was removed and holds nothing. Call soften(...) for a new one.")
        if given.keys() != self._owners.keys():
            raise SparsewoodError(
                f"This keeper is for the parameters {sorted(self._owners)}. Got {sorted(given)}: give all of them, "
                "with masks that are all True where nothing is to be removed."
            )

    def _whole(self, name: str) -> Tensor:
        # What is kept is read from the parameter, in case that somebody else wrote to it.
        owner = self._owners[name].detach()
        return owner.where(self._masks[name].to(owner.device), self._hidden[name].to(owner))

    def _show(self) -> None:
        for name, owner in self._owners.items():
            owner.detach().copy_(self._whole(name))

    def _hide(self) -> None:
        for name, owner in self._owners.items():
            self._hidden[name] = self._hidden[name].to(owner).copy_(owner.detach())
            clear(owner, self._masks[name].to(owner.device))

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        closure = kwargs.get("closure", next((arg for arg in args if arg is not optimizer), None))
        if closure is not None:
            raise SparsewoodError(
                f"{type(optimizer).__name__}.step was given a closure, which would run the network without its masks. "
                "Call backward() first and step() without arguments."
            )
        self._show()
        if self._only_kept:
            for name, owner in self._owners.items():
                if owner.grad is not None:
                    owner.grad = _cleared(owner.grad, self._masks[name].to(owner.device))

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        self._hide()


def _cleared(gradient: Tensor, mask: Tensor) -> Tensor:
    """The gradient of what is kept. A sparse one, as of an embedding, stays sparse, for optimizers that need it so."""
    if not gradient.is_sparse:
        clear(gradient, mask)
        return gradient
    gathered = gradient.coalesce()
    clear(gathered.values(), mask[tuple(gathered.indices())])
    return gathered


def _require_whole(owners: Mapping[str, nn.Parameter]) -> None:
    for name, owner in owners.items():
        if local(owner) is not owner:
            raise SparsewoodError(f"soften: {name!r} is sharded over processes, which is not supported. Use enforce.")
    if len({id(owner) for owner in owners.values()}) < len(owners):
        raise SparsewoodError(f"soften: some of {sorted(owners)} are one tied parameter. Give one mask for it.")
