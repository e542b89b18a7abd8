"""Rows, their means and the order of strategies. Requirements 8.2 (columns), 8.3 (sample deviation)."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from sparsewood.errors import FileFormatError
from sparsewood.report.rows import Result, Summary, aggregate, order_of, read_csv, summarize, to_csv

COLUMNS = (
    "dataset,model,strategy,compression,size,size_nz,real_compression,flops,flops_nz,speedup,pre_acc1,pre_acc5,"
    "post_acc1,post_acc5,seed,batch_size,epochs,optim,lr,completed_epochs,path"
)


def result(strategy: str = "random", compression: float = 8.0, post: float = 0.5, seed: int = 0) -> Result:
    return Result(
        "digits", "net", strategy, compression, 80, 10, 8.0, 160, 40, 4.0, 0.1, 0.6, post, 0.9,
        seed, 64, 3, "SGD", 0.1, 3, "masks_summary.csv",
    )  # fmt: skip


def test_columns_are_those_of_the_protocol() -> None:
    assert ",".join(field.name for field in fields(Result)) == COLUMNS
    assert to_csv([result()]).splitlines()[0] == COLUMNS


def test_a_written_file_reads_back_exactly(tmp_path: Path) -> None:
    rows = [result(post=1 / 3, seed=1), result("a, b", post=0.1 + 0.2, seed=2**62)]
    path = tmp_path / "results.csv"
    path.write_text(to_csv(rows))
    assert read_csv(path) == rows


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", COLUMNS + "\n1,2\n", COLUMNS + "\n" + ",".join("x" * 21) + "\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"results\.csv"):
        read_csv(path)


def test_deviation_is_that_of_a_sample() -> None:
    assert summarize([1.0, 2.0, 3.0, 4.0]) == Summary(2.5, pytest.approx((5 / 3) ** 0.5))
    assert summarize([2.0]).std is None


def test_aggregate_groups_by_strategy_and_compression() -> None:
    rows = [result(post=0.4, seed=0), result("global", post=0.8), result(post=0.6, seed=1), result(compression=16.0)]
    points = aggregate(rows)
    assert [(p.strategy, p.compression, p.seeds) for p in points] == [
        ("random", 8.0, 2),
        ("global", 8.0, 1),
        ("random", 16.0, 1),
    ]
    assert points[0].post_acc1 == Summary(0.5, pytest.approx(0.02**0.5))
    assert points[0].real_compression == Summary(8.0, 0.0)


@pytest.mark.parametrize(
    ("best", "middle", "worst", "holds"),
    [(0.9, 0.8, 0.7, True), (0.9, 0.9, 0.9, True), (0.8, 0.9, 0.7, False), (0.9, 0.7, 0.8, False)],
)
def test_order_is_read_off_the_means(best: float, middle: float, worst: float, holds: bool) -> None:
    rows = [result("c", post=worst), result("a", post=best), result("b", post=middle), result("a", 4.0)]
    (order,) = order_of(aggregate(rows), ("a", "b", "c"))
    assert (order.compression, order.means, order.holds) == (8.0, (best, middle, worst), holds)


def test_order_leaves_out_low_and_incomplete_compressions() -> None:
    rows = [result(name, ratio) for name in ("a", "b") for ratio in (4.0, 8.0, 16.0)] + [result("a", 32.0)]
    assert [o.compression for o in order_of(aggregate(rows), ("a", "b"))] == [8.0, 16.0]
    assert [o.compression for o in order_of(aggregate(rows), ("a", "b"), at_least=4)] == [4.0, 8.0, 16.0]


def test_rows_are_values() -> None:
    assert replace(result(), seed=1) != result()
