"""What `shrink` and `preview` are asked for, and what of it goes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsewood.allocation.scopes import Amounts, Everywhere, Scope
from sparsewood.batches import require_batches
from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.shrinking.budgets import CountBudget, Latency, require_budget
from sparsewood.shrinking.choice import DEFAULT_AMOUNT, UnitScores
from sparsewood.structure import Structure
from sparsewood.types import AmountLike
from sparsewood.unit_criteria import reads_images

__all__ = ["Progress", "Request", "check", "is_default"]

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Request:
    """What `shrink` and `preview` are asked for."""

    sparsity: AmountLike | Amounts
    criterion: Criterion | UnitScores
    scope: Scope | Amounts
    budget: CountBudget | Latency | None
    data: Iterable[Any] | None
    loss: Any
    protect: Any
    round_to: int
    min_units: int
    generator: torch.Generator | None
    masks: Mapping[str, Tensor] | None
    structure: Structure | None
    attention: Literal["heads", "head_dims"]
    inexact: bool
    reduction: Any
    normalize: bool | None
    progress: Progress | None


def is_default(sparsity: object) -> bool:
    """Whether an amount is that of a call that gives none."""
    return sparsity in (DEFAULT_AMOUNT, DEFAULT_AMOUNT.fraction)


def check(model: nn.Module, request: Request) -> None:
    """Raise `SparsewoodError` for what means nothing, or would be ignored."""
    require_model(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise SparsewoodError("A scripted model has no Python to shrink. Shrink the model that was scripted.")
    if request.structure is not None and not isinstance(request.structure, Structure):
        raise SparsewoodError(f"'structure' must be what trace returned. Got {type(request.structure).__name__}.")
    if request.data is not None and not reads_images(request.criterion):
        require_batches(request.data)
    if request.budget is not None:
        require_budget(request.budget)
    asked = {
        "sparsity": not is_default(request.sparsity),
        "budget": request.budget is not None,
        "masks": request.masks is not None,
    }
    given = [name for name, is_given in asked.items() if is_given]
    if len(given) > 1:
        raise SparsewoodError(f"Say what goes by one of sparsity, budget and masks. Got {' and '.join(given)}.")
    if request.masks is not None:
        _require_no_scores(request)


def _require_no_scores(request: Request) -> None:
    """Raise `SparsewoodError` for what says how units are scored, which masks make of no use."""
    given = {
        "criterion": request.criterion != Magnitude() and not reads_images(request.criterion),
        "scope": request.scope != Everywhere(),
        "reduction": request.reduction is not None,
        "normalize": request.normalize is not None,
    }
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise SparsewoodError(
            f"Masks say which units go, so that {' and '.join(names)} would be ignored. Leave out masks, or "
            f"{' and '.join(names)}."
        )
