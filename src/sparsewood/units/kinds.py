"""What one batch adds to the statistics of units: pure functions of what was seen, and how two results are joined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.units.seen import Seen

__all__ = [
    "AbsoluteFirstOrder",
    "AbsoluteMeanReplacement",
    "ActivationEnergy",
    "ActivationMaximum",
    "ActivationMean",
    "ActivationMinimum",
    "ClassSums",
    "Extremes",
    "FirstOrder",
    "MeanGradient",
    "SecondMoments",
    "SquaredFirstOrder",
    "UnitStatistic",
    "ZeroFraction",
]

Space = Literal["sum", "mean"]


class UnitStatistic(ABC):
    """One tensor for each site, by default a sum over examples; `kind` is its key in `UnitStatistics.sums`.

    `join` is associative: batches, and processes, may be joined in any grouping. `gradient` says whether it is made of
    gradients.
    """

    gradient: ClassVar[bool] = False

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @abstractmethod
    def of(self, seen: Seen) -> Tensor:
        """What a batch contributes."""

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """What two parts of the data come to together."""
        return first + second


# ---------------------------------------------------------------- activations


@dataclass(frozen=True)
class ActivationMean(UnitStatistic):
    """sum over examples of the mean over places of a_j: float64[units]."""

    @property
    def kind(self) -> str:
        return "mean"

    def of(self, seen: Seen) -> Tensor:
        return seen.mean.sum(0)


@dataclass(frozen=True)
class ActivationEnergy(UnitStatistic):
    """sum over examples of the mean over places of a_j^2: float64[units]."""

    @property
    def kind(self) -> str:
        return "energy"

    def of(self, seen: Seen) -> Tensor:
        return seen.energy.sum(0)


@dataclass(frozen=True)
class ZeroFraction(UnitStatistic):
    """sum over examples of the fraction of places at which a_j is exactly 0: float64[units]."""

    @property
    def kind(self) -> str:
        return "zeros"

    def of(self, seen: Seen) -> Tensor:
        return seen.zeros.sum(0)


@dataclass(frozen=True)
class ActivationMaximum(UnitStatistic):
    """The largest a_j of all examples and places: float64[units]."""

    @property
    def kind(self) -> str:
        return "maximum"

    def of(self, seen: Seen) -> Tensor:
        return seen.maximum.amax(0)

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.maximum(first, second)


@dataclass(frozen=True)
class ActivationMinimum(UnitStatistic):
    """The smallest a_j of all examples and places: float64[units]."""

    @property
    def kind(self) -> str:
        return "minimum"

    def of(self, seen: Seen) -> Tensor:
        return seen.minimum.amin(0)

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.minimum(first, second)


@dataclass(frozen=True)
class ClassSums(UnitStatistic):
    """Row k: the sum of the mean over places of a_j over the examples of class k, then how many there are.

    Shape: float64[classes, units + 1], the last column being the count. Targets are classes, int64[examples].
    """

    classes: int

    def __post_init__(self) -> None:
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 1:
            raise SparsewoodError(f"ClassSums needs the number of classes, a whole number >= 1. Got {self.classes!r}.")

    @property
    def kind(self) -> str:
        return f"class sums of {self.classes}"

    def of(self, seen: Seen) -> Tensor:
        labels = seen.target
        if not isinstance(labels, Tensor) or labels.shape != (seen.examples,) or labels.is_floating_point():
            got = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise SparsewoodError(
                f"Class means need a class for each of the {seen.examples} examples of a batch: whole numbers, "
                f"(inputs, classes). Got {got}."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise SparsewoodError(
                f"Classes are counted from 0 to {self.classes - 1}. Got {int(labels.min())} to {int(labels.max())}."
            )
        ones = seen.mean.new_ones(seen.examples, 1)
        total = seen.mean.new_zeros(self.classes, seen.site.columns + 1)
        return total.index_add_(0, labels.to(total.device, torch.int64), torch.cat([seen.mean, ones], 1))


@dataclass(frozen=True)
class Extremes(UnitStatistic):
    """The two largest means over places of a_j, and which examples have them: float64[4, units].

    Rows: largest, its example, second largest, its example. Examples are numbered from 0 in the order of the data (or
    as the pass that collects says); among equal ones the lower number counts. With one example the second largest is
    -inf, and its example -1.
    """

    @property
    def kind(self) -> str:
        return "extremes"

    def of(self, seen: Seen) -> Tensor:
        return self.of_numbers(seen.mean, seen.index)

    def of_numbers(self, numbers: Tensor, index: Tensor) -> Tensor:
        """The same of numbers [examples, units], when the examples have the numbers `index`, ascending."""
        index = index.to(numbers.device)
        best = numbers.amax(0)
        place = (numbers == best).to(torch.uint8).argmax(0)  # the first of equal ones
        rest = numbers.scatter(0, place.unsqueeze(0), -torch.inf)
        second = rest.amax(0)
        other = (rest == second).to(torch.uint8).argmax(0)
        found = torch.where(second.isinf(), -1.0, index[other].double())
        return torch.stack([best, index[place].double(), second, found])

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        swap = _comes_first(second[:2], first[:2])
        best, other = torch.where(swap, second, first), torch.where(swap, first, second)
        # The second largest is the loser's largest, or the winner's second largest.
        runner = torch.where(_comes_first(other[:2], best[2:]), other[:2], best[2:])
        return torch.cat([best[:2], runner])


def _comes_first(one: Tensor, other: Tensor) -> Tensor:
    """Whether (value, example) is the larger, or as large and of a lower number."""
    return (one[0] > other[0]) | ((one[0] == other[0]) & (one[1] < other[1]))


@dataclass(frozen=True)
class SecondMoments(UnitStatistic):
    """sum over examples of the mean over places of a_i a_j: float64[units, units]."""

    @property
    def kind(self) -> str:
        return "second moments"

    def of(self, seen: Seen) -> Tensor:
        maps = seen.maps.to(torch.promote_types(seen.maps.dtype, torch.float32))
        lines = maps.transpose(0, 1).flatten(1)
        return (lines @ lines.T).double() / maps.shape[2]


# ---------------------------------------------------------------- gradients


@dataclass(frozen=True)
class FirstOrder(UnitStatistic):
    """sum over examples of t_nj, t_nj = sum over places of -a_j g_j: float64[units].

    g is the gradient of the example's own loss, so t_nj is the first-order change of that loss when unit j becomes 0.
    With space="mean" it is divided by the number of places.
    """

    space: Space = "sum"
    gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)

    @property
    def kind(self) -> str:
        return f"first order, {self.space} over space"

    def of(self, seen: Seen) -> Tensor:
        return -_over(seen, seen.first_order, self.space).sum(0)


@dataclass(frozen=True)
class AbsoluteFirstOrder(UnitStatistic):
    """sum over examples of |t_nj|, t as in `FirstOrder`: float64[units]."""

    space: Space = "sum"
    gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)

    @property
    def kind(self) -> str:
        return f"absolute first order, {self.space} over space"

    def of(self, seen: Seen) -> Tensor:
        return _over(seen, seen.first_order, self.space).abs().sum(0)


@dataclass(frozen=True)
class SquaredFirstOrder(UnitStatistic):
    """sum over examples of t_nj^2, t as in `FirstOrder`: float64[units]."""

    space: Space = "sum"
    gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)

    @property
    def kind(self) -> str:
        return f"squared first order, {self.space} over space"

    def of(self, seen: Seen) -> Tensor:
        return _over(seen, seen.first_order, self.space).square().sum(0)


@dataclass(frozen=True)
class MeanGradient(UnitStatistic):
    """sum over examples of the sum over places of g_j (divided by their number with space="mean"): float64[units]."""

    space: Space = "sum"
    gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)

    @property
    def kind(self) -> str:
        return f"gradient, {self.space} over space"

    def of(self, seen: Seen) -> Tensor:
        return _over(seen, seen.gradient_sum, self.space).sum(0)


@dataclass(frozen=True)
class AbsoluteMeanReplacement(UnitStatistic):
    """sum over examples of |sum over places of (m_j - a_j) g_j|: float64[units].

    m_j is the mean of a_j over all data, from an earlier pass: `means[site]` is float64[units]. So the result does not
    depend on how the data are cut into batches.
    """

    means: Mapping[str, Tensor] = field(repr=False, compare=False)
    space: Space = "sum"
    gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)

    @property
    def kind(self) -> str:
        return f"absolute mean replacement, {self.space} over space"

    def of(self, seen: Seen) -> Tensor:
        return _over(seen, seen.about(self.means[seen.site.name]), self.space).abs().sum(0)


def _over(seen: Seen, sums: Tensor, space: Space) -> Tensor:
    return sums / seen.places if space == "mean" else sums


def require_space(space: object) -> None:
    """Raise `SparsewoodError` unless `space` is one of the two."""
    if space not in ("sum", "mean"):
        raise SparsewoodError(f"'space' must be 'sum' or 'mean', over the places of a unit. Got {space!r}.")
