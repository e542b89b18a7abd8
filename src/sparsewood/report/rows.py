"""Rows of a pruning experiment, and what follows from them: means, deviations, and which strategy came first."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from sparsewood.errors import FileFormatError

__all__ = ["Order", "Point", "Result", "Summary", "aggregate", "order_of", "read_csv", "summarize", "to_csv"]


@dataclass(frozen=True)
class Result:
    """One pruned and fine-tuned network. The columns are those of ShrinkBench (https://arxiv.org/abs/2003.03033).

    Accuracies are fractions in [0, 1], `pre` before and `post` after fine-tuning. `size` and `size_nz` count all
    parameters and the non-zero ones; `flops` and `flops_nz` are the multiply-adds of one example, of all weights and of
    the non-zero ones. `real_compression` = size / size_nz and `speedup` = flops / flops_nz (theoretical).
    """

    dataset: str
    model: str
    strategy: str
    compression: float
    size: int
    size_nz: int
    real_compression: float
    flops: int
    flops_nz: int
    speedup: float
    pre_acc1: float
    pre_acc5: float
    post_acc1: float
    post_acc5: float
    seed: int
    batch_size: int
    epochs: int
    optim: str
    lr: float
    completed_epochs: int
    path: str


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1 in the denominator; None for a single value)."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Point:
    """One strategy at one compression, summarised over seeds."""

    strategy: str
    compression: float
    seeds: int
    real_compression: Summary
    flops_nz: Summary
    speedup: Summary
    pre_acc1: Summary
    pre_acc5: Summary
    post_acc1: Summary
    post_acc5: Summary


MEASURES = tuple(field.name for field in fields(Point) if field.type == "Summary")


@dataclass(frozen=True)
class Order:
    """Whether the mean `post_acc1` of the strategies, expected best first, falls or stays from each to the next."""

    compression: float
    strategies: tuple[str, ...]
    means: tuple[float, ...]
    holds: bool


def summarize(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation of at least one value.

    >>> summarize([1.0, 2.0, 3.0]), summarize([5.0])
    (Summary(mean=2.0, std=1.0), Summary(mean=5.0, std=None))
    """
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def aggregate(results: Iterable[Result]) -> list[Point]:
    """One point for each strategy and compression, in order of first appearance, over whatever seeds there are."""
    groups: dict[tuple[str, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.strategy, result.compression), []).append(result)
    return [
        Point(
            strategy,
            compression,
            len(members),
            **{name: summarize([getattr(member, name) for member in members]) for name in MEASURES},
        )
        for (strategy, compression), members in groups.items()
    ]


def order_of(points: Iterable[Point], strategies: Sequence[str], *, at_least: float = 8.0) -> list[Order]:
    """For each compression >= `at_least` at which all `strategies` were run: do the means fall in the order given?

    Equal means count as in order.
    """
    means: dict[float, dict[str, float]] = {}
    for point in points:
        means.setdefault(point.compression, {})[point.strategy] = point.post_acc1.mean
    orders = []
    for compression in sorted(means):
        found = means[compression]
        if compression >= at_least and all(name in found for name in strategies):
            values = tuple(found[name] for name in strategies)
            holds = all(values[i] >= values[i + 1] for i in range(len(values) - 1))
            orders.append(Order(compression, tuple(strategies), values, holds))
    return orders


# ---------------------------------------------------------------- files


def to_csv(rows: Sequence[object]) -> str:
    """Data class instances of one kind as CSV with a header line. Numbers are written so that they read back exactly.

    >>> to_csv([Summary(0.1, 2.0)])
    'mean,std\\n0.1,2.0\\n'
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(field.name for field in fields(row))  # pyright: ignore[reportArgumentType]
        writer.writerow(astuple(row))  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def read_csv(path: str | Path) -> list[Result]:
    """The results in a file that `to_csv` made. Raises `FileFormatError` naming the line that is not one."""
    kinds: dict[str, Callable[[str], object]] = {"int": int, "float": float, "str": str}
    columns = {field.name: kinds[str(field.type)] for field in fields(Result)}
    results = []
    with Path(path).open(newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise FileFormatError(f"'{path}' has columns {reader.fieldnames}; expected {list(columns)}.")
        for row in reader:
            try:
                results.append(Result(**{name: kind(row[name]) for name, kind in columns.items()}))  # pyright: ignore[reportArgumentType]
            except (TypeError, ValueError) as error:
                raise FileFormatError(f"'{path}', line {reader.line_num}: not a result ({error}).") from error
    return results
