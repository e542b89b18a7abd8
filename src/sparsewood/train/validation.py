"""Loss and accuracy on held-out data, in the precision that is trained in and over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsewood.distributed import total, world
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import map_tensors
from sparsewood.measurement import evaluate
from sparsewood.train.protocols import Loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["InPrecision", "Validated", "validate"]


class Validated(NamedTuple):
    """Means over all examples of all processes; `accuracy5` is None with five classes or fewer."""

    loss: float
    accuracy: float
    accuracy5: float | None


class InPrecision(nn.Module):
    """A model in the Fabric's precision without its synchronisation: processes may differ in their batches."""

    def __init__(self, model: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.model = model
        self._fabric = fabric

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        first = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

        def taken(tensor: Tensor) -> Tensor:
            return tensor.to(first) if tensor.is_floating_point() else tensor

        with self._fabric.autocast():
            outputs = self.model(*map_tensors(taken, inputs), **map_tensors(taken, keywords))
        # In bfloat16 different scores become equal, and a tie is half an answer.
        return map_tensors(taken, outputs)


def validate(model: nn.Module, data: Iterable[Any], *, loss: Loss | None, fabric: Fabric) -> Validated:
    """As `evaluate`, over the data of all processes, each of which has its share (which may be empty)."""
    adapted = InPrecision(model, fabric)
    if world() == 1:
        found = evaluate(adapted, data, loss=loss)
        return Validated(found.loss, found.top[1], found.top.get(5))
    sums = torch.zeros(5, dtype=torch.float64)  # loss, right, right within five, examples, examples with five
    share = _non_empty(data)
    if share is not None:
        found = evaluate(adapted, share, loss=loss)
        five = found.top.get(5)
        each = (found.loss, found.top[1], five or 0.0, 1.0, 0.0 if five is None else 1.0)
        sums = torch.tensor(each, dtype=torch.float64) * found.samples
    losses, right, right5, examples, with_five = total(sums).tolist()
    if not examples:
        raise SparsewoodError("The validation data has no example in any process. Pass a loader or a list with some.")
    return Validated(losses / examples, right / examples, right5 / examples if with_five else None)


def _non_empty(data: Iterable[Any]) -> Iterator[Any] | None:
    every = iter(data)
    first = next((batch for batch in every if len(batch[1])), None)
    return None if first is None else chain([first], every)
