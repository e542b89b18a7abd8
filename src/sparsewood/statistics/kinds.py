"""What one batch contributes: pure functions from gradients and layer inputs to sums over examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import Entry

__all__ = ["AbsoluteGradient", "Gradient", "InputPower"]

Mode = Literal["eval", "train"]
"""How a network runs while it is scored: as in use, or with BatchNorm by the batch and with dropout."""


class Statistic(ABC):
    """A sum over examples, one tensor for each parameter. `kind` is its key in `Statistics.sums`."""

    @property
    @abstractmethod
    def kind(self) -> str: ...


class GradientStatistic(Statistic):
    """Made from the gradient of the loss. `per_example` asks for each example's own gradient."""

    per_example: ClassVar[bool]

    @property
    def of_mode(self) -> Mode:
        """The mode in which the network runs for this."""
        return "eval"

    @abstractmethod
    def from_gradient(self, gradient: Tensor, examples: int) -> Tensor:
        """The contribution of a batch whose mean loss has this gradient."""


class ModelStatistic(Statistic):
    """Made by passes of its own through the network, over all batches together, which it may read several times.

    Where not `needs_all`, one batch is enough: of the data only the form counts.
    """

    needs_loss: ClassVar[bool]
    needs_all: ClassVar[bool] = True

    @abstractmethod
    def measure(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        loss: Callable[[Any, Any], Tensor] | None,
        chosen: Sequence[Entry],
        kept: Mapping[str, Tensor],
    ) -> list[Tensor]:
        """The mean over examples, for each chosen parameter. What the model is left with, the caller puts back.

        `kept` has the masks of those chosen parameters that are masked by now.
        """


class InputStatistic(Statistic):
    """Made from what a layer receives."""

    @abstractmethod
    def from_input(self, module: nn.Module, inputs: Tensor, examples: int) -> Tensor:
        """The contribution of one call of `module` for a batch of `examples`, broadcastable to its weight."""


@dataclass(frozen=True)
class Gradient(GradientStatistic):
    """Sum over examples of dL_n/dw, signed. Shape: the parameter's.

    In mode "train", BatchNorm normalises by the batch, so that the gradient depends on how the data are cut into
    batches; dropout draws by the number of the batch.
    """

    mode: Mode = "eval"
    per_example: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_mode(type(self).__name__, self.mode)

    @property
    def kind(self) -> str:
        return "gradient" if self.mode == "eval" else f"gradient, {self.mode} mode"

    @property
    def of_mode(self) -> Mode:
        return self.mode

    def from_gradient(self, gradient: Tensor, examples: int) -> Tensor:
        return wide(gradient) * examples


@dataclass(frozen=True)
class AbsoluteGradient(GradientStatistic):
    """Sum over examples of |dL_n/dw|. Shape: the parameter's.

    Every example is run by itself, which makes it independent of the batch size and as slow as batch size 1.
    """

    per_example: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        return "absolute gradient"

    def from_gradient(self, gradient: Tensor, examples: int) -> Tensor:
        return wide(gradient).abs() * examples


@dataclass(frozen=True)
class InputPower(InputStatistic):
    """Sum over examples of the mean over positions of |x_c|^p, for each input feature or channel c of a layer.

    Shape: (1, features) for Linear, (1, channels, 1, ...) for convolutions, (channels, 1, ...) for transposed ones; a
    grouped convolution's filters get the channels of their own group, (filters, channels per group, 1, ...).
    Every axis but the channels' is a position, so that windows or time steps folded into the batch axis weigh no more
    than others. A layer that is called several times in one forward adds up its calls.
    """

    p: float = 2.0

    @property
    def kind(self) -> str:
        return f"input power {self.p:.15g}"

    def from_input(self, module: nn.Module, inputs: Tensor, examples: int) -> Tensor:
        power = wide(inputs.detach()).abs().pow(self.p)
        if not isinstance(module, nn.modules.conv._ConvNd):
            return power.reshape(-1, power.shape[-1]).mean(0, keepdim=True) * examples
        channel_axis = power.ndim - len(module.kernel_size) - 1  # 0 for a single image
        channels = power.movedim(channel_axis, 0).flatten(1).mean(1) * examples
        return _per_filter(channels, module).reshape(_channel_shape(module))


def require_mode(who: str, mode: object) -> None:
    """Raise `SparsewoodError` for what is no mode."""
    if mode not in get_args(Mode):
        raise SparsewoodError(f"{who}: mode must be one of {', '.join(get_args(Mode))}. Got {mode!r}.")


def wide(tensor: Tensor) -> Tensor:
    """At least float32: sums in half precision would depend on how the data is cut into batches."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _per_filter(channels: Tensor, module: nn.modules.conv._ConvNd) -> Tensor:
    if module.transposed or module.groups == 1:
        return channels
    return channels.reshape(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)


def _channel_shape(module: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    ones = (1,) * len(module.kernel_size)
    if module.transposed:
        return (module.in_channels, 1, *ones)
    filters = module.out_channels if module.groups > 1 else 1
    return (filters, module.in_channels // module.groups, *ones)
