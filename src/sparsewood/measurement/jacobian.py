"""Jacobian singular values: by how much a network stretches what is passed on, forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.batches import require_batches, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, describe, to_model_device
from sparsewood.masks import masked
from sparsewood.matrices import as_matrices, matrix_layers
from sparsewood.snapshot import kernels_with_backward, same_random_state, untouched

__all__ = ["SingularValues", "jacobian_contributions", "jacobian_singular_values", "layer_singular_values"]

_ROOM = 1 << 23
"""Entries of Jacobians that are held at a time."""


@dataclass(frozen=True, eq=False)
class SingularValues:
    """Singular values of several matrices of one shape, and what they are on average over all of them.

    `values` is float64[matrices, k], k the smaller side of the matrices, descending in each row; `std` is the
    population's.

    >>> print(SingularValues.of(torch.tensor([[3.0, 1.0]])))
    mean 2 +- 1, from 1 to 3
    """

    mean: float
    std: float
    min: float
    max: float
    values: Tensor = field(repr=False)

    @classmethod
    def of(cls, values: Tensor) -> SingularValues:
        """Of singular values [matrices, k], at least one."""
        values = values.double().cpu()
        low, high = values.aminmax()
        return cls(float(values.mean()), float(values.std(correction=0)), float(low), float(high), values)

    def __str__(self) -> str:
        return f"mean {self.mean:.4g} +- {self.std:.4g}, from {self.min:.4g} to {self.max:.4g}"


def jacobian_singular_values(
    model: nn.Module,
    data: Iterable[Any],
    *,
    masks: Mapping[str, Tensor] | None = None,
    examples: int | None = None,
) -> SingularValues:
    """Singular values of J = d output / d input of every example, the output flattened to [k], the input to [d].

    A network in which all are 1 passes signals and gradients on without changing their size (dynamical isometry).
    One row of J for all examples of a batch is one backward pass, so that any forward will do.

    Args:
        data: batches: tensors, or pairs (inputs, target), of which the target is not read. The first axis counts
            examples, which must not depend on one another (BatchNorm has its running statistics: eval mode).
        masks: entries that count as 0; the model itself is left as it was.
        examples: how many of them, from the first; None means all.

    Raises `SparsewoodError` for data without an example, inputs that are not one floating-point tensor, outputs that
    are not one with an axis for examples, or do not depend on the inputs, and Jacobians that are not finite.

    Source: Saxe et al. 2014, https://arxiv.org/abs/1312.6120; before and after pruning Lee et al. 2020, "A Signal
    Propagation Perspective for Pruning Neural Networks at Initialization", https://arxiv.org/abs/1906.06307.

    >>> layer = nn.Linear(3, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0, 4.0], [0.0, 1.0, 0.0]]))
    >>> jacobian_singular_values(layer, [torch.zeros(7, 3)]).values[0]
    tensor([5., 1.], dtype=torch.float64)
    """
    found: list[Tensor] = []
    with masked(model, masks or {}), untouched(model), _backward_enabled(model):
        for x in _inputs(data, model, examples):
            found.extend(_singular(jacobians, "A Jacobian on these data") for jacobians in _jacobians(model, x))
    if not found:
        raise SparsewoodError("The data hold no example. A generator can be read only once; pass a list or a loader.")
    return SingularValues.of(torch.cat(found))


def layer_singular_values(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> dict[str, SingularValues]:
    """Singular values of the weight of every linear layer and convolution as a matrix [outputs, inputs * kernel].

    By parameter name; `values` has a row for each group of a grouped convolution. No data are needed, masked entries
    count as 0, and the model is left as it was. Of a convolution these are those of what one output position
    multiplies, not of the whole linear map. Raises `SparsewoodError` if there is no such layer, and as `apply_masks`.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    >>> print(layer_singular_values(layer, {"weight": torch.tensor([[True, True], [True, False]])})["weight"])
    mean 1.5 +- 1.5, from 0 to 3
    """
    with masked(model, masks or {}):
        weights = [(entry, entry.parameter.detach()) for entry in matrix_layers(model) if entry.parameter.numel()]
        return {e.name: SingularValues.of(_singular(as_matrices(e, w), e.name)) for e, w in weights}


def jacobian_contributions(
    model: nn.Module, masks: Mapping[str, Tensor], data: Iterable[Any], *, examples: int | None = None
) -> dict[str, float]:
    """What each mask does to signal propagation: the mean singular value with this mask alone less that with none.

    Negative where pruning the layer damps signals. Contributions do not add up to the change by all masks, which act
    on one another's products. Raises as `jacobian_singular_values`.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    >>> _ = [layer.weight.data.fill_(2.0) for layer in model]
    >>> jacobian_contributions(model, {"1.weight": torch.tensor([[False]])}, [torch.zeros(3, 1)])
    {'1.weight': -4.0}
    """
    require_batches(data)
    with same_random_state(model):
        batches = list(data)
    before = jacobian_singular_values(model, batches, examples=examples).mean
    return {
        name: jacobian_singular_values(model, batches, masks={name: mask}, examples=examples).mean - before
        for name, mask in masks.items()
    }


@contextmanager
def _backward_enabled(model: nn.Module) -> Iterator[None]:
    """Inside, gradients of inputs can be had, and parameters need none (`untouched` puts the flags back)."""
    with torch.inference_mode(False), torch.enable_grad(), kernels_with_backward(model):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield


def _inputs(data: Iterable[Any], model: nn.Module, examples: int | None) -> Iterator[Tensor]:
    """The inputs of the batches, on the model's device, as many examples as are wanted."""
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int) or examples < 1):
        raise SparsewoodError(f"examples must be a whole number >= 1, or None for all. Got {examples!r}.")
    require_batches(data)
    left = examples
    for number, batch in enumerate(data):
        x = split_batch(batch, number)[0]
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.ndim:
            raise SparsewoodError(
                f"Batch {number} must be one floating-point tensor of inputs, or a pair of it and a target: Jacobians "
                f"are with respect to it. Got {describe((batch,))}."
            )
        x = to_model_device(x if left is None else x[:left], model)
        if len(x):
            yield x
        if left is not None:
            left -= len(x)
            if not left:
                return


def _jacobians(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """J of each example [n, k, d], chunk by chunk."""
    size = _outputs(model, x[:1]).shape[1]
    for part in x.split(max(1, _ROOM // max(1, size * x[0].numel()))):
        # A copy, as those made in inference mode can have no gradient.
        inputs = part.detach().clone().requires_grad_(True)
        outputs = _outputs(model, inputs)
        if not outputs.requires_grad:
            raise SparsewoodError(f"The output of {type(model).__name__} does not depend on its input by a gradient.")
        rows = [torch.autograd.grad(column.sum(), inputs, retain_graph=True)[0] for column in outputs.T]
        yield torch.stack(rows, 1).flatten(2)


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """What the model returns, flattened to [n, k]."""
    found = call(model, x.clone())  # its first operation may be in place
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape[:1] != x.shape[:1]:
        raise SparsewoodError(
            f"The model must return one floating-point tensor with an axis for examples, of which there are {len(x)}. "
            f"Got {describe((found,))}. Wrap it so that it returns the logits."
        )
    return found.reshape(len(found), -1)


def _singular(matrices: Tensor, what: str) -> Tensor:
    """Singular values of [..., m, n], in float64, on the CPU."""
    if not bool(torch.isfinite(matrices).all()):
        raise SparsewoodError(f"{what} is not finite. Check the weights, and the data.")
    return torch.linalg.svdvals(matrices.double()).cpu()
