"""Optimal brain surgeon for one matrix of weights: which entries go, and what the others become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError

__all__ = ["BlockSurgeon", "DiagonalSurgeon", "ExactSurgeon", "Solver"]

Solver = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""From the weights W float64[rows, d], the Hessian H float64[d, d] of each row's loss, which entries may stay,
bool[rows, d], and how many go in all (those that may not stay count): which stay, and the new W."""

_PANEL = 64
"""Removals of a row between two updates of its whole H^-1."""


@dataclass(frozen=True)
class DiagonalSurgeon:
    """Remove the entries with the smallest w_q^2 H_qq / 2 of the layer, and leave the others as they are.

    That is by how much the layer's error grows when w_q alone is removed. Optimal brain damage, with the error of the
    layer's outputs in the place of the network's loss. Of equal entries those of higher index go.

    Source: LeCun et al. 1989, "Optimal Brain Damage".

    >>> hessian = torch.tensor([[2.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    >>> weight = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> DiagonalSurgeon()(weight, hessian, torch.ones(2, 2, dtype=torch.bool), 2)[1]
    tensor([[3., 0.],
            [0., 2.]], dtype=torch.float64)
    """

    def __call__(self, weight: Tensor, hessian: Tensor, may_stay: Tensor, count: int) -> tuple[Tensor, Tensor]:
        saliency = weight.square() * hessian.diagonal() / 2
        stays = ~_smallest(saliency.masked_fill(~may_stay, -1.0), count)
        return stays, torch.where(stays, weight, 0.0)


@dataclass(frozen=True)
class ExactSurgeon:
    """Remove the entries one after another, each time the one of a row with the smallest w_q^2 / (2 [H^-1]_qq).

        w <- w - w_q / [H^-1]_qq * H^-1[:, q]        H^-1 <- H^-1 - H^-1[:, q] H^-1[q, :] / [H^-1]_qq

    Each row does so to its end, by itself. How many of a row's removals are carried out is decided for the layer at
    once: those with the smallest errors, where a removal counts as no cheaper than what the row removed before it. The
    weights that are left are then the best there are for these positions, w_S + H_SS^-1 H_SR w_R (S stays, R goes).
    Of equal ones those of higher index go.

    d^3 / 3 multiply-adds for each row, in panels of removals (the updates of H^-1 are a Cholesky decomposition of it,
    with pivots), and d^2 numbers for each of the `rows` that are treated at a time; the result does not depend on them.

    Sources: Hassibi & Stork 1992, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon"; Frantar &
    Alistarh 2022, "Optimal Brain Compression", https://arxiv.org/abs/2208.11580.

    >>> hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> weight = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    >>> ExactSurgeon()(weight, hessian, torch.ones(1, 2, dtype=torch.bool), 1)[1]
    tensor([[3.5000, 0.0000]], dtype=torch.float64)
    """

    rows: int = 16

    def __post_init__(self) -> None:
        _require_count("ExactSurgeon", "rows", self.rows)

    def __call__(self, weight: Tensor, hessian: Tensor, may_stay: Tensor, count: int) -> tuple[Tensor, Tensor]:
        stays = may_stay
        if count > int((~may_stay).count_nonzero()):
            inverse = _inverse(hessian)
            traces = [
                _trace(part, inverse, allowed)
                for part, allowed in zip(weight.split(self.rows), may_stay.split(self.rows), strict=True)
            ]
            order, losses = (torch.cat(parts) for parts in zip(*traces, strict=True))
            stays = _prefixes(order, losses, count)
        return stays, _refitted(weight, hessian, stays)


@dataclass(frozen=True)
class BlockSurgeon:
    """Go through the columns from left to right, and let those that follow make up for what is removed.

    With H^-1 = U' U, U upper triangular, an entry w_q that goes changes what follows in its row by
    -w_q / U_qq * U[q, q+1:]; columns that lie behind stay. Which entries go is decided at the start of each block of
    `columns`, among all rows: those with the smallest w_q^2 / (2 U_qq^2), as many as bring what has been removed to the
    share of the columns passed. Of equal ones those of higher index go. One decomposition for all rows: d^3 + rows d^2
    multiply-adds.

    Source: Frantar & Alistarh 2023, "SparseGPT", https://arxiv.org/abs/2301.00774.

    >>> hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> weight = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    >>> BlockSurgeon()(weight, hessian, torch.ones(1, 2, dtype=torch.bool), 1)[1]
    tensor([[0.0000, 3.5000]], dtype=torch.float64)
    """

    columns: int = 128

    def __post_init__(self) -> None:
        _require_count("BlockSurgeon", "columns", self.columns)

    def __call__(self, weight: Tensor, hessian: Tensor, may_stay: Tensor, count: int) -> tuple[Tensor, Tensor]:
        factor = torch.linalg.cholesky(_inverse(hessian), upper=True)
        free, removable = count - int((~may_stay).count_nonzero()), int(may_stay.count_nonzero())
        weight, stays, passed = weight.clone(), may_stay.clone(), 0
        for start in range(0, weight.shape[1], self.columns):
            stop = min(start + self.columns, weight.shape[1])
            allowed, own = may_stay[:, start:stop], factor[start:stop, start:stop]
            due = -(free * passed // max(1, removable))
            passed += int(allowed.count_nonzero())
            due += free * passed // max(1, removable) + int((~allowed).count_nonzero())
            saliency = weight[:, start:stop].square() / (2 * own.diagonal().square())
            stays[:, start:stop] = ~_smallest(saliency.masked_fill(~allowed, -1.0), due)
            errors = _sweep(weight[:, start:stop], own, stays[:, start:stop])
            weight[:, stop:] -= errors @ factor[start:stop, stop:]
        return stays, weight


def _sweep(weight: Tensor, factor: Tensor, stays: Tensor) -> Tensor:
    """Remove entries of a block of columns, in place; w_q / U_qq of those that went, 0 of the others."""
    errors = torch.zeros_like(weight)
    for q in range(weight.shape[1]):
        errors[:, q] = torch.where(stays[:, q], 0.0, weight[:, q] / factor[q, q])
        weight[:, q:] -= errors[:, q : q + 1] * factor[q, q:]
        weight[:, q].masked_fill_(~stays[:, q], 0.0)
    return errors


def _trace(weight: Tensor, inverse: Tensor, may_stay: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which each row loses its entries, int64[rows, d], and the error of each removal (-1: it must)."""
    rows, size = weight.shape
    here = torch.arange(rows, device=weight.device)
    weight, left = weight.clone(), inverse.repeat(rows, 1, 1)
    diagonal, names = inverse.diagonal().repeat(rows, 1), torch.arange(size, device=weight.device).repeat(rows, 1)
    limits = torch.finfo(weight.dtype)
    must, orders, losses = ~may_stay, [], []
    while size:
        width = min(_PANEL, size)
        done = torch.zeros_like(must)
        panel = weight.new_zeros(rows, width, size)
        for step in range(width):
            scores = (weight.square() / (2 * diagonal)).clamp(max=limits.max)
            scores = scores.masked_fill(must, -1.0).masked_fill(done, torch.inf)
            q = size - 1 - scores.flip(1).argmin(1)
            orders.append(names[here, q])
            losses.append(scores[here, q])
            above = panel[:, :step]
            column = left[here, q] - (above[here, :, q].unsqueeze(1) @ above).squeeze(1)
            done[here, q] = True
            pivot = diagonal[here, q].sqrt().unsqueeze(1)
            # What is gone stays gone, and 0, whatever is rounded.
            column = (column / pivot).masked_fill(done, 0.0)
            weight = (weight - weight[here, q].unsqueeze(1) / pivot * column).masked_fill(done, 0.0)
            diagonal = (diagonal - column.square()).clamp(min=limits.tiny)
            panel[:, step] = column
        size -= width
        kept = (~done).nonzero()[:, 1].reshape(rows, size)
        weight, diagonal, must, names = (x.gather(1, kept) for x in (weight, diagonal, must, names))
        left = _without(left, panel, kept)
    return torch.stack(orders, 1), torch.stack(losses, 1)


def _without(left: Tensor, panel: Tensor, kept: Tensor) -> Tensor:
    """left - panel' panel for each row, at the positions that are kept, int64[rows, kept]; in the memory of `left`."""
    size = kept.shape[1]
    smaller = left.flatten(1)[:, : size * size].unflatten(1, (size, size))
    for before, after, stay in zip(left, smaller, kept, strict=True):
        after.copy_(before.index_select(0, stay).index_select(1, stay))
    panel = panel.gather(2, kept.unsqueeze(1).expand(-1, panel.shape[1], -1))
    return smaller.baddbmm_(panel.mT, panel, alpha=-1)


def _prefixes(order: Tensor, losses: Tensor, count: int) -> Tensor:
    """Which entries stay when, of all rows, the `count` cheapest removals are carried out, each row's in its order."""
    rows, size = order.shape
    # A removal costs no less than those that must come before it, so that the cheapest are the first ones of each row.
    costs = losses.cummax(1).values.flip(0)
    chosen = costs.flatten().argsort(stable=True)[:count]
    goes = torch.zeros(rows * size, dtype=torch.bool, device=order.device)
    goes[chosen] = True
    goes = goes.reshape(rows, size).flip(0)
    return ~torch.zeros_like(goes).scatter_(1, order, goes)


def _refitted(weight: Tensor, hessian: Tensor, stays: Tensor) -> Tensor:
    """The weights with zeros where they do not stay that minimise (v - w)' H (v - w), row by row."""
    result = torch.where(stays, weight, 0.0)
    for row, (old, alive) in enumerate(zip(weight, stays, strict=True)):
        gone = (~alive & (old != 0)).nonzero().flatten()
        left = alive.nonzero().flatten()
        if len(gone) and len(left):
            pull = hessian[left][:, gone] @ old[gone]
            factor = _factor(hessian[left][:, left])
            result[row, left] += torch.cholesky_solve(pull.unsqueeze(1), factor).squeeze(1)
    return result


def _smallest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` smallest of all scores; of equal ones those of higher index."""
    chosen = scores.flatten().flip(0).argsort(stable=True)[:count]
    found = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    found[chosen] = True
    return found.flip(0).reshape(scores.shape)


def _inverse(hessian: Tensor) -> Tensor:
    return torch.cholesky_inverse(_factor(hessian))


def _factor(hessian: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(hessian)
    ends = factor.diagonal()
    if failed or not float(ends.min()) > 1e-7 * float(ends.max()):
        raise SparsewoodError(
            "the Hessian of its inputs has no inverse: some inputs are sums of others, or there are fewer rows of data "
            "than inputs. Pass more data, or a larger damp (0.01 is the default)."
        )
    return factor


def _require_count(kind: str, name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SparsewoodError(f"{kind}: {name} must be a whole number >= 1. Got {value!r}.")
