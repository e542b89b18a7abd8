"""Exact choices among tensors of scores, by the library's one rule: equal scores are decided by position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from sparsewood.algebra import round_half_even
from sparsewood.allocation import ERK, Everywhere, PerLayer, Uniform
from sparsewood.allocation.budgets import Layer
from sparsewood.allocation.scopes import Pool, Request
from sparsewood.allocation.select import select
from sparsewood.errors import SparsewoodError
from sparsewood.schedules.shares import Curve
from sparsewood.types import Sparsity

__all__ = ["REMOVED", "counts", "highest", "kept_by", "require_curve", "require_scope", "require_sparsity"]

REMOVED = -math.inf


@dataclass(frozen=True, eq=False)
class _Scores:
    """One tensor's scores; -inf is out of the question."""

    name: str
    values: Tensor

    @property
    def units(self) -> int:
        return self.values.numel()

    @property
    def alive(self) -> int:
        return int((self.values > REMOVED).count_nonzero())

    @property
    def device(self) -> torch.device:
        return self.values.device

    def chunks(self) -> Iterator[Tensor]:
        yield self.values

    def sample(self, count: int) -> Tensor:
        return self.values[:: max(1, self.units // max(count, 1))]


def kept_by(
    scores: Mapping[str, Tensor], layers: Sequence[Layer], sparsity: float, scope: Everywhere | PerLayer
) -> dict[str, Tensor]:
    """Masks of the highest scores, so that exactly the share `sparsity` goes, in pools by `scope`.

    >>> from torch import nn
    >>> layers = [Layer("a", (), (1, 2), 2, 1, nn.Linear), Layer("b", (), (1, 2), 2, 1, nn.Linear)]
    >>> scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}
    >>> kept_by(scores, layers, 0.5, Everywhere())
    {'a': tensor([[False,  True]]), 'b': tensor([[False,  True]])}

    (Every layer keeps at least its floor, here 1.)
    """
    masks: dict[str, Tensor] = {}
    for pool in _pools(layers, sparsity, scope):
        chosen = [layers[i] for i in pool.members]
        found = select(_all_scores([(layer.name, scores[layer.name]) for layer in chosen]), pool.keep, pool.floors)
        masks |= {layer.name: mask.view_as(scores[layer.name]) for layer, mask in zip(chosen, found, strict=True)}
    return {layer.name: masks[layer.name] for layer in layers}


def counts(layers: Sequence[Layer], sparsity: float, scope: PerLayer) -> dict[str, int]:
    """How many weights each layer keeps, so that exactly the share `sparsity` of all goes."""
    return {layers[pool.members[0]].name: pool.keep for pool in _pools(layers, sparsity, scope)}


def highest(name: str, scores: Tensor, keep: int) -> Tensor:
    """The mask of the `keep` highest scores of one tensor.

    >>> highest("a", torch.tensor([1.0, 3.0, 3.0]), 1)
    tensor([False,  True, False])
    """
    (mask,) = select(_all_scores([(name, scores)]), keep)
    return mask.view_as(scores)


def require_scope(who: object, scope: object) -> None:
    """Raise `SparsewoodError` for a scope other than all weights, or each layer with a share of the total."""
    by_shape = isinstance(scope, PerLayer) and isinstance(scope.allocation, ERK | Uniform)
    if not isinstance(scope, Everywhere) and not by_shape:
        raise SparsewoodError(
            f"{type(who).__name__}: scope must be Everywhere(), or PerLayer() with Uniform() or ERK(). Got {scope!r}."
        )


def require_curve(who: object, layers: Sequence[Layer], curve: Curve, updates: int) -> None:
    """Raise `SparsewoodError` if layers would be emptied at one of so many updates along `curve`."""
    for i in range(updates):
        require_sparsity(who, layers, curve.at((i + 1) / updates), f" at update {i + 1} of {updates}")


def require_sparsity(who: object, layers: Sequence[Layer], sparsity: float, when: str = "") -> None:
    """Raise `SparsewoodError` if layers would be emptied, unless all that there is shall go."""
    total, least = sum(layer.units for layer in layers), sum(layer.floor for layer in layers)
    kept = total - round_half_even(sparsity * total)
    if kept < least and sparsity < 1:
        raise SparsewoodError(
            f"{who}: sparsity {sparsity:g}{when} would keep {kept:,} of {total:,} weights of {len(layers)} parameters, "
            f"but {least:,} must stay so that none is emptied. Ask for less, or leave some out with exclude=[...]."
        )


def _pools(layers: Sequence[Layer], sparsity: float, scope: Everywhere | PerLayer) -> list[Pool]:
    request = Request(tuple(layers), Sparsity(sparsity), _not_asked, _not_asked, _not_asked)
    return scope.pools(request)


def _not_asked(*_: object) -> NoReturn:
    raise SparsewoodError("While a network trains, scopes must share out the total by shape: Uniform() or ERK().")


def _all_scores(named: Sequence[tuple[str, Tensor]]) -> list[_Scores]:
    wide = torch.float64 if any(values.dtype == torch.float64 for _, values in named) else torch.float32
    found = [_Scores(name, values.detach().to(wide).reshape(-1)) for name, values in named]
    for scores in found:
        # -inf marks what is out of the question; all else must be comparable.
        if bool((scores.values.isnan() | scores.values.isposinf()).any()):
            raise SparsewoodError(f"Some scores of {scores.name} are NaN or infinite: the training has diverged.")
    return found
