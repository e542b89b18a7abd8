"""ThiNet: which units a layer can do without, by how well the others make up what its readers receive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.batches import prepared, require_batches, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call
from sparsewood.recovery.patches import batched, draw, patches
from sparsewood.shrinking.consumers import Consumer, find_consumers, positions
from sparsewood.snapshot import untouched
from sparsewood.statistics import Loss
from sparsewood.structure import Group, Structure

__all__ = ["ThiNet"]


@dataclass(frozen=True)
class ThiNet:
    """score_j = when unit j goes, over the number of units, if at each step the unit goes that adds least to

        sum over samples of (sum over the removed units c of x_c)^2

    x_c is what unit c adds to one output of a layer that reads it, at a position and for an output drawn anew for each
    sample: greedy reconstruction. With several such layers their errors, relative to the squares of all x, add up.
    Only linear layers and convolutions over all of their inputs are looked at; groups that none of these reads are left
    out (held). It is a criterion for `shrink` and `prune_units`; `sparsewood.recovery.reconstruct` then refits the
    readers by least squares, which is the other half of the method.

    Args:
        samples: positions drawn from each example.

    Source: Luo et al. 2017, "ThiNet", https://arxiv.org/abs/1707.06342, section 3.

    >>> from sparsewood import trace
    >>> net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Identity(), nn.Linear(3, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0], [1.0], [-2.0]]))
    >>> _ = net[2].weight.data.fill_(1.0)
    >>> x = torch.ones(4, 1)
    >>> ThiNet()(net, trace(net, x), data=[x], loss=None, generator=torch.Generator())["0"] * 3  # 1, then 1 - 2, then 3
    tensor([2., 0., 1.], dtype=torch.float64)
    """

    samples: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise SparsewoodError(f"ThiNet needs a whole number of samples >= 1. Got {self.samples!r}.")

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,  # noqa: ARG002 - it does without
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        if data is None:
            raise SparsewoodError("ThiNet needs data: pass data=..., batches of inputs.")
        require_batches(data)
        everything = {group.name: np.ones(group.units, bool) for group in structure.prunable}
        readers = [one for one in find_consumers(model, structure, everything)[0] if one.by_channel]
        grams = {
            (group.name, one): torch.zeros(group.units, group.units, dtype=torch.float64)
            for group in structure.prunable
            for one in readers
            if positions(structure, one.weight, one.axis, {group.name: everything[group.name]}).any()
        }
        self._add_up(model, structure, data, grams, generator)
        found: dict[str, Tensor] = {}
        for group in structure.prunable:
            own = [gram for (name, _), gram in grams.items() if name == group.name]
            parts = [gram / max(float(gram.diagonal().sum()), 1e-300) for gram in own]
            if parts:
                found[group.name] = _order(torch.stack(parts).sum(0)) / group.units
        return found

    def _add_up(
        self,
        model: nn.Module,
        structure: Structure,
        data: Iterable[Any],
        grams: dict[tuple[str, Consumer], Tensor],
        generator: torch.Generator,
    ) -> None:
        """Sums over samples of x x^T, for every group and reader."""
        groups = {group.name: group for group in structure.prunable}
        read = 0
        with untouched(model), torch.no_grad():
            handles = []
            for reader in {one for _, one in grams}:
                mine = [(groups[name], gram) for (name, one), gram in grams.items() if one is reader]

                def hook(
                    _: nn.Module,
                    inputs: tuple[Any, ...],
                    keywords: dict[str, Any],
                    output: Any,
                    reader: Consumer = reader,
                    mine: Any = mine,
                ) -> None:
                    x = inputs[0] if inputs else keywords["input"]
                    rows = _contributions(reader, x, output, self.samples, generator)
                    for group, gram in mine:
                        added = _by_unit(reader, group, rows)
                        gram.add_((added.T @ added).cpu())

                handles.append(reader.module.register_forward_hook(hook, with_kwargs=True))
            try:
                for number, batch in enumerate(data):
                    call(model, split_batch(prepared(batch, model), number)[0])
                    read += 1
            finally:
                for handle in handles:
                    handle.remove()
        if not read:
            raise SparsewoodError("The data is empty: no batch was read.")


def _contributions(reader: Consumer, x: Tensor, y: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """What each input channel adds to one drawn output at each drawn position: float64[rows, channels]."""
    layer: Any = reader.holder
    inputs, outputs = batched(layer, x.detach()), batched(layer, y.detach())
    places = draw(outputs, samples, generator)
    windows = patches(layer, inputs, places).squeeze(1).double()  # [rows, channels * kernel]
    chosen = torch.randint(outputs.shape[1], (len(windows),), generator=generator).to(windows.device)
    products = windows * reader.value.double().flatten(1)[chosen]
    channels = reader.value.shape[1]
    return products.unflatten(1, (channels, -1)).sum(2)


def _by_unit(reader: Consumer, group: Group, rows: Tensor) -> Tensor:
    """float64[rows, units of the group]."""
    total = rows.new_zeros(len(rows), group.units + 1)
    for one in group.slices:
        if (one.param, one.axis) == (reader.weight, reader.axis):
            place = torch.from_numpy(np.where(one.owner < 0, group.units, one.owner)).to(rows.device)
            total.index_add_(1, place, rows)
    return total[:, : group.units]


def _order(gram: Tensor) -> Tensor:
    """float64[units]: at which step each unit goes, if the one goes that adds least to the sum's square."""
    units = len(gram)
    steps = torch.zeros(units, dtype=torch.float64)
    added = torch.diagonal(gram).clone()  # by how much the square of the sum grows with each unit
    gone = torch.zeros(units, dtype=torch.bool)
    for step in range(units):
        unit = int(added.masked_fill(gone, torch.inf).flip(0).argmin())
        unit = units - 1 - unit  # of equal ones the last goes first, as everywhere
        steps[unit], gone[unit] = step, True
        added += 2 * gram[unit]
    return steps
