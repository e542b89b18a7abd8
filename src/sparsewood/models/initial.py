"""What all reference models share: where initial weights come from, and checks of their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from sparsewood.errors import SparsewoodError

__all__ = ["drawn_from", "he_normal", "require_choice", "require_counts", "require_rate"]


@contextmanager
def drawn_from(generator: torch.Generator | None) -> Iterator[None]:
    """Weights that are drawn inside come from `generator`, and the global random state is afterwards what it was.

    The generator gives one number, from which everything inside is seeded; so weights depend on the generator's state
    alone. Without a generator nothing happens, and weights come from PyTorch's global state.

    >>> with drawn_from(torch.Generator().manual_seed(1)):
    ...     one = nn.Linear(2, 2)
    >>> with drawn_from(torch.Generator().manual_seed(1)):
    ...     two = nn.Linear(2, 2)
    >>> torch.equal(one.weight, two.weight)
    True
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    device = torch.get_default_device()
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not forked
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def he_normal(model: nn.Module) -> None:
    """Draw the weights of all 2-d convolutions anew: normal, with variance 2 / (outputs * kernel size), in place.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def require_counts(model: str, **values: int) -> None:
    """Raise `SparsewoodError` for the first value that is not a whole number >= 1.

    >>> require_counts("mlp", width=0)
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The 'width' of mlp must be a whole number >= 1. Got 0 instead.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SparsewoodError(f"The {name!r} of {model} must be a whole number >= 1. Got {value!r} instead.")


def require_choice(model: str, name: str, value: object, choices: Sequence[object]) -> None:
    """Raise `SparsewoodError` for a value that is none of `choices`."""
    if value not in choices:
        shown = " or ".join(map(repr, choices)) if len(choices) < 3 else f"one of {', '.join(map(repr, choices))}"
        raise SparsewoodError(f"The {name!r} of {model} must be {shown}. Got {value!r} instead.")


def require_rate(model: str, name: str, value: float) -> None:
    """Raise `SparsewoodError` for a probability outside [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise SparsewoodError(f"The {name!r} of {model} must be a number in [0, 1). Got {value!r} instead.")
