"""What there is to choose from: the public names of the packages, with the first line of their documentation."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

from sparsewood.errors import UnknownName

__all__ = ["KINDS", "catalogue"]

KINDS = ("criteria", "granularities", "scopes", "allocations", "schedules", "recoveries", "models", "data")


def catalogue(kind: str) -> list[tuple[str, str]]:
    """(name, first line of its docstring) of everything of one kind, in the order of the package's `__all__`.

    Raises `UnknownName` for another kind than those in `KINDS`.
    """
    from sparsewood.allocation.scopes import Scope

    def is_scope(value: object) -> bool:
        return isinstance(value, type) and issubclass(value, Scope)

    sources: dict[str, tuple[str, Callable[[object], bool]]] = {
        "criteria": ("sparsewood.criteria", _any),
        "scopes": ("sparsewood.allocation", is_scope),
        "granularities": ("sparsewood.granularity", _any),
        "allocations": ("sparsewood.allocation", lambda value: not is_scope(value)),
        "schedules": ("sparsewood.schedules", _any),
        "recoveries": ("sparsewood.recovery", _any),
        "models": ("sparsewood.models", _any),
        "data": ("sparsewood.data", _any),
    }
    if kind not in sources:
        raise UnknownName.among("catalogue", kind, KINDS)
    name, belongs = sources[kind]
    module = importlib.import_module(name)
    found = ((public, getattr(module, public)) for public in module.__all__)
    return [(public, _first_line(value)) for public, value in found if belongs(value)]


def _any(value: object) -> bool:  # noqa: ARG001 - a filter that keeps everything
    return True


def _first_line(value: object) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0]
