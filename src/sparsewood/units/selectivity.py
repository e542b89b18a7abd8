"""Class selectivity: how much more a unit responds to one class than to all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.structure import Structure
from sparsewood.units.collecting import UnitStatistics, collect_units
from sparsewood.units.kinds import ClassSums
from sparsewood.units.ratio import contrast

__all__ = ["ClassSelectivity", "class_selectivity", "selectivity_of"]


@dataclass(frozen=True, eq=False)
class ClassSelectivity:
    """The class selectivity of every unit, by layer: `scores[layer]` is float64[units], in [0, 1].

    `best[layer]` int64[units] is the class with the largest mean activation, `dead[layer]` says which units are 0 for
    all classes; their score is 0. Units that are seen nowhere have NaN.
    """

    scores: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    dead: Mapping[str, Tensor]
    statistics: UnitStatistics = field(repr=False)
    at_sites: Mapping[str, Tensor] = field(repr=False)

    def of_groups(self) -> dict[str, Tensor]:
        """The scores of the removable units, by group: float64[units]."""
        return self.statistics.of_groups(self.at_sites)


def class_selectivity(
    model: nn.Module,
    data: Iterable[Any],
    classes: int,
    *,
    negative: str = "error",
    layers: str | Sequence[str] | None = None,
    structure: Structure | None = None,
) -> ClassSelectivity:
    """How strongly every unit prefers one class.

    mu_j(c) is the mean activation of unit j over places and over the examples of class c. With k the class that has the
    largest one,

        selectivity(j) = (mu_j(k) - m_j) / (mu_j(k) + m_j),    m_j = the mean of mu_j(c) over the classes c != k

    Measured on held-out data this is the class selectivity of Morcos et al.; on the training data it is ClassMem.
    Classes of which there is no example do not count.

    Args:
        data: batches (inputs, classes), the classes whole numbers from 0 to `classes` - 1.
        negative: "error" refuses negative class means, for which the ratio means nothing; "absolute" takes their
            absolute values.
        layers: names or patterns of the layers to look at, all by default.

    The data are read once, and the model is left as it was. Raises `SparsewoodError` for labels that are no classes,
    and if fewer than two classes have examples.

    Source: Morcos et al. 2018, "On the importance of single directions for generalization",
    https://arxiv.org/abs/1803.06959; ClassMem: Wang et al. 2024, https://arxiv.org/abs/2409.19069.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[0.0, 2.0], [3.0, 1.0]]))
    >>> found = class_selectivity(net, [(torch.eye(2), torch.tensor([0, 1]))], 2)
    >>> found.scores["0"], found.best["0"]
    (tensor([1.0000, 0.5000], dtype=torch.float64), tensor([1, 0]))
    """
    if negative not in ("error", "absolute"):
        raise SparsewoodError(f"class_selectivity: negative must be 'error' or 'absolute'. Got {negative!r}.")
    found = collect_units(model, data, [ClassSums(classes)], structure=structure, layers=layers)
    means = {name: _means(name, sums.cpu(), negative) for name, sums in found.sums[ClassSums(classes).kind].items()}
    scores = {name: selectivity_of(one) for name, one in means.items()}
    named = found.layers()
    top = {name: one.nan_to_num(nan=-1.0).max(0) for name, one in means.items()}
    numbers, values = {n: one.indices for n, one in top.items()}, {n: one.values for n, one in top.items()}
    silent = {name: (one == 0).double() for name, one in values.items()}
    return ClassSelectivity(
        scores={name: found.of_layer(scores, layer) for name, layer in named.items()},
        best={name: found.strongest(numbers, values, layer) for name, layer in named.items()},
        dead={name: found.of_layer(silent, layer) == 1 for name, layer in named.items()},
        statistics=found,
        at_sites=scores,
    )


def _means(name: str, sums: Tensor, negative: str) -> Tensor:
    """float64[classes, units] from what `ClassSums` collected; NaN for classes without examples."""
    count = sums[:, -1:]
    if int((count > 0).sum()) < 2:
        raise SparsewoodError("Class selectivity compares classes: at least two must have examples.")
    if not bool(torch.isfinite(sums).all()):
        raise SparsewoodError(
            f"Class selectivity: units at {name!r} have activations that are NaN or infinite. Look for such weights or "
            "inputs."
        )
    means = sums[:, :-1] / torch.where(count > 0, count, torch.nan)
    low = float(means.nan_to_num(nan=0.0).min())
    if low >= 0:
        return means
    if negative == "absolute":
        return means.abs()
    raise SparsewoodError(
        f"Class selectivity is defined for activations >= 0, but class means at {name!r} go down to {low:.3g}: no ReLU "
        "is between. Pass negative='absolute' to take absolute values, or layers=[...] to name those that you mean."
    )


def selectivity_of(means: Tensor) -> Tensor:
    """float64[units] from class means >= 0, float64[classes, units], NaN for classes that do not count.

    >>> selectivity_of(torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    largest = means.nan_to_num(nan=-1.0).amax(0)
    others = (means.nansum(0) - largest) / ((~means.isnan()).sum(0) - 1)
    return contrast(largest, others.clamp_min(0))
