"""New weights for a network, drawn from one generator: the same numbers on every device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.recovery.drawing import Initializer, LayerWeights, Shape, given, require_positive, reset_layers
from sparsewood.recovery.orthogonal import ConvolutionOrthogonal, DeltaOrthogonal, Orthogonal

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


@dataclass(frozen=True)
class LayerDefault(Initializer):
    """Every layer's own `reset_parameters`, as when it was made.

    >>> LayerDefault()(nn.Linear(2, 2), {})
    """

    def __call__(self, model: nn.Module, start: Mapping[str, Tensor], generator: torch.Generator | None = None) -> None:
        del start
        reset_layers(model, given(generator))


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
        require_positive("Normal: std", self.std)

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
        require_positive("VarianceScaling: scale", self.scale)
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
