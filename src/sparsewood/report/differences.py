"""Differences between a method and its controls, seed by seed: what a comparison is about."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from sparsewood.report.study import Difference, Row

__all__ = ["CONFIDENCE", "LIKE", "controls_of", "interval", "paired_differences"]

CONFIDENCE = 0.95
LIKE = 1.25


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The interval that holds the mean of normally distributed values with this confidence; None for a single value.

    mean -+ t s / sqrt(n), s the sample standard deviation (n - 1), t the quantile (1 + confidence) / 2 of Student's
    distribution with n - 1 degrees of freedom. With three seeds t is 4.3: differences have to be large to show.

    Source: Student 1908, "The probable error of a mean", Biometrika 6, https://doi.org/10.1093/biomet/6.1.1.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, half = statistics.fmean(values), float(t.ppf((1 + confidence) / 2, len(values) - 1))
    half *= statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def paired_differences(
    rows: Iterable[Row], controls: Callable[[Row], Mapping[str, tuple[str, float]]] | None = None
) -> list[Difference]:
    """Accuracy of every method less that of each control of it, in percentage points, over the seeds that both have.

    `controls` says which these are: from what the control is called here to (method, amount) of its rows; by default
    `controls_of` the rows. Whole units leave other sizes than what was asked for, and a control of another size is
    none: where the mean real compressions differ by more than a factor of `LIKE`, there is no difference to give.
    (Dense networks are compared with as they are.)

    >>> def row(method, role, seed, accuracy):
    ...     sizes = (4, 4, 8, 2, 8, 2)
    ...     return Row("p", method, role, "", 4, seed, accuracy, *[None] * 4, *sizes, *[None] * 3, 0, "", "")
    >>> rows = [row("m", "method", 1, 0.51), row("m", "method", 2, 0.52)]
    >>> rows += [row("random", "control", seed, 0.4) for seed in (1, 2)]
    >>> [(one.control, one.pairs, round(one.mean, 6)) for one in paired_differences(rows)]
    [('random', 2, 11.5)]
    """
    every = list(rows)
    find = controls_of(every) if controls is None else controls
    reached = {(row.problem, row.method, row.amount, row.seed): row for row in every}
    found = []
    for problem, method, amount in dict.fromkeys((r.problem, r.method, r.amount) for r in every if r.role == "method"):
        own = [row for row in every if (row.problem, row.method, row.amount) == (problem, method, amount)]
        for name, (control, at) in find(own[0]).items():
            both = [(row, other) for row in own if (other := reached.get((problem, control, at, row.seed))) is not None]
            pairs = [100 * (row.accuracy - other.accuracy) for row, other in both]
            if pairs and (at == 1.0 or _alike(both)):
                bounds = interval(pairs) or (None, None)
                found.append(Difference(problem, method, name, amount, len(pairs), statistics.fmean(pairs), *bounds))
    return found


def _alike(pairs: Sequence[tuple[Row, Row]]) -> bool:
    """Whether these networks are of one size, up to `LIKE`."""
    ratio = sum(row.compression for row, _ in pairs) / sum(other.compression for _, other in pairs)
    return 1 / LIKE <= ratio <= LIKE


def controls_of(rows: Iterable[Row]) -> Callable[[Row], Mapping[str, tuple[str, float]]]:
    """The controls that there are of a method at an amount.

    Those of its own (rows that name it in `of`), and those of all, at the same amount, or dense ones (amount 1).
    """
    own: dict[tuple[str, str], dict[tuple[str, float], None]] = {}
    general: dict[tuple[str, str, float], None] = {}
    for row in rows:
        if row.role == "control" and row.of:
            own.setdefault((row.problem, row.of), {})[row.method, row.amount] = None
        elif row.role == "control":
            general[row.problem, row.method, row.amount] = None

    def find(row: Row) -> dict[str, tuple[str, float]]:
        suffix = f"_of_{row.method}"
        those = own.get((row.problem, row.method), {})
        found = {name.removesuffix(suffix): (name, at) for name, at in those if at in (1.0, row.amount)}
        for problem, name, amount in general:
            if problem == row.problem and amount in (1.0, row.amount):
                found.setdefault(name, (name, amount))
        return found

    return find
