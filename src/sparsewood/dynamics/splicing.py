"""Splicing: dynamic network surgery."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsewood.allocation import Everywhere
from sparsewood.allocation.budgets import Layer
from sparsewood.dynamics.base import Dynamics, Memory, Moment
from sparsewood.dynamics.choosing import highest, kept_by, require_curve
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.parameters import names_match
from sparsewood.schedules import Cubic
from sparsewood.types import Sparsity

__all__ = ["Splicing"]

logger = logging.getLogger(__name__)

MEAN, DEVIATION = "mean", "deviation"


@dataclass(frozen=True)
class Splicing(Dynamics):
    """Weights go when they are small, and come back when what they learned in the meantime is large.

        base = mean|w| + s std|w|            of each layer, measured once, before the first step
        a = lower base,  b = upper base
        mask = 0 where |w| < a;  as it was where a <= |w| < b;  1 where |w| >= b

    w are the dense weights, which all go on learning by the gradient at the masked network. With a `decay` above 0
    update t takes place with probability (1 + decay t)^-power, t in steps, so that the masks settle.

    No layer is emptied: its largest weight stays.

    How much goes in the end cannot be told from `s`. With `sparsity` instead, s is found anew in every update, one for
    all layers, so that exactly Cubic(sparsity) of the weights go: with u = |w| / lower for kept weights and |w| / upper
    for others, the rule above is mask = 1 where u >= base, so the weights with the largest (u - mean) / std stay. The
    last update always takes place, and hits the target.

    Args:
        s: one number, or one by layer name or pattern, for all layers (the first that fits); a larger one removes more.
        sparsity: the share to remove in the end. Then the weights of no layer may be all of one size at first.

    Source: Guo et al. 2016, "Dynamic Network Surgery for Efficient DNNs", https://arxiv.org/abs/1608.04493 (decay 1e-4,
    power 1 for LeNet).

    >>> Splicing(s=1.0).target, Splicing(sparsity=0.9).target
    (None, 0.9)
    """

    masked_learn: ClassVar[Literal["all", "kept"] | None] = "all"

    s: float | Mapping[str, float] | None = None
    sparsity: float | None = None
    lower: float = 0.9
    upper: float = 1.1
    decay: float = 0.0
    power: float = 1.0

    def require(self) -> None:
        if (self.s is None) == (self.sparsity is None):
            raise SparsewoodError(
                f"Splicing takes s or sparsity, one of them, as in Splicing(sparsity=0.9). Got s={self.s!r}, "
                f"sparsity={self.sparsity!r}."
            )
        if self.sparsity is not None:
            Sparsity(self.sparsity)
        given = self.s.values() if isinstance(self.s, Mapping) else [0.0 if self.s is None else self.s]
        if not all(isinstance(s, int | float) and math.isfinite(s) for s in given):
            raise SparsewoodError(f"Splicing: s is a finite number, or one by layer name or pattern. Got {self.s!r}.")
        if not 0 < self.lower <= self.upper:
            raise SparsewoodError(
                f"Splicing: 0 < lower <= upper, as in 0.9 and 1.1. Got {self.lower!r} and {self.upper!r}."
            )
        if self.decay < 0 or self.power < 0:
            raise SparsewoodError(
                f"Splicing: decay and power must be at least 0. Got {self.decay!r} and {self.power!r}."
            )

    def require_layers(self, layers: Sequence[Layer], steps: int) -> None:
        if self.sparsity is not None:
            require_curve(self, layers, Cubic(self.sparsity), len(self.times(steps)))
        if not isinstance(self.s, Mapping):
            return
        names = [name for layer in layers for name in (layer.name, *layer.aliases)]
        used = {self._key(layer) for layer in layers}
        for key in self.s:
            if not names_match(names, key):
                known = {name.rpartition(".")[0]: None for name in names if "." in name}
                raise UnknownName.among("layer in Splicing's s", key, [*names, *known])
            if key not in used:
                logger.warning("Splicing: s of %r is not used: keys before it take all of its layers.", key)

    @property
    def target(self) -> float | None:
        return self.sparsity

    def first(self, moment: Moment) -> dict[str, Tensor]:
        for name, weight in moment.weights.items():
            size = weight.abs()
            if self.sparsity is not None and weight.numel() and bool(size.amin() == size.amax()):
                raise SparsewoodError(
                    f"{self}: the weights of {name!r} are all of one size at the start, so that they have no spread by "
                    f"which to compete with other layers. Leave it out with exclude=[{name!r}], begin with other "
                    "weights, or use Splicing(s=...) or StraightThrough."
                )
        return super().first(moment)

    def remembered(self, moment: Moment) -> Memory:
        size = {name: weight.abs().double() for name, weight in moment.weights.items()}
        return {
            MEAN: {name: of.mean() for name, of in size.items()},
            DEVIATION: {name: of.std(correction=0) for name, of in size.items()},
        }

    def update(self, moment: Moment) -> dict[str, Tensor]:
        last = moment.step == self.times(moment.steps)[-1]
        if not (last and self.sparsity is not None) and not self._takes_place(moment):
            return dict(moment.masks)
        if self.sparsity is None:
            return {layer.name: self._spliced(moment, layer.name) for layer in moment.layers}
        mean, deviation = moment.memory[MEAN], moment.memory[DEVIATION]
        scores = {
            name: (self._size(moment, name) - mean[name].to(weight.device)) / deviation[name].to(weight.device)
            for name, weight in moment.weights.items()
        }
        share = Cubic(self.sparsity).at(self.progress(moment))
        return kept_by(scores, moment.layers, share, Everywhere())

    def base(self, moment: Moment, name: str) -> Tensor:
        """mean|w| + s std|w| of one layer, as it was at the start."""
        s = self._s(next(layer for layer in moment.layers if layer.name == name))
        base = moment.memory[MEAN][name] + s * moment.memory[DEVIATION][name]
        return base.to(moment.weights[name].device)

    def _spliced(self, moment: Moment, name: str) -> Tensor:
        size, base, mask = moment.weights[name].abs().double(), self.base(moment, name), moment.masks[name]
        found = (size >= self.upper * base) | (mask & (size >= self.lower * base))
        return found if bool(found.any()) else highest(name, size, 1)  # no layer is emptied

    def _size(self, moment: Moment, name: str) -> Tensor:
        size = moment.weights[name].abs().double()
        return torch.where(moment.masks[name], size / self.lower, size / self.upper)

    def _takes_place(self, moment: Moment) -> bool:
        drawn = float(torch.rand((), generator=moment.generator, dtype=torch.float64))
        return drawn < (1 + self.decay * moment.step) ** -self.power

    def _s(self, layer: Layer) -> float:
        if isinstance(self.s, Mapping):
            return self.s[self._key(layer)]
        assert self.s is not None
        return self.s

    def _key(self, layer: Layer) -> str:
        """The first one of `s` that means the layer."""
        assert isinstance(self.s, Mapping)
        for key in self.s:
            if names_match((layer.name, *layer.aliases), key):
                return key
        raise UnknownName(
            f"Splicing's s: none of {', '.join(map(repr, self.s))} means {layer.name!r}. Add it, or '*' for all "
            f"others, or leave it out with exclude=[{layer.name!r}]."
        )
