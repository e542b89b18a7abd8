"""What a toy is: a network in a few lines, inputs for it, and which of its units hang together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.testing.toys.architectures import _seeded

__all__ = ["ANY", "Coupled", "Network", "Toy", "image", "pool", "sequence", "tokens"]

ANY = "any"
"""Of a group that may be exact or not: the toy does not say."""


class Network(nn.Module):
    """Parts by name, and a forward that is a function of them: `run(network, *inputs)`.

    >>> net = Network(lambda net, x: net.last(torch.relu(net.first(x))), first=nn.Linear(4, 8), last=nn.Linear(8, 2))
    >>> net(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.run(self, *inputs, **keywords)


@dataclass(frozen=True)
class Coupled:
    """A group: `units` units, and the axes that they share, as `NAME:AXIS` or, with n positions a unit, `NAME:AXIS*n`.

    A name may be a pattern for several parameters and buffers. `inexact` is a word in the reason why removing differs
    from zeroing; "" if it does not, `ANY` if the toy does not say.

    >>> shapes = {"conv.weight": (4, 3, 1, 1), "conv.bias": (4,), "head.weight": (2, 16)}
    >>> sorted(Coupled(4, "conv.*:0 head.weight:1*4").footprint(shapes))
    [('conv.bias', 0, 1), ('conv.weight', 0, 1), ('head.weight', 1, 4)]
    """

    units: int
    axes: str
    inexact: str = ""

    def footprint(self, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[tuple[str, int, int]]:
        """(name, axis, positions of one unit), given the shapes of all parameters and buffers."""
        found: set[tuple[str, int, int]] = set()
        for entry in self.axes.split():
            pattern, _, place = entry.rpartition(":")
            axis, _, count = place.partition("*")
            names = [name for name, shape in shapes.items() if fnmatchcase(name, pattern) and len(shape) > int(axis)]
            assert names, f"nothing is called {pattern!r} and has an axis {axis}"
            found |= {(name, int(axis), int(count or 1)) for name in names}
        return frozenset(found)


@dataclass(frozen=True)
class Toy:
    """A network in the making: `build()` gives a new one, always the same; `inputs()` what to call it with.

    `groups` are all its removable groups, `None` where the toy does not say. `frozen` names axes (`NAME:AXIS`) that
    stay, with a word of the reason.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[torch.Generator], Any]
    groups: tuple[Coupled, ...] | None = None
    frozen: Mapping[str, str] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """A new network with fixed random weights, in eval mode."""
        return _seeded(self.make).eval()

    def inputs(self, seed: int = 0) -> Any:
        """Example inputs: a tensor, a tuple of positional inputs or a dict of keyword inputs."""
        return self.example(torch.Generator().manual_seed(seed))

    def __str__(self) -> str:
        return self.name


def image(*shape: int) -> Callable[[torch.Generator], Tensor]:
    """Normal numbers; by default two images with three channels and 8 x 8 pixels."""
    size = shape or (2, 3, 8, 8)
    return lambda generator: torch.randn(*size, generator=generator)


def sequence(width: int = 6, length: int = 5) -> Callable[[torch.Generator], Tensor]:
    """Two sequences of vectors."""
    return image(2, length, width)


def tokens(vocabulary: int = 11, length: int = 5) -> Callable[[torch.Generator], Tensor]:
    """Two sequences of whole numbers below `vocabulary`."""
    return lambda generator: torch.randint(vocabulary, (2, length), generator=generator)


def pool(x: Tensor) -> Tensor:
    """The mean over pixels."""
    return x.mean((2, 3))
