"""What the contracts have in common."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.criteria import Criterion, Magnitude
from sparsewood.granularity import Element, Granularity, to_units
from sparsewood.pruning import prune, score
from sparsewood.testing.toys import Architecture
from sparsewood.types import Masks

SPARSITIES = (0.0, 0.3, 0.5, 0.77)
ELEMENT = Element()


def fingerprint(model: nn.Module) -> dict[str, object]:
    """Everything that scoring may not change, as comparable values by name."""
    values: dict[str, object] = {"the random state": torch.get_rng_state().numpy().tobytes()}
    for name, module in model.named_modules():
        values[f"the mode of {name or 'the model'}"] = module.training
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        values[f"the hooks of {name or 'the model'}"] = tuple(tuple(of) for of in hooks)
    for name, parameter in model.named_parameters():
        values[name] = (id(parameter), parameter.requires_grad, _bytes(parameter))
        values[f"{name}.grad"] = None if parameter.grad is None else (id(parameter.grad), _bytes(parameter.grad))
    for name, buffer in model.named_buffers():
        values[name] = (id(buffer), _bytes(buffer))
    return values


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check_value(value: Any, kind: type, names: Mapping[str, object] | None = None) -> None:
    """A frozen dataclass whose representation, in which `names` may occur, rebuilds it."""
    name = type(value).__name__
    expect(isinstance(value, kind), f"{value!r} must be a {kind.__name__}")
    frozen = dataclasses.is_dataclass(value) and type(value).__dataclass_params__.frozen  # type: ignore[attr-defined]
    expect(bool(frozen), f"{name} must be a frozen dataclass")
    namespace = {**(names or {}), **vars(sys.modules[type(value).__module__]), "inf": math.inf, name: type(value)}
    expect(eval(repr(value), dict(namespace)) == value, f"repr {value!r} does not rebuild the value")


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"{message}.")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(toy: Architecture, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    inputs = [toy.inputs(3, seed=1), toy.inputs(4, seed=2)]
    return [(x.to(dtype) if x.is_floating_point() else x, torch.arange(len(x)) % 3) for x in inputs]


def score_toy(
    criterion: Criterion, toy: Architecture, model: nn.Module, granularity: Granularity = ELEMENT, seed: int = 0
) -> dict[str, Tensor]:
    data = batches(toy, next(model.parameters()).dtype)
    generator = seeded(seed)
    return score(model, criterion, data=data, loss=F.cross_entropy, granularity=granularity, generator=generator)


def prune_toy(
    criterion: Criterion, model: nn.Module, sparsity: float, *, toy: Architecture | None = None, **given: Any
) -> Masks:
    data = None if toy is None else batches(toy, next(model.parameters()).dtype)
    return prune(model, criterion, sparsity, data=data, loss=F.cross_entropy, generator=seeded(), **given)


def units_of(model: nn.Module, masks: Masks, granularity: Granularity) -> list[tuple[int, int]]:
    """How many units each mask's parameter has, and how many of them are kept at least in part."""
    grids = score(model, Magnitude(), granularity=granularity, include=list(masks))
    counts = []
    for name, mask in masks.items():
        tile = [size // n if n else 1 for size, n in zip(mask.shape, grids[name].shape, strict=True)]
        units = to_units(mask.float(), tile, "amax")
        counts.append((units.numel(), int(units.sum())))
    return counts


def count_units(model: nn.Module, masks: Masks, granularity: Granularity) -> tuple[int, int]:
    """Units in all, and those kept."""
    counts = units_of(model, masks, granularity)
    return sum(total for total, _ in counts), sum(kept for _, kept in counts)
