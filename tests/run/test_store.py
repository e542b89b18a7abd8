"""Results in one file: written by several processes at a time, never worse than they were, read back exactly."""

from __future__ import annotations

import builtins
import csv
import io
import multiprocessing
import sqlite3
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsewood as sw
from sparsewood.errors import FileFormatError, OutputError, SparsewoodError
from sparsewood.run import store as store_module
from sparsewood.run.store import COLUMNS, FILE, Store, open_results


def row(key: str = "a", **values: Any) -> dict[str, Any]:
    """A row as a cell notes it, with more than the table has."""
    given_ones = {"hash": key, "problem": "p", "method": "m", "kind": "pruned", "role": "method", "of": ""}
    return {**given_ones, "amount": 2.0, "seed": 1, "layers": [1, 2], "recipe": "words", **values}


# ---------------------------------------------------------------- writing


def test_a_row_is_read_back_with_every_column(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "accuracy": 0.1 + 0.2,
        "flops": 2**53 + 1,
        "size": 2**62,
        "loss": 1e-300,
        "error": "not of it",
        "dataset": "quotes ', \", commas, \n lines and \u00e4\u4e2d",
    }
    store = Store(tmp_path)
    store.add(row(**values))
    (found,) = store.rows()
    assert list(found) == list(COLUMNS)
    wanted = {name: {**row(), **values}.get(name) for name in COLUMNS} | {"status": "done", "error": None}
    assert found == wanted
    assert (type(found["flops"]), type(found["accuracy"]), type(found["amount"])) == (int, float, float)


def test_rows_come_in_the_order_of_their_first_writing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in "cab":
        store.add(row(key))
    store.add(row("c", accuracy=0.5))
    assert [found["hash"] for found in Store(tmp_path).rows()] == ["c", "a", "b"]
    assert [found["hash"] for found in store.rows(["b", "c", "none"])] == ["c", "b"]
    assert store.rows([]) == []


@pytest.mark.parametrize("before", ["done", "failed", "skipped"])
@pytest.mark.parametrize("after", ["done", "failed", "skipped"])
def test_what_is_done_is_replaced_by_what_is_done_only(tmp_path: Path, before: str, after: str) -> None:
    store = Store(tmp_path)
    store.add(row(accuracy=0.1), before, None if before == "done" else "first")
    store.add(row(accuracy=0.2), after, None if after == "done" else "second")
    (found,) = store.rows()
    replaced = after == "done" or before != "done"
    assert (found["accuracy"], found["status"]) == ((0.2, after) if replaced else (0.1, before))
    assert found["error"] == (("second" if after != "done" else None) if replaced else None)


def test_the_same_row_again_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(row(accuracy=0.3))
    before = store.rows()
    store.add(row(accuracy=0.3))
    assert Store(tmp_path).rows() == before


def test_a_row_without_what_it_must_have_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(SparsewoodError, match="method"):
        store.add({"hash": "a", "problem": "p"})
    assert store.rows() == []


def fill(directory: str, number: int, ready: Any) -> None:
    ready.wait(60)
    for index in range(20):
        Store(directory).add(row(f"{number}-{index}", seed=number, accuracy=index / 20))
        Store(directory).add(row("shared", seed=number), "failed" if number else "done", "why" if number else None)


def test_several_processes_write_at_once_from_the_first_moment_on(tmp_path: Path) -> None:
    """Nobody made the file before, and all of them begin at the same time."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(4)
    processes = [context.Process(target=fill, args=(str(tmp_path), number, ready)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    found = {one["hash"]: one for one in Store(tmp_path).rows()}
    assert set(found) == {f"{number}-{index}" for number in range(4) for index in range(20)} | {"shared"}
    assert found["shared"]["status"] == "done"
    assert all(found[f"{n}-{i}"]["accuracy"] == i / 20 for n in range(4) for i in range(20))


def hold(path: Path) -> sqlite3.Connection:
    """A file that another is just writing, and that has no write-ahead log yet."""
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_a_new_file_that_another_writes_is_waited_for(tmp_path: Path) -> None:
    other = hold(tmp_path / FILE)
    timer = threading.Timer(0.3, other.rollback)
    began = time.monotonic()
    timer.start()
    try:
        Store(tmp_path).add(row("a"))
        assert time.monotonic() - began > 0.2
    finally:
        timer.join()
        other.close()
    assert [found["hash"] for found in Store(tmp_path).rows()] == ["a"]
    reader = sqlite3.connect(tmp_path / FILE)
    assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.close()


def test_a_file_that_stays_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SECONDS_TO_WAIT", 0.1)
    other = hold(tmp_path / FILE)
    try:
        with pytest.raises(OutputError, match="database is locked"):
            Store(tmp_path)
    finally:
        other.close()


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: store.add(row(str(key))), range(40)))
    assert len(store.rows()) == 40


def test_a_file_that_others_read_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(row("a"))
    reader = sqlite3.connect(store.path)
    try:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM cells").fetchone() == (1,)
        store.add(row("b"))
        assert len(store.rows()) == 2
        assert reader.execute("SELECT count(*) FROM cells").fetchone() == (1,)  # as it was when it began to read
    finally:
        reader.close()


# ---------------------------------------------------------------- as CSV


def test_csv_has_every_column_and_numbers_read_back_exactly(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(row("a", accuracy=0.1 + 0.2, dataset='with "quotes", commas\nand lines', size=2**53 + 1))
    store.add(row("b"), "failed", "it, failed")
    lines = list(csv.DictReader(io.StringIO(store.to_csv(), newline="")))
    assert list(lines[0]) == list(COLUMNS)
    for line, found in zip(lines, store.rows(), strict=True):
        for name, kind in COLUMNS.items():
            value = found[name]
            assert line[name] == ("" if value is None else line[name])
            if value is not None:
                read = float(line[name]) if kind.startswith("REAL") else line[name]
                assert read == (value if kind.startswith("REAL") else str(value)), name


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_survives(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    store = Store(tmp_path_factory.mktemp("numbers"))
    store.add(row(accuracy=value))
    assert store.rows()[0]["accuracy"] == value
    (line,) = csv.DictReader(io.StringIO(store.to_csv()))
    assert float(line["accuracy"]) == value


def test_csv_of_some_and_of_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.to_csv() == ",".join(COLUMNS) + "\n"
    store.add(row("a"))
    store.add(row("b"))
    assert [line["hash"] for line in csv.DictReader(io.StringIO(store.to_csv(["b"])))] == ["b"]


# ---------------------------------------------------------------- as a data frame


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    store.add(row("a", accuracy=0.5, accuracy5=None))
    store.add(row("b", seed=2), "failed", "why")
    return tmp_path


def test_a_frame_of_pandas(results: Path) -> None:
    pytest.importorskip("pandas")
    for given_place in (results, str(results), results / FILE, str(results / FILE)):
        frame = sw.open_results(given_place)
        assert list(frame.columns) == list(COLUMNS)
        assert frame["hash"].tolist() == ["a", "b"]
        assert frame["status"].tolist() == ["done", "failed"]
        assert frame["accuracy"].iloc[0] == 0.5
        assert frame["accuracy"].isna().tolist() == [False, True]
    assert len(open_results(results, "pandas")) == 2


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Imports of these fail."""
    real = builtins.__import__

    def importing(name: str, *arguments: Any, **rest: Any) -> Any:
        if name.partition(".")[0] in names:
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **rest)

    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", importing)


def fake_polars(monkeypatch: pytest.MonkeyPatch) -> None:
    polars = types.ModuleType("polars")
    polars.DataFrame = lambda columns: ("polars", columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polars", polars)


def test_a_frame_of_polars_where_it_is_asked_for_or_all_there_is(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_polars(monkeypatch)
    kind, columns = open_results(results, "polars")
    assert (kind, list(columns), columns["hash"]) == ("polars", list(COLUMNS), ["a", "b"])
    missing(monkeypatch, "pandas")
    assert open_results(results)[0] == "polars"


def test_pandas_comes_first_and_is_not_needed_for_polars(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    fake_polars(monkeypatch)
    assert isinstance(open_results(results), pandas.DataFrame)


@pytest.mark.parametrize(("library", "said"), [(None, "pandas or polars"), ("pandas", "pandas"), ("polars", "polars")])
def test_a_library_that_is_not_there_is_named(
    results: Path, monkeypatch: pytest.MonkeyPatch, library: Any, said: str
) -> None:
    missing(monkeypatch, "pandas", "polars")
    with pytest.raises(SparsewoodError, match=f"needs {said}, which is not installed. Run: pip install") as caught:
        open_results(results, library)
    assert "results.csv" in str(caught.value)


def test_places_without_results_and_libraries_that_nobody_knows(tmp_path: Path, results: Path) -> None:
    for place in (tmp_path / "none", tmp_path / "none" / FILE):
        with pytest.raises(SparsewoodError, match=r"no results\.sqlite"):
            open_results(place)
    assert not (tmp_path / "none").exists()
    with pytest.raises(SparsewoodError, match="'arrow'"):
        open_results(results, "arrow")  # type: ignore[arg-type]


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 40, b"SQLite format 3\x00" * 90]
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    for read in (Store, open_results):
        with pytest.raises(FileFormatError, match=r"results\.sqlite' cannot be read.*Move it away"):
            read(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(200):
        store.add(row(str(number), recipe="x" * 500, dataset="y" * 500))
    for beside in tmp_path.glob(f"{FILE}-*"):
        beside.unlink()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="Move it away"):
        Store(tmp_path).rows()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match="none"):
        Store(tmp_path / "none")
