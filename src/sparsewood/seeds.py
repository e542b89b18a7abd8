"""Seeds for everything random, derived from one seed and what it is for.

Nothing random is ever stored: the order of epoch 3 or the dropout of step 500 follows from the run's seed and these
numbers alone. Training can therefore be cut anywhere and go on with the same numbers, and going back to an earlier step
brings its randomness back too.
"""

from __future__ import annotations

import hashlib

import torch

from sparsewood.errors import SparsewoodError

__all__ = ["derive", "generator_for"]


def derive(seed: int, *labels: str | int) -> int:
    """A seed in [0, 2^63) for the purpose that `labels` name: SHA-256 of all of them, the first 63 bits.

    Raises `SparsewoodError` if `seed` is not a whole number >= 0.

    >>> derive(1, "order", 3) == derive(1, "order", 3), derive(1, "order", 3) == derive(1, "order", 4)
    (True, False)
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SparsewoodError(f"A seed must be a whole number >= 0. Got {seed!r}.")
    text = "/".join(f"{type(label).__name__}:{label}" for label in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *labels: str | int) -> torch.Generator:
    """A generator on the CPU, seeded with `derive(seed, *labels)`.

    >>> torch.rand(1, generator=generator_for(1, "a")) == torch.rand(1, generator=generator_for(1, "a"))
    tensor([True])
    """
    return torch.Generator().manual_seed(derive(seed, *labels))
