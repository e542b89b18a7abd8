"""What a criterion of units is: a rule that gives every unit of a structure a score, higher = keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.units.collecting import UnitStatistics, collect_units
from sparsewood.units.kinds import UnitStatistic

__all__ = [
    "SiteCriterion",
    "UnitCriterion",
    "Wrapper",
    "needs_data",
    "reads_images",
    "require_criterion",
    "require_form",
]


class UnitCriterion(ABC):
    """A rule that scores units: for every group of the structure that it can score float64[units], higher = keep.

    Derive a frozen dataclass, with the formula and the source in its docstring, and name it in `__all__` of
    `sparsewood.unit_criteria`. `reads_data` and `reads_loss` say what it needs; `reads_images` that it takes images,
    a `Part` or float[n, c, h, w] in [0, 1], rather than batches, since it augments them itself.

    Scores compete with those of other groups as they are. Those that are made of weights alone should therefore be
    relative to the weights of their layer, as those of `FilterNorm` are.
    """

    reads_data: ClassVar[bool] = True
    reads_loss: ClassVar[bool] = False
    reads_images: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]: ...

    def require(self, data: object, loss: object) -> None:
        """Raise `SparsewoodError` if what this criterion reads is missing."""
        name = type(self).__name__
        if self.reads_data and data is None:
            what = "images (a Part, or float[n, c, h, w] in [0, 1])" if self.reads_images else "batches of inputs"
            raise SparsewoodError(f"{name} needs data: pass data=..., {what}.")
        if self.reads_loss and loss is None:
            raise SparsewoodError(
                f"{name} needs a loss: pass loss=..., for example torch.nn.functional.cross_entropy for logits."
            )


class SiteCriterion(UnitCriterion):
    """A criterion made of statistics of activations or of their gradients, at the sites where units are seen.

    `scores` makes float64[units] of what was collected at one site; a unit that is seen at several sites has their
    mean, sum or maximum (`combine`).
    """

    combine: ClassVar[Literal["mean", "sum", "max"]] = "mean"

    @property
    @abstractmethod
    def needs(self) -> tuple[UnitStatistic, ...]:
        """The statistics that `scores` reads."""

    @abstractmethod
    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        """float64[units] of one site, from what was collected there by kind, over so many examples."""

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,  # noqa: ARG002 - criteria that draw use it
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        assert data is not None
        return self.of(collect_units(model, data, self.needs, loss, structure=structure))

    def of(self, statistics: UnitStatistics) -> dict[str, Tensor]:
        """Scores of every group from statistics that hold what this criterion needs."""
        return statistics.of_groups(self.at_sites(statistics), self.combine)

    def at_sites(self, statistics: UnitStatistics) -> dict[str, Tensor]:
        """Scores of the units seen at every site."""
        kinds = [one.kind for one in self.needs]
        sites = statistics.sums[kinds[0]]
        return {
            name: self.scores({kind: statistics.sums[kind][name].cpu() for kind in kinds}, statistics.samples)
            for name in sites
        }


class Wrapper(UnitCriterion):
    """A criterion that changes the scores of another one, which is its field `criterion`, and reads what that reads."""

    criterion: UnitCriterion

    @property
    def reads_data(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the criterion reads data."""
        return self.criterion.reads_data

    @property
    def reads_loss(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the criterion reads a loss."""
        return self.criterion.reads_loss

    @property
    def reads_images(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the criterion takes images that it augments itself."""
        return self.criterion.reads_images

    @abstractmethod
    def changed(self, structure: Structure, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What becomes of the other criterion's scores."""

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        return self.changed(structure, self.criterion(model, structure, data=data, loss=loss, generator=generator))


def require_criterion(wrapper: Wrapper) -> None:
    """Raise `SparsewoodError` unless what `wrapper` changes the scores of is a criterion of units."""
    if not isinstance(wrapper.criterion, UnitCriterion):
        raise SparsewoodError(
            f"{type(wrapper).__name__} takes a criterion of units, for example TaylorRemoval(). "
            f"Got {wrapper.criterion!r}."
        )


def require_form(form: object) -> None:
    """Raise `SparsewoodError` unless `form` says whether absolute values are taken."""
    if form not in ("absolute", "signed"):
        raise SparsewoodError(f"'form' must be 'absolute' or 'signed'. Got {form!r}.")


def needs_data(criterion: object) -> bool:
    """Whether a criterion, of weights or of units, reads data; not known of other callables: those are given them."""
    if isinstance(criterion, UnitCriterion):
        return criterion.reads_data
    return bool(criterion.needs) if isinstance(criterion, Criterion) else True


def reads_images(criterion: object) -> bool:
    """Whether a criterion takes images that it augments itself, rather than batches."""
    return isinstance(criterion, UnitCriterion) and criterion.reads_images
