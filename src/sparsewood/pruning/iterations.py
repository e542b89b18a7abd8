"""A large amount in small steps: the amounts on the way."""

from __future__ import annotations

import math

from sparsewood.errors import SparsewoodError
from sparsewood.types import Amount, Compression, Count, Density, Remaining, Sparsity

__all__ = ["steps_to"]


def steps_to(amount: Amount, iterations: int, units: int, alive: int) -> list[Amount]:
    """Amounts that end at `amount`: the same share of what is left goes in each of the steps.

    Densities d^((k + 1) / n), compressions r^((k + 1) / n); counts of `units`, of which `alive` are left, alike. The
    last is the amount itself. Raises `SparsewoodError` for amounts that do not say how much goes.

    >>> [round(step.fraction, 3) for step in steps_to(Sparsity(0.99), 2, 100, 100)]
    [0.9, 0.99]
    >>> steps_to(Count(99), 2, 100, 100), steps_to(Compression(100.0), 2, 100, 100)
    ([Count(n=90), Count(n=99)], [Compression(ratio=10.0), Compression(ratio=100.0)])
    """
    shares = [(k + 1) / iterations for k in range(iterations - 1)]
    steps: list[Amount]
    match amount:
        case Sparsity(fraction):
            steps = [Sparsity(_removed(1 - fraction, share)) for share in shares]
        case Density(fraction):
            steps = [Sparsity(_removed(fraction, share)) for share in shares]
        case Compression(ratio):
            steps = [Compression(ratio**share) for share in shares]
        case Count(n):
            steps = [Count(_count(units - alive, n, units, share)) for share in shares]
        case Remaining(fraction):
            n = units - alive + round(fraction * alive)
            amount = Count(n)  # what is left now, not what the step before the last leaves
            steps = [Count(_count(units - alive, n, units, share)) for share in shares]
        case _:
            raise SparsewoodError(
                f"{amount} cannot be reached in {iterations} iterations, as it does not say how much goes. Use an "
                "amount such as Sparsity, or iterations=1."
            )
    return [*steps, amount]


def _removed(density: float, share: float) -> float:
    """1 - density^share, with the digits of densities close to 1; all goes only with the last step."""
    return -math.expm1(share * math.log(density)) if density > 0 else 0.0


def _count(before: int, after: int, units: int, share: float) -> int:
    """How many of the units are gone after a share of the steps."""
    left, last = units - before, units - after
    return units - round(left * (last / left) ** share) if left and last > 0 else before
