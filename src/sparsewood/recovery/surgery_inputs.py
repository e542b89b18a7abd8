"""What a layer's weights are multiplied with, summed up to the Hessian of the layer's error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import Entry
from sparsewood.recovery.passes import model_inputs, run_up_to
from sparsewood.recovery.patches import batched, draw, patches
from sparsewood.snapshot import untouched

__all__ = ["Inputs", "gathered"]


class Inputs:
    """Sums over the rows x [features] that a layer's weights are multiplied with."""

    def __init__(self, weight: Tensor) -> None:
        features = weight[0].numel()
        self.xx = torch.zeros(features, features, dtype=torch.float64, device=weight.device)
        self.x = torch.zeros(features, dtype=torch.float64, device=weight.device)
        self.count = 0

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.xx.addmm_(rows.mT, rows)
        self.x += rows.sum(0)
        self.count += len(rows)

    def damped_hessian(self, damp: float) -> Tensor:
        """2 / N sum x x' and the damping; where there is nothing but zeros, any weights do, and this is I."""
        hessian = 2 * self.xx / self.count
        size = float(hessian.diagonal().mean())
        return hessian + (damp * size if size else 1.0) * torch.eye(len(hessian), dtype=hessian.dtype).to(hessian)

    def share(self, weight: Tensor, change: Tensor) -> float:
        """The squared change of the outputs, over their squared distance from their mean."""
        changed = float(((change @ self.xx) * change).sum())
        around = float(((weight @ self.xx) * weight).sum() - (weight @ self.x).square().sum() / self.count)
        return max(0.0, changed) / (max(0.0, around) or 1.0)


def gathered(
    model: nn.Module, entry: Entry, calls: int, data: Iterable[Any], samples: int, generator: torch.Generator
) -> Inputs:
    """What enters a layer, at positions that are drawn from each example and call. The model is left as it is."""
    layer = entry.module
    assert isinstance(layer, nn.Linear | _ConvNd)
    inputs = Inputs(layer.weight)

    def see(x: Tensor, y: Tensor) -> None:
        places = draw(batched(layer, y), samples, generator)
        inputs.add(patches(layer, batched(layer, x), places).squeeze(1))

    with untouched(model):
        for batch in model_inputs(data):
            run_up_to(model, layer, calls, batch, see)
    if not inputs.count:
        raise SparsewoodError(f"No inputs of {entry.name!r} were seen on these data: they have no examples.")
    if not bool(torch.isfinite(inputs.xx).all()):
        raise SparsewoodError(
            f"Inputs of {entry.name!r} are not finite on these data. Check the data, and the layers before it."
        )
    return inputs
