"""Which weights are shared, and how many values each may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import Entry, Selector, Selectors, choose, matches

__all__ = ["Limit", "Number", "limits_of"]

Number = int | Mapping[Selector, int]
"""How many, for all weights, or for those that names, patterns, classes or modules mean."""

_MOST_BITS = 16


@dataclass(frozen=True, eq=False)
class Limit:
    """A weight, and how many values it may have: so many `clusters`, or so many in all by `bits`."""

    entry: Entry
    kind: Literal["clusters", "bits"]
    number: int

    def clusters(self, has_zeros: bool) -> int:
        """How many values other than 0."""
        return self.number if self.kind == "clusters" else 2**self.number - int(has_zeros)


def limits_of(
    model: nn.Module,
    clusters: Number | None,
    bits: Number | None,
    include: Selectors | None,
    exclude: Selectors | None,
) -> list[Limit]:
    """What each weight that is meant may have; raises as `share_weights` does."""
    if (clusters is None) == (bits is None):
        raise SparsewoodError(
            "share_weights: how many values may a weight have? Pass clusters=k (k values other than 0) or bits=b (2^b "
            f"in all), not both. Got clusters={clusters!r}, bits={bits!r}."
        )
    kind, number = ("clusters", clusters) if bits is None else ("bits", bits)
    if not isinstance(number, Mapping):
        checked = _checked(kind, number)
        return [Limit(entry, kind, checked) for entry in _chosen(model, include, exclude)]
    if include is not None:
        raise SparsewoodError(f"share_weights: {kind} names the weights already. Leave out include, or pass a number.")
    numbers = {key: _checked(kind, value) for key, value in number.items()}
    return [Limit(entry, kind, _meant(entry, numbers)) for entry in _chosen(model, list(numbers), exclude)]


def _chosen(model: nn.Module, include: Selectors | None, exclude: Selectors | None) -> list[Entry]:
    """Those that pruning would take, with the classifier; biases only by their own names."""
    if include is not None and not isinstance(include, str | type | nn.Module):
        include = list(include)
    chosen = choose(model, include=include, exclude=exclude, protect_classifier=False, action="share")
    named = include if isinstance(include, list) else [include]
    shared = [e for e in chosen if e.leaf != "bias" or any(name in named for name in (e.name, *e.aliases))]
    if not shared:
        raise SparsewoodError(
            f"Nothing to share in {type(model).__name__}: only biases were chosen. Name each by its own name."
        )
    return shared


def _checked(kind: str, number: object) -> int:
    most = _MOST_BITS if kind == "bits" else None
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not isinstance(number, int) or not whole or number < 1 or (most is not None and number > most):
        expected = "a whole number >= 1" if most is None else f"a whole number from 1 to {most}"
        raise SparsewoodError(f"share_weights: {kind} must be {expected}, or a mapping to such. Got {number!r}.")
    return number


def _meant(entry: Entry, numbers: Mapping[Selector, int]) -> int:
    names = (entry.name, *entry.aliases)
    fitting = [key for key in numbers if matches(entry, key)]
    exact = [k for k in fitting if isinstance(k, str) and any(f"{name}.".startswith(f"{k}.") for name in names)]
    return numbers[max(exact, key=len) if exact else fitting[0]]
