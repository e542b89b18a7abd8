"""The first-order change of the loss when a unit is replaced by its mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion, require_form
from sparsewood.units.collecting import collect_units
from sparsewood.units.kinds import (
    AbsoluteMeanReplacement,
    ActivationMean,
    FirstOrder,
    MeanGradient,
    Space,
    require_space,
)

__all__ = ["MeanReplacement"]


@dataclass(frozen=True)
class MeanReplacement(UnitCriterion):
    """score_j = mean over examples of |sum over places of (m_j - a_j) g_j|; with form="signed" without the bars.

    m_j is the mean of the activation a_j over all data and places, g the gradient of the example's own loss there: the
    first-order change of the loss when unit j always is what it is on average, as after bias propagation. A constant
    unit has 0. The signed form needs one pass over the data, since it is t_j + m_j sum g_j; the absolute one needs two,
    so `data` must be something that can be read twice. With space="mean" sums over places are divided by their number.
    A unit that is seen at several sites has the sum of their scores.

    Source: Evci et al. 2018, "Mean Replacement Pruning", https://openreview.net/forum?id=BJxRVnC5Fm (abs_mrs and mrs).

    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [0.0]]))
    >>> _ = net[0].bias.data.copy_(torch.tensor([0.0, 3.0]))
    >>> data = [(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))]
    >>> from sparsewood import trace
    >>> found = MeanReplacement()(net, trace(net, data[0][0]), data=data, loss=nn.functional.mse_loss,
    ...                           generator=torch.Generator())
    >>> bool(found["0"][0] > 0), float(found["0"][1])
    (True, 0.0)
    """

    form: Literal["absolute", "signed"] = "absolute"
    space: Space = "sum"
    reads_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)
        require_form(self.form)

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,  # noqa: ARG002 - nothing is drawn
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        assert data is not None
        if self.form == "signed":
            return self._signed(model, structure, data, loss)
        if iter(data) is data:
            raise SparsewoodError(
                "MeanReplacement reads the data twice, first for the means: pass a list or a DataLoader, no generator."
            )
        first = collect_units(model, data, [ActivationMean()], structure=structure)
        means = {name: sums / first.samples for name, sums in first.sums[ActivationMean().kind].items()}
        kind = AbsoluteMeanReplacement(means, self.space)
        found = collect_units(model, data, [kind], loss, structure=structure)
        return found.of_groups({n: sums.cpu() / found.samples for n, sums in found.sums[kind.kind].items()}, "sum")

    def _signed(
        self, model: nn.Module, structure: Structure, data: Iterable[Any], loss: Loss | None
    ) -> dict[str, Tensor]:
        kinds = (ActivationMean(), FirstOrder(self.space), MeanGradient(self.space))
        found = collect_units(model, data, kinds, loss, structure=structure)
        mean, removed, gradient = (found.sums[kind.kind] for kind in kinds)
        scores = {n: (removed[n] + mean[n] / found.samples * gradient[n]).cpu() / found.samples for n in mean}
        return found.of_groups(scores, "sum")
