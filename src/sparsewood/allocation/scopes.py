"""Scopes: the pools in which scores compete, and how much each pool keeps."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from sparsewood.algebra import Integers, apportion
from sparsewood.allocation.budgets import Layer, total_kept
from sparsewood.allocation.erk import ERK
from sparsewood.allocation.lamp import LAMP
from sparsewood.allocation.uniform import Uniform
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.types import Amount, AmountLike, Threshold, as_amount

logger = logging.getLogger(__name__)

Finder = Callable[[object], list[int]]
Amounts = Mapping[str | type[nn.Module], AmountLike | None]


@dataclass(frozen=True)
class Pool:
    """Layers whose units compete, and how many of these stay.

    `floors` holds for each member; with `by_row` the units of the (one) member compete only within the rows of its
    grid, which share `keep` evenly.
    """

    members: tuple[int, ...]
    keep: int
    floors: tuple[int, ...]
    by_row: bool = False


@dataclass(frozen=True)
class Request:
    """What a scope is asked to divide.

    `find(selector)` gives the indices of the layers that a name, pattern or class means; `lamp_shares(keep)` the units
    that a global selection by LAMP score would leave in each layer; `above(i, value)` how many units of layer i score
    at least `value`.
    """

    layers: tuple[Layer, ...]
    amount: Amount
    find: Finder
    lamp_shares: Callable[[int], Integers]
    above: Callable[[int, float], int]


class Scope(ABC):
    """The pool in which scores compete."""

    @property
    def own_amounts(self) -> Amounts | None:
        """The amounts by name or class that this scope carries; None if its pools share the amount asked for."""
        return None

    @property
    def shares_total(self) -> bool:
        """Whether the pools together keep the amount that was asked for."""
        return self.own_amounts is None

    @abstractmethod
    def pools(self, request: Request) -> list[Pool]:
        """Disjoint pools; layers in no pool stay as they are."""


@dataclass(frozen=True)
class Everywhere(Scope):
    """All units of all chosen parameters compete: global pruning. Only the total is fixed.

    >>> Everywhere()
    Everywhere()
    """

    def pools(self, request: Request) -> list[Pool]:
        return _pools(range(len(request.layers)), request, request.amount)


@dataclass(frozen=True)
class PerLayer(Scope):
    """Units compete within their own parameter.

    `allocation` says how much each layer keeps: `Uniform()`, `ERK()` or `LAMP()` share out the total that was asked for
    (exactly: largest remainder); a mapping from name, pattern or module class to an amount gives each layer it means
    that amount of its own, rounded in each layer, and leaves the others as they are (None = the amount asked for). A
    count of as many units as a layer has, or more, was asked for by number and takes them all, whatever `min_units`.

    >>> PerLayer({"conv*": 0.2, "fc1": 0.4}).allocation
    {'conv*': 0.2, 'fc1': 0.4}
    """

    allocation: Uniform | ERK | LAMP | Amounts = Uniform()

    def __post_init__(self) -> None:
        if not isinstance(self.allocation, Mapping | LAMP) and not callable(getattr(self.allocation, "weights", None)):
            raise SparsewoodError(
                "PerLayer takes Uniform(), ERK(), sparsewood.allocation.LAMP() or a mapping from names to amounts. "
                f"Got {self.allocation!r}."
            )

    @property
    def own_amounts(self) -> Amounts | None:
        return self.allocation if isinstance(self.allocation, Mapping) else None

    def pools(self, request: Request) -> list[Pool]:
        if isinstance(self.allocation, Mapping):
            assigned = [([i], amount) for members, amount in _assign(self.allocation, request) for i in members]
            return [pool for one, amount in assigned for pool in _pools(one, request, amount, clamp=True)]
        kept = _share(self.allocation, request)
        return [Pool((i,), int(keep), (0,)) for i, keep in enumerate(kept)]


@dataclass(frozen=True)
class PerType(Scope):
    """Units compete among layers of the same class: all convolutions, all linear layers ...

    With `amounts`, a mapping from class (or class name) to an amount, classes that are not named stay as they are.
    Without, every class keeps the same share of the total.
    """

    amounts: Amounts | None = None

    def __post_init__(self) -> None:
        if self.amounts is not None and not isinstance(self.amounts, Mapping):
            raise SparsewoodError(f"PerType takes a mapping from classes to amounts. Got {self.amounts!r}.")

    @property
    def own_amounts(self) -> Amounts | None:
        return self.amounts

    def pools(self, request: Request) -> list[Pool]:
        layers = request.layers
        if self.amounts is None:
            return _same_share(request, [layer.owner for layer in layers])
        _require_keys(self.amounts)
        pools, taken = list[Pool](), set[int]()
        for kind, amount in self.amounts.items():
            fitting = [i for i, layer in enumerate(layers) if _is_kind(layer.owner, kind)]
            if not fitting:
                shown = kind if isinstance(kind, str) else kind.__name__
                raise UnknownName.among("layer type", shown, sorted({layer.owner.__name__ for layer in layers}))
            members = [i for i in fitting if i not in taken]
            if not members:
                _warn_shadowed(kind)
                continue
            taken.update(members)
            pools += _pools(members, request, request.amount if amount is None else as_amount(amount))
        return pools


@dataclass(frozen=True)
class Isomorphic(Scope):
    """Units compete among layers of equal shape, as the repeated blocks of a network have them.

    Every set of equal layers keeps the same share of the total, so that nothing is compared across shapes, where scores
    of different scale meet. Layers are equal that agree in class and grid; groups of coupled units if they own equally
    many positions along the same axes of equally shaped tensors.

    Source: Fang et al. 2024, "Isomorphic Pruning for Vision Models", https://arxiv.org/abs/2407.04616 (there blocks of
    other widths are equal, too).

    >>> Isomorphic()
    Isomorphic()
    """

    def pools(self, request: Request) -> list[Pool]:
        return _same_share(request, [layer.kind or (layer.owner, layer.grid) for layer in request.layers])


@dataclass(frozen=True)
class PerRow(Scope):
    """Units compete within the row of one output: every row keeps the same share, to within one unit.

    A row is an index along axis 0 of the weight (axis 1 in transposed convolutions). What does not divide evenly goes
    to the rows whose next unit scores highest. Layers share the total like `Uniform`.
    Wanda's scope (Sun et al. 2023, https://arxiv.org/abs/2306.11695).
    """

    def pools(self, request: Request) -> list[Pool]:
        kept = _share(Uniform(), request)
        return [Pool((i,), int(keep), (0,), by_row=True) for i, keep in enumerate(kept)]


@dataclass(frozen=True)
class Named(Scope):
    """One pool for each key of `amounts`: the parameters that a name, pattern or module class means compete together.

    A plain mapping given as scope means this. Values are amounts (None = the amount asked for); parameters that no key
    means stay as they are.
    """

    amounts: Amounts

    @property
    def own_amounts(self) -> Amounts | None:
        return self.amounts

    def pools(self, request: Request) -> list[Pool]:
        return [pool for members, amount in _assign(self.amounts, request) for pool in _pools(members, request, amount)]


def as_scope(scope: Scope | Amounts) -> Scope:
    """A mapping is `Named`; scopes pass through."""
    if isinstance(scope, Scope):
        return scope
    if isinstance(scope, Mapping):
        return Named(scope)
    raise SparsewoodError(
        "scope must be Everywhere(), PerLayer(), PerType(), Isomorphic(), PerRow() or a mapping of names to amounts. "
        f"Got {scope!r}."
    )


def _pools(members: Sequence[int] | range, request: Request, amount: Amount, *, clamp: bool = False) -> list[Pool]:
    """One pool of all members; for a threshold, which is decided unit by unit, one for each."""
    if isinstance(amount, Threshold):
        return threshold_pools(members, request, amount)
    chosen = [request.layers[i] for i in members]
    keep = total_kept(amount, chosen, clamp=clamp)
    return [Pool(tuple(members), keep, tuple(layer.floor if keep else 0 for layer in chosen))]


def _same_share(request: Request, kinds: Sequence[Hashable]) -> list[Pool]:
    """A pool for each kind of layer; the total is shared out in proportion to their units, exactly."""
    by_kind: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(i)
    groups = [[request.layers[i] for i in members] for members in by_kind.values()]
    total = total_kept(request.amount, request.layers)
    kept = apportion(
        total,
        np.array([sum(layer.units for layer in group) for group in groups]),
        _floors([sum(layer.floor for layer in group) for group in groups], total),
        np.array([sum(layer.alive for layer in group) for group in groups]),
    )
    floors = [tuple(layer.floor if total else 0 for layer in group) for group in groups]
    members = [tuple(indices) for indices in by_kind.values()]
    return [Pool(m, int(k), f) for m, k, f in zip(members, kept, floors, strict=True)]


def threshold_pools(members: Sequence[int] | range, request: Request, amount: Threshold) -> list[Pool]:
    """Each member by itself, with the units that score at least `amount.value`, or its floor if that is more.

    Whatever scores compete with one another, these are the ones that stay: so a threshold goes with every scope.
    """
    pools = []
    for i in members:
        layer, above = request.layers[i], request.above(i, amount.value)
        if above < layer.floor:
            logger.warning(
                "%s leaves %d of %d units of %s; the best %d stay (min_units).",
                amount, above, layer.units, layer.name, layer.floor,
            )  # fmt: skip
        pools.append(Pool((i,), max(above, layer.floor), (0,)))
    return pools


def _assign(amounts: Amounts, request: Request) -> list[tuple[list[int], Amount]]:
    """The layers each key means.

    The name of a parameter, or of the closest module around it, wins over patterns and classes; of these the first that
    fits wins.
    """
    _require_keys(amounts)
    members: dict[object, list[int]] = {key: [] for key in amounts}
    found = {key: set(request.find(key)) for key in amounts}
    for i, layer in enumerate(request.layers):
        fitting = [key for key in amounts if i in found[key]]
        if fitting:
            members[max(fitting, key=lambda key: _closeness(key, layer))].append(i)
    for key in amounts:
        if not members[key]:
            _warn_shadowed(key)
    return [
        (members[key], request.amount if amount is None else as_amount(amount))
        for key, amount in amounts.items()
        if members[key]
    ]


def _closeness(key: object, layer: Layer) -> float:
    """What share of one of the parameter's names the key spells out; 0 for patterns and classes."""
    names = (layer.name, *layer.aliases)
    fitting = [name for name in names if isinstance(key, str) and f"{name}.".startswith(f"{key}.")]
    return max((len(str(key)) / len(name) for name in fitting), default=0.0)


def _require_keys(amounts: Mapping[Any, Any]) -> None:
    if not amounts:
        raise SparsewoodError("The mapping to amounts is empty. Name at least one layer, pattern or class.")


def _warn_shadowed(key: object) -> None:
    shown = key.__name__ if isinstance(key, type) else key
    logger.warning("The amount for %s is not used: other keys take all of its parameters.", shown)


def _is_kind(owner: type[nn.Module], kind: type[nn.Module] | str) -> bool:
    if isinstance(kind, str):
        return any(base.__name__ == kind for base in owner.__mro__)
    return issubclass(owner, kind)


def _share(allocation: Uniform | ERK | LAMP, request: Request) -> Integers:
    """Units kept in each layer: the total, shared out exactly within what is left and the floors."""
    layers = request.layers
    total = total_kept(request.amount, layers)
    if isinstance(allocation, LAMP):
        return request.lamp_shares(total)
    low = _floors([layer.floor for layer in layers], total)
    return apportion(total, allocation.weights(layers), low, np.array([layer.alive for layer in layers]))


def _floors(floors: Sequence[int], total: int) -> Integers:
    return np.array(floors if total else [0] * len(floors), dtype=np.int64)
