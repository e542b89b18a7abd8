"""The command line: quick help, clear errors, exit codes. Requirement 002-10; regressions 19 and 22."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sparsewood.errors import SparsewoodError
from sparsewood.run.catalogue import KINDS, catalogue
from sparsewood.run.cli import main
from sparsewood.run.settings import DEFAULTS, DemoSettings, parse_compressions, parse_seeds

Captured = pytest.CaptureFixture[str]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sparsewood.run.cli import main\n"
        "try:\n    main(['demo', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for name in fields(DemoSettings):
        assert f"--{name.name.replace('_', '-')}" in done.stdout
    assert "--output" in done.stdout


def test_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_list_prints_every_name_with_a_line(kind: str, capsys: Captured) -> None:
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = catalogue(kind)
    assert found
    assert [line.split()[0] for line in lines] == [name for name, _ in found]
    for name, first in found:
        assert first.endswith("."), f"{name} has no one-line description"


def test_catalogues_hold_what_they_say() -> None:
    names = {kind: {name for name, _ in catalogue(kind)} for kind in KINDS}
    assert {"Random", "Magnitude", "WeightTimesGradient"} <= names["criteria"]
    assert {"Everywhere", "PerLayer"} <= names["scopes"]
    assert {"Uniform", "ERK"} <= names["allocations"]
    assert not names["scopes"] & names["allocations"]
    assert {"Element", "Filter", "NM"} <= names["granularities"]
    assert "small_conv" in names["models"]
    assert {"digits", "mnist", "cifar10"} <= names["data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "critera"], "Unknown catalogue 'critera'. Did you mean 'criteria'"),
        (["demo", "--seeds", "three"], "--seeds must be how many"),
        (["demo", "--seeds", "0"], "--seeds must be at least 1"),
        (["demo", "--seeds", "1,1"], "'seeds' must be at least one, each once. Got (1, 1)"),
        (["demo", "--compressions", "0.5"], "'compressions' must be finite numbers >= 1"),
        (["demo", "--compressions", "x"], "--compressions must be a list of numbers"),
        (["demo", "--lr", "0"], "'lr' must be a number > 0. Got 0.0"),
        (["demo", "--lr", "nan"], "'lr' must be a number > 0. Got nan"),
        (["demo", "--epochs", "0"], "'epochs' must be a whole number >= 1"),
        (["demo", "--epochs", "many"], "many"),
        (["demo", "--evaluate-on", "train"], "train"),
        (["demo", "--no-such-option"], "--no-such-option"),
        (["dmo"], "dmo"),
    ],
)
def test_user_errors_are_one_line_and_code_2(
    arguments: list[str], message: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("sparsewood: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_installed_command_reports_errors_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "sparsewood", "demo", "--output", str(tmp_path / "file" / "below")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sparsewood: Cannot write to directory")
    assert "Traceback" not in done.stderr


def test_defaults_shown_are_the_defaults_run() -> None:
    assert parse_seeds(str(len(DEFAULTS.seeds)), DEFAULTS.seed) == DEFAULTS.seeds
    assert parse_compressions(",".join(f"{ratio:g}" for ratio in DEFAULTS.compressions)) == DEFAULTS.compressions


def test_settings_refuse_what_no_run_can_have() -> None:
    with pytest.raises(SparsewoodError, match="evaluate_on"):
        DemoSettings(evaluate_on="train")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match="threads"):
        DemoSettings(threads=0)
    with pytest.raises(SparsewoodError, match="seeds"):
        DemoSettings(seeds=())


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "sparsewood", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "sparsewood", "list", "criteria"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sparsewood: ")
    assert done.stderr.count("\n") == 1
