"""The batch axis of example inputs: which tensors have it, and the same inputs with another number of examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs, arguments, map_tensors

__all__ = ["batch_of", "open_batch", "with_batch"]


def batch_of(example_inputs: Inputs) -> int | None:
    """How many examples there are: the size of axis 0 of the first tensor; None if there is no tensor with axes.

    >>> batch_of({"ids": torch.zeros(3, 7), "mask": torch.zeros(3, 7)}), batch_of(torch.tensor(1.0))
    (3, None)
    """
    return next((tensor.shape[0] for tensor in tree_leaves(arguments(example_inputs)) if _has_axes(tensor)), None)


def with_batch(example_inputs: Inputs, size: int) -> Inputs:
    """The inputs with `size` examples: the first ones, and from the beginning again where there are too few.

    All tensors whose axis 0 is as long as that of the first tensor are taken to have the examples there.

    >>> with_batch((torch.tensor([[1.0], [2.0]]), torch.tensor(5.0)), 3)
    (tensor([[1.],
            [2.],
            [1.]]), tensor(5.))
    """
    batch = batch_of(example_inputs) or 0

    def resized(tensor: Tensor) -> Tensor:
        if not _has_axes(tensor) or tensor.shape[0] != batch:
            return tensor
        return tensor[torch.arange(size, device=tensor.device) % batch]

    return map_tensors(resized, example_inputs)


def open_batch(model: nn.Module, example_inputs: Inputs) -> tuple[Inputs, dict[str, Any]]:
    """Inputs to trace with, of at least two examples, and the shapes of them in which the batch is open.

    A batch of one is doubled, since PyTorch takes a size of 1 for a size that broadcasts. Raises `SparsewoodError` if
    no tensor has a batch axis.
    """
    batch = batch_of(example_inputs)
    if not batch:
        raise SparsewoodError(
            "A dynamic batch needs inputs with a batch: none of the example inputs is a tensor with at least one "
            "example along axis 0. Export with dynamic_batch=False."
        )
    traced = map_tensors(
        torch.clone, with_batch(example_inputs, max(batch, 2))
    )  # each tensor has an identity of its own
    positional, keywords = arguments(traced)
    shapes, axis = torch.export.ShapesCollection(), torch.export.Dim("batch")
    leaves = zip(tree_leaves(arguments(example_inputs)), tree_leaves((positional, keywords)), strict=True)
    for given, tensor in leaves:  # among those traced, others may be as long as a batch that was doubled
        if _has_axes(given) and given.shape[0] == batch:
            shapes[tensor] = {0: axis}
    return traced, shapes.dynamic_shapes(model, positional, keywords)


def _has_axes(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0
