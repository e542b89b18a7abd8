"""The gradients of an optimizer's step, whoever calls it: with a closure, or with a `GradScaler`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["gradient_of", "on_gradients", "scale_of", "with_closure"]

Closure = Callable[[], Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def on_gradients(optimizer: Optimizer, look: Callable[[], None]) -> RemovableHandle:
    """Call `look` once in every step of `optimizer`, when the step's gradients are there and before it moves anything.

    Of a closure, which LBFGS evaluates several times, that is after its first evaluation. A step that a `GradScaler`
    has skipped is none, also where a fused optimizer finds that out within the step.
    """

    def before(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        replaced = with_closure(args, kwargs, lambda closure: _looked_at(closure, look))
        if replaced is None and not _overflowed(optimizer):
            look()
        return replaced

    return optimizer.register_step_pre_hook(before)


def with_closure(args: tuple[Any, ...], kwargs: dict[str, Any], wrap: Callable[[Closure], Closure]) -> Call | None:
    """What a step was called with, as its hook sees it, with `wrap(closure)` in place of its closure; None without one.

    >>> with_closure(("optimizer", lambda: 2), {}, lambda closure: lambda: 3 * closure())[0][1]()
    6
    >>> with_closure(("optimizer", None), {}, lambda closure: closure)
    """
    if len(args) > 1 and callable(args[1]):  # after the optimizer itself
        return (args[0], wrap(args[1]), *args[2:]), kwargs
    if callable(kwargs.get("closure")):
        return args, {**kwargs, "closure": wrap(kwargs["closure"])}
    return None


def scale_of(optimizer: Optimizer) -> Tensor | None:
    """By what gradients are too large: set by a `GradScaler`, during a step, on optimizers that unscale within it."""
    return getattr(optimizer, "grad_scale", None)


def gradient_of(parameter: nn.Parameter, optimizer: Optimizer) -> Tensor:
    """The gradient as the optimizer uses it, unscaled and dense; zeros where there is none. Not always a copy."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    gradient, scale = parameter.grad.detach().to_dense(), scale_of(optimizer)
    return gradient if scale is None else gradient / scale.to(gradient.device)


def _overflowed(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _looked_at(closure: Closure, look: Callable[[], None]) -> Closure:
    looked = False

    def closed() -> Any:
        nonlocal looked
        loss = closure()
        if not looked:
            looked = True
            look()
        return loss

    return closed
