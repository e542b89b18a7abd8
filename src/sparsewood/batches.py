"""Batches of data: what they are, and their parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import describe, map_tensors, to_model_device

__all__ = ["Batch", "count_examples", "prepared", "require_batches", "split_batch"]

Batch = Any
"""A tensor, `(inputs, target)`, or a mapping of keyword inputs (`target` is then the mapping)."""


def require_batches(data: object) -> None:
    """Raise `SparsewoodError` for what is no collection of batches, such as one batch."""
    # Iterating over one batch would take its rows, or its inputs and its targets, for batches.
    one_batch = isinstance(data, Tensor | Mapping | str) or (isinstance(data, tuple | list) and not _alike(data))
    if one_batch or not isinstance(data, Iterable):
        raise SparsewoodError(
            f"data must be batches: a DataLoader, a list or a generator. Got {type(data).__name__}. "
            "Pass a single batch as [batch]."
        )


def _alike(parts: Sequence[Any]) -> bool:
    """Whether these can be batches of the same data: all tensors of one kind, or none a tensor.

    A list may hold batches of different lengths or image sizes; a tuple of such tensors is rather inputs and target.
    """
    rest = len if isinstance(parts, list) else tuple
    kinds = {(part.dtype, rest(part.shape[1:])) if isinstance(part, Tensor) else None for part in parts}
    return len(kinds) <= 1


def prepared(batch: Batch, model: nn.Module) -> Batch:
    """The batch on the model's device, fit for a backward pass."""
    # Autograd cannot use tensors made in inference mode; a clone made outside it is an ordinary one.
    ordinary = map_tensors(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, batch)
    return to_model_device(ordinary, model)


def split_batch(batch: Batch, number: int = 0) -> tuple[Any, Any]:
    """Inputs, as `inputs.call` takes them, and target of a batch."""
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return batch, batch
    if not isinstance(batch, list | tuple) or not batch:
        raise SparsewoodError(
            f"Batch {number} must be a tensor, a pair (inputs, target) or a mapping. Got {describe((batch,))}."
        )
    if len(batch) == 1:
        return batch[0], None
    inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
    return (tuple(inputs) if isinstance(inputs, list) else inputs), batch[-1]


def count_examples(inputs: Any, target: Any, number: int = 0) -> int:
    """Length of the first axis of the target if it is a tensor that has one, else of the first input that has one."""
    wanted = target if isinstance(target, Tensor) else inputs
    for leaf in tree_leaves(wanted if isinstance(wanted, Tensor) and wanted.ndim else inputs):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    raise SparsewoodError(
        f"Batch {number} has no tensor with a batch axis. Got inputs {describe(inputs)}. Make its inputs tensors."
    )
