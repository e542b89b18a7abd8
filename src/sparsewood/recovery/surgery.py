"""Optimal brain surgeon: layer after layer is pruned, and what is left makes up for what went."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.algebra import round_half_even
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.masks import apply_masks, by_first_name
from sparsewood.parameters import Entry, choose, entries, names_match
from sparsewood.recovery.passes import call_order
from sparsewood.recovery.patches import unsolvable, users_of
from sparsewood.recovery.surgery_inputs import Inputs, gathered
from sparsewood.recovery.surgery_solvers import ExactSurgeon, Solver
from sparsewood.snapshot import untouched
from sparsewood.types import Masks, Sparsity

__all__ = ["LayerSurgery", "Surgery", "surgeon"]

logger = logging.getLogger(__name__)

_EXACT = ExactSurgeon()


@dataclass(frozen=True)
class LayerSurgery:
    """What went from a layer's weight, and by how much its outputs changed, as a share of their variance.

    sum |X (V - W)|^2 / sum |X W - mean X W|^2 over the `rows` that were drawn, W the weights as they were. `before`:
    V is W with zeros; `after`: V is what the layer has now. X comes from the network whose earlier layers are pruned.
    """

    removed: int
    total: int
    before: float
    after: float
    rows: int


@dataclass(frozen=True)
class Surgery:
    """The masks, what happened to each weight in the order in which layers run, and what was left alone, and why."""

    masks: Masks
    layers: Mapping[str, LayerSurgery]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [
            f"{name}: {one.removed:,} of {one.total:,} removed, error {one.before:.3g} -> {one.after:.3g}"
            for name, one in self.layers.items()
        ]
        return "\n".join([*lines, *(f"{name}: skipped, {why}" for name, why in self.skipped.items())])


def surgeon(
    model: nn.Module,
    data: Iterable[Any],
    *,
    sparsity: float | Mapping[str, float] | None = None,
    method: Solver = _EXACT,
    masks: Mapping[str, Tensor] | None = None,
    damp: float = 0.01,
    samples: int = 10,
    generator: torch.Generator | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Surgery:
    """Prune layers one by one and update the weights that are left so that each layer's outputs change least; in place.

        minimise over V with so many zeros:   tr (V - W) H (V - W)' / 2
        H = 2 / N sum x x' + damp * m I,      m the mean of the diagonal of the first term

    W [outputs, features] is the weight as a matrix, and x are the N inputs of its rows (of a convolution the patches),
    from the network whose earlier layers are pruned and updated already. Without damp this is the mean squared
    change of the outputs. Biases and normalisations stay; see `recalibrate`. No labels, no gradients.

    Args:
        data: batches that can be read again and again, a few hundred examples: tensors, `(inputs, target)`, or
            mappings of keyword inputs. For L layers they are read L times, each time up to the layer in question.
        sparsity: the share of each weight that goes, rounded half to even (below 1, at least one entry stays). A number
            is for all weights but the classifier, as in `prune`; a mapping for those that its keys, names or patterns
            of layers or weights, mean, the classifier too (exact names win, then the first that fits). None: `masks`
            say it all.
        method: `ExactSurgeon()`, `BlockSurgeon()` or `DiagonalSurgeon()`.
        masks: what these remove is removed, and counts as part of the amount. Weights that have a mask and no amount
            are only updated; what cannot be updated has its mask applied.
        damp: the more, the less is trusted to inputs that hardly vary.
        samples: positions of the output that are drawn from each example and call (all, if there are fewer).
        generator: draws the positions; by default one with seed 0.
        progress: is called before each layer with its weight's name, its number, from 1, and how many there are.

    Linear layers and convolutions are treated; convolutions in groups, transposed ones, shared weights, and layers that
    are not called as modules are skipped, with the reason. All is computed in float64; weights keep their type.

    Raises `SparsewoodError` for amounts that cannot be, data that are empty or are no batches, values that are not
    finite, and a Hessian without inverse (with `damp=0`); layers before the one in question are then pruned already.
    Raises `UnknownName` for names that mean nothing.

    Sources: LeCun et al. 1989, "Optimal Brain Damage"; Hassibi & Stork 1992, "Optimal Brain Surgeon"; Frantar &
    Alistarh 2022, https://arxiv.org/abs/2208.11580; Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
    >>> told = surgeon(layer, [torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])], sparsity=0.5, damp=0.0)
    >>> print(told)  # the inputs are alike, and the weight that stays takes over half of what the other did
    weight: 1 of 2 removed, error 0.429 -> 0.321
    >>> layer.weight.data, told.masks["weight"]
    (tensor([[3.5000, 0.0000]]), tensor([[ True, False]]))
    """
    _check(model, data, method, damp, samples)
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**62, (), generator=generator))
    given = by_first_name(model, masks or {})
    tasks, skipped = _planned(model, sparsity, given)
    with untouched(model):
        order = call_order(model, {name: task.entry.module for name, task in tasks.items()}, data)
    skipped |= {name: "it is not called as a module" for name in tasks if name not in order}
    others = {name: mask for name, mask in given.items() if name not in order}
    apply_masks(model, others)
    found, errors = dict(others), dict[str, LayerSurgery]()
    for number, (name, calls) in enumerate(order.items(), 1):
        if progress is not None:
            progress(name, number, len(order))
        inputs = gathered(model, tasks[name].entry, calls, data, samples, torch.Generator().manual_seed(seed))
        found[name], errors[name] = _operate(tasks[name], inputs, method, damp)
        logger.info("%s: error %.3g -> %.3g", name, errors[name].before, errors[name].after)
    return Surgery(Masks(found), errors, skipped)


def _check(model: nn.Module, data: object, method: object, damp: float, samples: int) -> None:
    require_model(model)
    if isinstance(data, Iterator):
        raise SparsewoodError("surgeon: data are read several times. Got an iterator; pass a list or a DataLoader.")
    if isinstance(method, type) or not callable(method):
        raise SparsewoodError(
            f"surgeon: method must be ExactSurgeon(), BlockSurgeon(), DiagonalSurgeon() or a function. Got {method!r}."
        )
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise SparsewoodError(f"surgeon: samples must be a whole number >= 1. Got {samples!r}.")
    if isinstance(damp, bool) or not isinstance(damp, int | float) or not 0 <= damp < math.inf:
        raise SparsewoodError(f"surgeon: damp must be a number >= 0. Got {damp!r}.")


# ---------------------------------------------------------------- what goes where


@dataclass(frozen=True, eq=False)
class _Task:
    """A weight, which of its entries may stay, and how many go in all."""

    entry: Entry
    may_stay: Tensor
    count: int


def _planned(
    model: nn.Module, sparsity: float | Mapping[str, float] | None, given: Mapping[str, Tensor]
) -> tuple[dict[str, _Task], dict[str, str]]:
    """What is to do in each layer that can be treated, and why others cannot."""
    if sparsity is None and not given:
        raise SparsewoodError("surgeon: how much should go? Pass sparsity=..., masks=..., or both.")
    amounts, users = _amounts(model, sparsity), users_of(model)
    tasks: dict[str, _Task] = {}
    skipped: dict[str, str] = {}
    for entry in entries(model):
        name = entry.name
        if name not in amounts and name not in given:
            continue
        why = "it is no weight of a layer" if entry.leaf != "weight" else unsolvable(entry.module, users)
        if not why and entry.groups > 1:
            why = f"its inputs are in {entry.groups} groups"
        if why:
            skipped[name] = why
        else:
            may_stay = given.get(name, torch.ones_like(entry.parameter, dtype=torch.bool))
            tasks[name] = _Task(entry, may_stay, _count(name, may_stay, amounts.get(name)))
    return tasks, skipped


def _amounts(model: nn.Module, sparsity: float | Mapping[str, float] | None) -> dict[str, float]:
    """The share of each weight that goes, by parameter name."""
    if sparsity is None:
        return {}
    if not isinstance(sparsity, Mapping):
        return {entry.name: Sparsity(sparsity).fraction for entry in choose(model)}
    amounts = {key: Sparsity(value).fraction for key, value in sparsity.items()}

    def of(entry: Entry) -> float:
        names = (entry.name, *entry.aliases)
        fitting = [key for key in amounts if names_match(names, key)]
        exact = [key for key in fitting if any(f"{name}.".startswith(f"{key}.") for name in names)]
        return amounts[max(exact, key=len) if exact else fitting[0]]

    return {entry.name: of(entry) for entry in choose(model, include=list(amounts))}


def _count(name: str, may_stay: Tensor, share: float | None) -> int:
    total, already = may_stay.numel(), int((~may_stay).count_nonzero())
    if share is None:
        return already
    asked = round_half_even(share * total)
    if share < 1:
        asked = max(0, min(asked, total - 1))
    if asked < already:
        raise SparsewoodError(
            f"surgeon: sparsity {share:g} of {name!r} removes {asked:,} of {total:,} weights, but the masks given have "
            f"removed {already:,}. Ask for at least {already / total:g}, or leave this layer to its mask."
        )
    return asked


# ---------------------------------------------------------------- one layer


@torch.no_grad()
def _operate(task: _Task, inputs: Inputs, method: Solver, damp: float) -> tuple[Tensor, LayerSurgery]:
    """Prune one layer, in place; its mask, and what it cost."""
    parameter, name = task.entry.parameter, task.entry.name
    weight = parameter.detach().flatten(1).double()
    if not bool(torch.isfinite(weight).all()):
        raise SparsewoodError(f"The weights of {name!r} are not finite. Check where they come from.")
    try:
        stays, new = method(weight, inputs.damped_hessian(damp), task.may_stay.flatten(1), task.count)
    except SparsewoodError as error:
        raise SparsewoodError(f"{name!r} cannot be pruned: {error}") from error
    new = torch.where(stays, new, 0.0).to(parameter.dtype)
    if not bool(torch.isfinite(new).all()):
        raise SparsewoodError(f"The new weights of {name!r} are not finite. Pass more data, or a larger damp.")
    before = inputs.share(weight, torch.where(stays, 0.0, -weight))
    after = inputs.share(weight, new.double() - weight)
    if not bool(stays.all()):
        parameter.copy_(new.reshape(parameter.shape))
    removed = int((~stays).count_nonzero())
    return stays.reshape(parameter.shape), LayerSurgery(removed, stays.numel(), before, after, inputs.count)
