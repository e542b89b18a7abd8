"""A large amount in small steps: the amounts on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sparsewood.errors import SparsewoodError
from sparsewood.types import Amount, Compression, Count, Density, Remaining, Sparsity

__all__ = ["Start", "steps_to", "warnings_once"]

_REPEATED = ("sparsewood.allocation.select", "sparsewood.statistics.collect", "sparsewood.statistics.synaptic_flow")


@dataclass(frozen=True)
class Start:
    """Where the steps begin: how many units there are, how many are left, and the compression of the whole model."""

    units: int
    alive: int
    compression: float = 1.0


def steps_to(amount: Amount, iterations: int, start: Start) -> list[Amount]:
    """Amounts that end at `amount`: the same share of what is left goes in each of the steps.

    From what is left now, r_0, to what shall be left, r: r_0 (r / r_0)^((k + 1) / n), of densities, counts of units and
    inverse compressions alike. The last is the amount itself. Raises `SparsewoodError` for amounts that do not say how
    much goes.

    >>> [round(step.fraction, 3) for step in steps_to(Sparsity(0.99), 2, Start(100, 100))]
    [0.9, 0.99]
    >>> steps_to(Count(99), 2, Start(100, 25)), steps_to(Compression(100.0), 2, Start(100, 100))
    ([Count(n=95), Count(n=99)], [Compression(ratio=10.0), Compression(ratio=100.0)])
    """
    if isinstance(amount, Remaining):  # of what is left now, not of what the step before the last leaves
        amount = Count(start.units - start.alive + round(amount.fraction * start.alive))
    shares = [(k + 1) / iterations for k in range(iterations - 1)]
    density = start.alive / max(1, start.units)
    steps: list[Amount]
    match amount:
        case Sparsity(fraction):
            steps = [Sparsity(1 - _way(density, 1 - fraction, share)) for share in shares]
        case Density(fraction):
            steps = [Density(_way(density, fraction, share)) for share in shares]
        case Compression(ratio):
            steps = [Compression(_way(start.compression, ratio, share)) for share in shares]
        case Count(n):
            left = [_way(start.alive, start.units - n, share) for share in shares]
            steps = [Count(start.units - round(one)) for one in left]
        case _:
            raise SparsewoodError(
                f"{amount} cannot be reached in {iterations} iterations, as it does not say how much goes. Use an "
                "amount such as Sparsity, or iterations=1."
            )
    return [*steps, amount]


def _way(start: float, end: float, share: float) -> float:
    """start (end / start)^share; all of it stays until the last step where nothing is to be left."""
    return start * (end / start) ** share if start > 0 and end > 0 else start


@contextmanager
def warnings_once() -> Iterator[None]:
    """Inside, each kind of warning that every step would give of every layer is given once."""
    said: set[object] = set()

    def first(record: logging.LogRecord) -> bool:
        new = record.msg not in said
        said.add(record.msg)
        return new

    loggers = [logging.getLogger(name) for name in _REPEATED]
    for logger in loggers:
        logger.addFilter(first)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(first)
