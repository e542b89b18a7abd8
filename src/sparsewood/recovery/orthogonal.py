"""Weights that keep the norm of what they are multiplied with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.recovery.drawing import LayerWeights, Shape, require_positive

__all__ = ["ConvolutionOrthogonal", "DeltaOrthogonal", "Orthogonal"]


@dataclass(frozen=True)
class Orthogonal(LayerWeights):
    """Weights W as matrices [outputs, rest] with W W^T = gain^2 I or W^T W = gain^2 I, whichever there is room for.

    W is Q of the QR decomposition of a normal matrix, with signs that make the diagonal of R positive, so that it is
    uniform over orthogonal matrices; each group of a convolution by itself. See `LayerWeights` for what else is set.

    Source: Saxe et al. 2014, https://arxiv.org/abs/1312.6120; for pruning Lee et al. 2020,
    https://arxiv.org/abs/1906.06307.

    >>> w = Orthogonal().draw((2, 3), torch.Generator().manual_seed(0))
    >>> bool((w @ w.T - torch.eye(2)).abs().max() < 1e-12)
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        require_positive("Orthogonal: gain", self.gain)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        return _flat(shape, self.gain, generator)


@dataclass(frozen=True)
class DeltaOrthogonal(LayerWeights):
    """Convolutions that are an orthogonal matrix at the centre of the kernel and 0 elsewhere: they keep the norm.

    With inputs <= outputs (of one group) and circular padding the output has gain times the norm of the input. Where
    inputs > outputs no such matrix exists, and weights are flat orthogonal, as of `Orthogonal`; so are linear layers.
    See `LayerWeights` for what else is set.

    Source: Xiao et al. 2018, "Dynamical Isometry and a Mean Field Theory of CNNs", https://arxiv.org/abs/1806.05393.

    >>> DeltaOrthogonal().draw((1, 1, 3), torch.Generator().manual_seed(0)).abs()
    tensor([[[0., 1., 0.]]], dtype=torch.float64)
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        require_positive("DeltaOrthogonal: gain", self.gain)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        outputs, inputs, *space = shape
        if inputs > outputs:
            return _flat(shape, self.gain, generator)
        weight = torch.zeros(shape, dtype=torch.float64)
        weight[(..., *(size // 2 for size in space))] = self.gain * _orthogonal(outputs, inputs, generator)
        return weight


@dataclass(frozen=True)
class ConvolutionOrthogonal(LayerWeights):
    """Convolutions whose whole kernel is orthogonal: they keep the norm, and no tap of the kernel is 0.

    W is an orthogonal matrix [outputs, inputs], followed along each axis of space by (size - 1) filters of two taps,
    P and I - P, with P a random orthogonal projection onto half of the outputs. A filter sends one half of what it gets
    on at its place and the other half one place further, so that with circular padding and stride 1 the output has gain
    times the norm of the input. For an odd number of outputs the half is rounded down and up in turn, so that kernels
    of single channels are centred.

    Where inputs > outputs (of one group) no such kernel exists, and weights are flat orthogonal, as of `Orthogonal`; so
    are linear layers. See `LayerWeights` for what else is set.

    Source: Xiao et al. 2018, "Dynamical Isometry and a Mean Field Theory of CNNs", Algorithm 1,
    https://arxiv.org/abs/1806.05393; for pruning Lee et al. 2020, https://arxiv.org/abs/1906.06307.

    >>> w = ConvolutionOrthogonal().draw((4, 4, 3), torch.Generator().manual_seed(0))
    >>> bool((torch.einsum("oit,ojt->ij", w, w) - torch.eye(4)).abs().max() < 1e-12)
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        require_positive("ConvolutionOrthogonal: gain", self.gain)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        outputs, inputs, *space = shape
        if inputs > outputs:
            return _flat(shape, self.gain, generator)
        weight = self.gain * _orthogonal(outputs, inputs, generator).reshape(outputs, inputs, *[1] * len(space))
        for axis, size in enumerate(space, start=2):
            for step in range(size - 1):
                basis = _orthogonal(outputs, (outputs + step % 2) // 2, generator)
                here = torch.tensordot(basis @ basis.T, weight, dims=1)
                edge = torch.zeros_like(weight.narrow(axis, 0, 1))
                weight = torch.cat([here, edge], axis) + torch.cat([edge, weight - here], axis)
        return weight


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, or columns if these are fewer: float64[rows, columns]."""
    normal = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q if rows >= columns else q.T


def _flat(shape: Shape, gain: float, generator: torch.Generator) -> Tensor:
    """The whole weight as one orthogonal matrix [outputs, rest], times `gain`."""
    return gain * _orthogonal(shape[0], math.prod(shape[1:]), generator).reshape(shape)
