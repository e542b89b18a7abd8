"""Optimizers as plain values: what to build, without the parameters to build it over."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparsewood.errors import SparsewoodError

__all__ = ["SGD", "Adam", "AdamW"]


class OptimizerSettings(ABC):
    """Settings that make an optimizer when called on parameters. `lr` is the rate that schedules multiply."""

    @property
    @abstractmethod
    def rate(self) -> float:
        """The learning rate that a factor of 1 stands for."""

    @abstractmethod
    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new PyTorch optimizer over `parameters`."""


@dataclass(frozen=True)
class SGD(OptimizerSettings):
    """`torch.optim.SGD`: v = momentum v + (gradient + weight_decay w); w = w - lr v (with Nesterov, one step ahead).

    Source: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html.

    >>> SGD(lr=0.1)(nn.Linear(1, 1).parameters()).defaults["momentum"]
    0.9
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _require("SGD", "lr", self.lr)
        _require("SGD", "momentum", self.momentum, below=1.0)
        _require("SGD", "weight_decay", self.weight_decay)
        if self.nesterov and self.momentum == 0:
            raise SparsewoodError("SGD: nesterov needs a momentum > 0. Got momentum=0.")

    @property
    def rate(self) -> float:
        return self.lr

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        return torch.optim.SGD(
            parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class Adam(OptimizerSettings):
    """`torch.optim.Adam`: steps by the running mean of gradients over the root of that of their squares.

    `weight_decay` is added to the gradient, so it is scaled like one; `AdamW` shrinks the weights themselves.
    Source: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980.

    >>> Adam()(nn.Linear(1, 1).parameters()).defaults["betas"]
    (0.9, 0.999)
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _adaptive("Adam", self.lr, self.betas, self.eps, self.weight_decay))

    @property
    def rate(self) -> float:
        return self.lr

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class AdamW(OptimizerSettings):
    """`torch.optim.AdamW`: Adam, and apart from it w = w - lr weight_decay w.

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.

    >>> AdamW()(nn.Linear(1, 1).parameters()).defaults["weight_decay"]
    0.01
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _adaptive("AdamW", self.lr, self.betas, self.eps, self.weight_decay))

    @property
    def rate(self) -> float:
        return self.lr

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


def _adaptive(kind: str, lr: float, betas: object, eps: float, weight_decay: float) -> tuple[float, float]:
    _require(kind, "lr", lr)
    _require(kind, "eps", eps)
    _require(kind, "weight_decay", weight_decay)
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise SparsewoodError(f"{kind}: betas must be two numbers in [0, 1). Got {betas!r}.")
    for beta in betas:
        _require(kind, "betas", beta, below=1.0)
    return float(betas[0]), float(betas[1])


def _require(kind: str, name: str, value: Any, below: float = math.inf) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < below:  # NaN fails, too
        limits = "a finite number >= 0" if below == math.inf else f"in [0, {below:g})"
        raise SparsewoodError(f"{kind}: {name} must be {limits}. Got {value!r}.")
