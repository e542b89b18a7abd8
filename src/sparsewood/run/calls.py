"""Functions that a recipe names: those of other people's modules, and calls that wait until the run starts."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models.initial import drawn_from

__all__ = ["Call", "importable", "imported", "own_file", "told"]

_NOT_OWN = (Path(__file__).parents[1], *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))


@dataclass(frozen=True)
class Call:
    """A function and its parameters, to be called when the run starts.

    `parameters` are checked, and hold every default, if the signature is known; for models of other libraries they are
    those that were given. With a `loader` it is `loader(name, ...)` that is called.

    >>> Call("dict", {"a": 1}, dict).build()
    {'a': 1}
    """

    name: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] = field(compare=False, repr=False)
    loader: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.name, dict(self.parameters), self.function, self.loader)

    def build(self, *, generator: torch.Generator | None = None) -> Any:
        """Call the function.

        What it draws comes from `generator`: a function that takes one gets it; for others PyTorch's own random state
        is seeded from it meanwhile, and is afterwards what it was. Raises `SparsewoodError` if it fails.
        """
        function = self.function if self.loader is None else partial(self.loader, self.name)
        try:
            if generator is not None and "generator" in _names(function):
                return function(**self.parameters, generator=generator)
            with drawn_from(generator):
                return function(**self.parameters)
        except (SparsewoodError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a function of somebody else's does
            raise SparsewoodError(f"{self.name} failed: {told(error)}.") from error

    @property
    def source(self) -> Path | None:
        """The file of a function that is named as "module:name"; None for those of a catalogue or library."""
        return own_file(self.module)

    @property
    def module(self) -> str:
        """The module of a function that is named as "module:name"; "" for those of a catalogue."""
        module, colon, _ = self.name.partition(":")
        return module if colon else ""


def own_file(module: str) -> Path | None:
    """The file of an imported module of one's own; None for what is installed, and for sparsewood's own.

    >>> own_file("torch"), own_file("sparsewood.criteria")
    (None, None)
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None or not _is_own(file) else Path(file)


def _is_own(file: str) -> bool:
    """Whether a file is neither installed nor sparsewood's."""
    return not any(Path(file).is_relative_to(place) for place in _NOT_OWN)


def told(error: BaseException) -> str:
    """An exception with its kind, and the last line of one's own in which it was, or the very last one."""
    lines = traceback.extract_tb(error.__traceback__)
    own = [line for line in lines if _is_own(line.filename)]
    last = f" ('{(own or lines)[-1].filename}', line {(own or lines)[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {error}{last}"


@contextmanager
def importable(directories: Iterable[Path]) -> Iterator[None]:
    """Modules in `directories` can be imported inside the block.

    Only there, so that a recipe leaves nothing behind in `sys.path`. What is imported later, from inside a function,
    must be installed, or called in such a block too.
    """
    before = list(sys.path)
    sys.path[:0] = [str(directory) for directory in dict.fromkeys(directories)]
    importlib.invalidate_caches()  # a file may be younger than the last look into its directory
    try:
        yield
    finally:
        sys.path[:] = before


def imported(path: str, directories: Iterable[Path]) -> Any:
    """The object of "package.module:name", looked for in `directories` first.

    Raises `SparsewoodError` with the reason if the module cannot be imported, and `UnknownName` if it has no such name.

    >>> imported("math:inf", [])
    inf
    """
    module, _, attribute = path.partition(":")
    try:
        with importable(directories):
            found = importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        raise SparsewoodError(f"Cannot import {module!r}: {type(error).__name__}: {error}.") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [known for known in vars(found) if not known.startswith("_")]
            raise UnknownName.among(f"name in {module!r}", part, public)
        found = getattr(found, part)
    return found


def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # functions written in C
        return ()
