"""What `sparsewood list` shows, and what recipes can name."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass

import pytest

from sparsewood.errors import UnknownName
from sparsewood.models.sources import LIBRARIES
from sparsewood.run import catalogue as module
from sparsewood.run.catalogue import ELSEWHERE, KINDS, Kind, catalogue, components, converter, kind_of, name_of, takes
from sparsewood.run.cli import main
from sparsewood.schedules import Cubic
from sparsewood.types import Count


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_components_with_a_line(kind: str) -> None:
    assert components(kind)
    for name, line in catalogue(kind):
        assert line.endswith("."), f"{name} has no one-line description"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind_of(kind).deferred])
def test_components_are_frozen_values(kind: str) -> None:
    for name, value in components(kind).items():
        assert is_dataclass(value), name
        assert value.__dataclass_params__.frozen, name  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind_of(kind).deferred])
def test_calls_are_functions(kind: str) -> None:
    for name, value in components(kind).items():
        assert inspect.isfunction(value), name


def test_no_name_means_two_things_of_one_kind_and_every_name_leads_back() -> None:
    for kind in KINDS:
        for name, value in components(kind).items():
            assert name_of(value) == name
    assert name_of(Kind) == "sparsewood.run.catalogue:Kind"


def test_packages_that_hold_two_kinds_are_told_apart() -> None:
    assert not components("scopes").keys() & components("allocations").keys()
    assert "PerLayer" in components("scopes")
    assert set(components("allocations")) == {"ERK", "LAMP", "Uniform"}
    assert "Augmentation" not in components("augmentations")  # what they have in common is none of them


def test_parameters_are_listed_without_those_that_only_python_can_give() -> None:
    assert takes("schedules", "Cubic") == "final, initial=0.0"
    assert takes("criteria", "Magnitude") == ""
    assert "generator" not in takes("models", "lenet_300_100")
    assert takes("models", "torchvision:NAME") == ""


def test_plain_values_become_components() -> None:
    found = converter(("schedules", "amounts"))
    assert found is not None
    assert found.function(3) == Count(3)
    assert converter(("criteria",)) is None


def test_unknown_kinds_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (catalogue, components, kind_of):
        with pytest.raises(UnknownName, match=r"Unknown catalogue 'schedule'\. Did you mean 'schedules'"):
            function("schedule")
    monkeypatch.setitem(module._KINDS, "futures", Kind("future", "sparsewood.futures"))
    assert components("futures") == {}
    monkeypatch.setitem(module._KINDS, "failures", Kind("failure", "sparsewood_no_such.part"))
    with pytest.raises(ModuleNotFoundError, match="sparsewood_no_such"):
        components("failures")


def test_every_library_of_models_is_listed() -> None:
    assert {f"{library}:NAME" for library in LIBRARIES} <= ELSEWHERE["models"].keys()


def test_the_list_shows_names_lines_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "schedules"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == list(components("schedules"))
    assert (Cubic.__doc__ or "").splitlines()[0] in lines["Cubic"]
    assert lines["Cubic"].endswith("Takes final, initial=0.0.")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{kind}:\n" in out for kind in KINDS)
    assert "  torchvision:NAME" in out
