"""New weights for a network, drawn from one generator: the same numbers on every device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsewood.errors import SparsewoodError

__all__ = [
    "ConvolutionOrthogonal",
    "DeltaOrthogonal",
    "LayerDefault",
    "Normal",
    "Original",
    "Orthogonal",
    "VarianceScaling",
]

Fan = Literal["in", "out", "average"]
Shape = tuple[int, ...]
Draw = Callable[[Shape, torch.Generator], Tensor]


class Initializer(ABC):
    """A rule for new weights."""

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The steps of the dense network's training whose state `start` must hold."""
        return ()

    @abstractmethod
    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        """Set all weights of `model` in place."""


class LayerWeights(Initializer):
    """Weights of convolutions and linear layers by `draw`, their biases 0; other layers as `LayerDefault`."""

    @abstractmethod
    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """float64 weights of shape (outputs, inputs, *space), for a layer or for one group of a convolution."""

    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        del start
        generator = _given(generator)
        reset_layers(model, generator)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, _ConvNd | nn.Linear):
                    module.weight.copy_(_by_group(module, self.draw, generator))
                    if module.bias is not None:
                        module.bias.zero_()


@dataclass(frozen=True)
class LayerDefault(Initializer):
    """Every layer's own `reset_parameters`, as when it was made.

    >>> LayerDefault()(nn.Linear(2, 2), {})
    """

    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        del start
        reset_layers(model, _given(generator))


@dataclass(frozen=True)
class Original(Initializer):
    """The very weights and buffers with which training began: snapshot 0.

    Source: the winning tickets of Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635.
    """

    @property
    def snapshots(self) -> tuple[int, ...]:
        return (0,)

    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        del generator
        model.load_state_dict(dict(start))  # copies values, so that the snapshot stays what it is


@dataclass(frozen=True)
class Normal(LayerWeights):
    """Weights from N(0, std^2); see `LayerWeights` for what else is set."""

    std: float = 0.01

    def __post_init__(self) -> None:
        _require_positive("Normal: std", self.std)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * self.std


@dataclass(frozen=True)
class VarianceScaling(LayerWeights):
    """Weights from N(0, scale / fan); see `LayerWeights` for what else is set.

    `fan` is fan_in = inputs * kernel size, fan_out = outputs * kernel size, or their average, at least 1; in grouped
    convolutions inputs and outputs are those of one group. The normal distribution is not truncated.

    Sources: He et al. 2015, https://arxiv.org/abs/1502.01852; Glorot and Bengio 2010,
    https://proceedings.mlr.press/v9/glorot10a.html; as in Lee et al. 2020, "A Signal Propagation Perspective for
    Pruning Neural Networks at Initialization", https://arxiv.org/abs/1906.06307.

    >>> VarianceScaling.glorot()
    VarianceScaling(scale=1.0, fan='average')
    >>> VarianceScaling.he().std((64, 2, 3, 3))
    0.3333333333333333
    """

    scale: float = 2.0
    fan: Fan = "in"

    def __post_init__(self) -> None:
        _require_positive("VarianceScaling: scale", self.scale)
        if self.fan not in get_args(Fan):
            raise SparsewoodError(f"VarianceScaling: fan must be one of {get_args(Fan)}. Got {self.fan!r}.")

    @classmethod
    def he(cls) -> VarianceScaling:
        """Variance 2 / fan_in."""
        return cls(2.0, "in")

    @classmethod
    def lecun(cls) -> VarianceScaling:
        """Variance 1 / fan_in."""
        return cls(1.0, "in")

    @classmethod
    def glorot(cls) -> VarianceScaling:
        """Variance 2 / (fan_in + fan_out)."""
        return cls(1.0, "average")

    def std(self, shape: Shape) -> float:
        """sqrt(scale / fan) for weights of shape (outputs, inputs, *space)."""
        outputs, inputs, *space = shape
        fans = {"in": inputs, "out": outputs, "average": (inputs + outputs) / 2}
        return math.sqrt(self.scale / max(1.0, fans[self.fan] * math.prod(space)))

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * self.std(shape)


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
        _require_positive("Orthogonal: gain", self.gain)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        return self.gain * _orthogonal(shape[0], math.prod(shape[1:]), generator).reshape(shape)


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
        _require_positive("DeltaOrthogonal: gain", self.gain)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        outputs, inputs, *space = shape
        if inputs > outputs:
            return self.gain * _orthogonal(outputs, math.prod(shape[1:]), generator).reshape(shape)
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
        _require_positive("ConvolutionOrthogonal: gain", self.gain)

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        outputs, inputs, *space = shape
        if inputs > outputs:
            return self.gain * _orthogonal(outputs, math.prod(shape[1:]), generator).reshape(shape)
        weight = self.gain * _orthogonal(outputs, inputs, generator).reshape(outputs, inputs, *[1] * len(space))
        for axis, size in enumerate(space, start=2):
            for step in range(size - 1):
                basis = _orthogonal(outputs, (outputs + step % 2) // 2, generator)
                here = torch.tensordot(basis @ basis.T, weight, dims=1)
                edge = torch.zeros_like(weight.narrow(axis, 0, 1))
                weight = torch.cat([here, edge], axis) + torch.cat([edge, weight - here], axis)
        return weight


def reset_layers(model: nn.Module, generator: torch.Generator) -> None:
    """Call every layer's `reset_parameters`; the random state of the process is left alone.

    Raises `SparsewoodError` for layers that have none, and for those whose weight is computed from other parameters.
    """
    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    stuck = [type(module).__name__ for module in owners if not callable(_reset_method(module)) or _computed(module)]
    if stuck:
        raise SparsewoodError(
            f"Cannot draw new weights for {', '.join(sorted(set(stuck)))}: no reset_parameters method, or a weight "
            "that is computed from other parameters (weight_norm, torch.nn.utils.prune). Add the one, remove the "
            "other, or use FineTune() or Rewind()."
        )
    seed = int(torch.randint(2**62, (), generator=generator))
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not forked
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        for module in owners:
            _reset_method(module)()


def _reset_method(module: nn.Module) -> Any:
    # nn.MultiheadAttention has the same under a private name.
    name = "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters"
    return getattr(module, name, None)


def _computed(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd | nn.Linear) and "weight" not in module._parameters


def _by_group(module: _ConvNd | nn.Linear, draw: Draw, generator: torch.Generator) -> Tensor:
    """Weights in the order of the module's, each group drawn as a layer of its own."""
    groups = module.groups if isinstance(module, _ConvNd) else 1
    first, second, *space = module.weight.shape
    if isinstance(module, _ConvTransposeNd):  # [inputs of all groups, outputs of one group, ...]
        shape = (second, first // groups, *space)
        return torch.cat([draw(shape, generator).transpose(0, 1) for _ in range(groups)])
    shape = (first // groups, second, *space)
    return torch.cat([draw(shape, generator) for _ in range(groups)])


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, or columns if these are fewer: float64[rows, columns]."""
    normal = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q if rows >= columns else q.T


def _given(generator: torch.Generator | None) -> torch.Generator:
    """Never the global one, so that a call neither depends on it nor changes it."""
    return generator if generator is not None else torch.Generator().manual_seed(0)


def _require_positive(name: str, value: float) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not 0 < value < math.inf:
        raise SparsewoodError(f"{name} must be a number above 0. Got {value!r}.")
