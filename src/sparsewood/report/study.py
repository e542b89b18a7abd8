"""What a report is made of: the numbers of many trained networks, and what was noted about each, as plain values.

A `Study` is gathered from directories (`run.gather`); the page, the figures and `report.json` are made of it alone, so
that whoever has other numbers can make one and get the same report. Accuracies, densities and sparsities are fractions
in [0, 1], latencies milliseconds, sizes numbers of entries or bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "BoxState",
    "Difference",
    "Failure",
    "Histogram",
    "Item",
    "LayerSparsity",
    "Memorization",
    "NetworkPicture",
    "Overlap",
    "Row",
    "SensitivityCurve",
    "Study",
    "TrainingCurve",
    "UnitMap",
]

Role = Literal["method", "control"]


@dataclass(frozen=True)
class Row:
    """One network that was trained and evaluated.

    Args:
        problem: data set and model, as "digits, small_conv".
        method: what it is called in tables; "dense" for the network that is not pruned.
        role: whether it is compared, or is what others are compared with.
        of: the method that a control belongs to; "" if it belongs to all.
        amount: the compression that was asked for (all prunable weights / those kept), 1 for dense networks.
        accuracy, accuracy5: on test data, of the first and among the first five; None where five are all classes.
        before: accuracy of the pruned network before it was trained on; None where nothing was pruned.
        validation: accuracy on validation data; None without such data.
        compression, speedup: real ones: parameters / non-zero ones, multiply-adds / those of non-zero weights.
        bytes: of the packed file. latency: of one example, milliseconds; latency_ratio: of the dense network over it,
            measured in turn; None where it was not measured.
        recipe: what was done, as YAML that a person reads. hash: of the cell.
    """

    problem: str
    method: str
    role: Role
    of: str
    amount: float
    seed: int
    accuracy: float
    accuracy5: float | None
    before: float | None
    validation: float | None
    train_accuracy: float | None
    compression: float
    speedup: float
    size: int
    size_nz: int
    flops: int
    flops_nz: int
    bytes: int | None
    latency: float | None
    latency_ratio: float | None
    seconds: float
    recipe: str
    hash: str


@dataclass(frozen=True)
class Failure:
    """A network that there is none of, and why: what is said to be missing from a table."""

    problem: str
    method: str
    amount: float
    seed: int
    error: str


@dataclass(frozen=True)
class Item:
    """One item of the reporting checklist of Blalock et al. 2020 (https://arxiv.org/abs/2003.03033).

    `value` is what the study has for it, None if that is missing; `reason` says what is missing and how to get it.
    """

    section: str
    name: str
    question: str
    value: object
    reason: str = ""

    @property
    def there(self) -> bool:
        """Whether the study has it."""
        return self.value is not None


@dataclass(frozen=True)
class Difference:
    """Accuracy of a method less that of a control, of the same seeds, in percentage points.

    `low` and `high` bound the mean with 95 % confidence (Student's t over `pairs` paired differences); None for a
    single pair.
    """

    problem: str
    method: str
    control: str
    amount: float
    pairs: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LayerSparsity:
    """What is left of one layer's weight, mean over seeds."""

    problem: str
    method: str
    amount: float
    layer: str
    size: int
    sparsity: float


@dataclass(frozen=True)
class TrainingCurve:
    """A training epoch by epoch; None where a value is not known. `stage` is "dense" or what followed pruning."""

    problem: str
    method: str
    amount: float
    seed: int
    stage: str
    epochs: tuple[int, ...]
    train_loss: tuple[float | None, ...]
    validation_loss: tuple[float | None, ...]
    train_accuracy: tuple[float | None, ...]
    validation_accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class Overlap:
    """How alike masks are: the Jaccard index |A and B| / |A or B| of what is kept.

    `between` methods (of one seed each time, mean over seeds) or seeds (of one method, named in `of`); `matrix[i][j]`
    belongs to `names[i]` and `names[j]`. `chances[i][j]` is what independent random masks of the densities of these two
    have, empty if that is not known; `chance` its mean over all pairs. A pair is above chance if it is above its own.
    """

    problem: str
    amount: float
    between: Literal["methods", "seeds"]
    of: str
    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    chance: float | None = None
    chances: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Histogram:
    """Scores of a layer, or of all ("" as `layer`): how many lie in each bin, and below which score things went.

    `edges` has one entry more than `counts`. With `logarithm` they are log10 of the scores (zeros are `zeros`).
    """

    problem: str
    method: str
    amount: float
    layer: str
    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    threshold: float | None
    logarithm: bool = False
    zeros: int = 0


@dataclass(frozen=True)
class UnitMap:
    """For the units (outputs) of a layer, the share of weights that is left, each in [0, 1]; 0 = the unit is gone."""

    problem: str
    method: str
    amount: float
    layer: str
    kept: tuple[float, ...]


@dataclass(frozen=True)
class Memorization:
    """A measure of every unit of a network by layer, and samples of their activations for violins.

    `scores[layer][unit]`, None for a dead unit; `activations[layer]` a few hundred sampled values for each of the units
    shown, most memorizing first: (unit, values).
    """

    source: str
    measure: str
    scores: dict[str, tuple[float | None, ...]]
    activations: dict[str, tuple[tuple[int, tuple[float, ...]], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SensitivityCurve:
    """Accuracy when one layer alone is pruned to these sparsities, without training."""

    source: str
    layer: str
    granularity: str
    sparsity: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class BoxState:
    """A module with parameters: entries there were, entries left; units likewise (0, 0 where units are not known)."""

    layer: str
    kind: str
    shape: str
    entries: int
    entries_left: int
    units: int = 0
    units_left: int = 0


@dataclass(frozen=True)
class NetworkPicture:
    """The network with what was removed, in the order of the model; `edges` are pairs of layer names that feed."""

    problem: str
    method: str
    amount: float
    boxes: tuple[BoxState, ...]
    edges: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Study:
    """All that a report shows. What is empty is left out of it.

    `about` are named facts (machine, versions, date, command) and `definitions` what the words mean. `complete` is for
    the tables only if every item of `checklist` is there and nothing failed.
    """

    title: str
    rows: Sequence[Row] = ()
    failures: Sequence[Failure] = ()
    checklist: Sequence[Item] = ()
    differences: Sequence[Difference] = ()
    layers: Sequence[LayerSparsity] = ()
    curves: Sequence[TrainingCurve] = ()
    overlaps: Sequence[Overlap] = ()
    histograms: Sequence[Histogram] = ()
    unit_maps: Sequence[UnitMap] = ()
    memorization: Sequence[Memorization] = ()
    sensitivity: Sequence[SensitivityCurve] = ()
    networks: Sequence[NetworkPicture] = ()
    about: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[Item, ...]:
        """The items of the checklist that the study does not have."""
        return tuple(item for item in self.checklist if not item.there)

    @property
    def complete(self) -> bool:
        """Whether its tables may be called complete: a checklist without gaps, and no network that failed."""
        return bool(self.checklist) and not self.missing and not self.failures
