"""What there is to choose from: the public names of the packages, with their parameters and what they are."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from sparsewood.errors import UnknownName

__all__ = ["ELSEWHERE", "KINDS", "Kind", "catalogue", "components", "converter", "kind_of", "load", "name_of", "takes"]


@dataclass(frozen=True)
class Kind:
    """Where the components of one kind are.

    `noun` is what one of them is called. Where a package holds more than one kind, `base` ("module:Class", or a union)
    tells them apart: those derived from it, or those that are not (`excluded`). `plain` is the function that makes a
    component of a plain value, such as 0.9 or {conv*: 0.2}.

    A kind with a `loader` are functions that are called when a run starts; of all else a recipe holds values. The
    loader calls what is named as "module:function"; `libraries` are first parts of such names that mean no module.
    """

    noun: str
    module: str
    base: str | None = None
    excluded: str | None = None
    plain: str | None = None
    loader: str | None = None
    libraries: str | None = None

    @property
    def deferred(self) -> bool:
        """Whether its components are functions that are called when a run starts."""
        return self.loader is not None


_SCOPE = "sparsewood.allocation.scopes:Scope"
_KINDS = {
    "criteria": Kind("criterion", "sparsewood.criteria"),
    "unit-criteria": Kind("criterion of units", "sparsewood.unit_criteria"),
    "granularities": Kind("granularity", "sparsewood.granularity"),
    "scopes": Kind("scope", "sparsewood.allocation", base=_SCOPE, plain="sparsewood.allocation.scopes:as_scope"),
    "allocations": Kind("allocation", "sparsewood.allocation", excluded=_SCOPE),
    "budgets": Kind("budget", "sparsewood.shrinking", base="sparsewood.shrinking.budgets:Budget"),
    "engines": Kind("engine", "sparsewood.shrinking.engines"),
    "amounts": Kind("amount", "sparsewood.types:Amount", plain="sparsewood.types:as_amount"),
    "schedules": Kind("schedule", "sparsewood.schedules"),
    "recoveries": Kind("recovery", "sparsewood.recovery", base="sparsewood.recovery:Recovery"),
    "initializers": Kind("initializer", "sparsewood.recovery.initializers"),
    "models": Kind(
        "model",
        "sparsewood.models",
        loader="sparsewood.models.sources:load_model",
        libraries="sparsewood.models.sources:LIBRARIES",
    ),
    "data": Kind("data set", "sparsewood.data", loader="sparsewood.data.factory:load_data"),
    "augmentations": Kind("augmentation", "sparsewood.data.augment"),
    "optimizers": Kind("optimizer", "sparsewood.train.optimizers"),
    "rates": Kind("learning-rate schedule", "sparsewood.train.rates"),
    "dynamics": Kind("rule of masks that change", "sparsewood.dynamics"),
    "penalties": Kind("penalty", "sparsewood.penalties", base="sparsewood.penalties:Penalty"),
}
KINDS = tuple(_KINDS)

# Names that are looked up in other packages, and what `sparsewood list` says of them.
ELSEWHERE = {
    "models": {
        "torchvision:NAME": "Any model of torchvision, as torchvision:resnet18; parameters are passed on.",
        "timm:NAME": "Any model of timm, as timm:resnet18; parameters are passed on.",
        "transformers:NAME": "Any model type of transformers, as transformers:vit, built from its configuration.",
        "PACKAGE.MODULE:FUNCTION": "Your own function or class, as mymodels:lenet; its parameters are checked.",
    },
    "data": {"PACKAGE.MODULE:FUNCTION": "Your own function, as mydata:faces; its parameters are checked."},
}


def catalogue(kind: str) -> list[tuple[str, str]]:
    """(name, first line of its docstring) of everything of one kind, in the order of the package's `__all__`.

    Names that are looked up elsewhere come last. Raises `UnknownName` for another kind than those in `KINDS`.
    """
    listed = [(name, _first_line(value)) for name, value in components(kind).items()]
    return listed + list(ELSEWHERE.get(kind, {}).items())


@cache
def components(kind: str) -> dict[str, Any]:
    """The classes or functions of one kind by name; none if the package that would hold them does not exist.

    Raises `UnknownName` for another kind than those in `KINDS`.

    >>> sorted(components("allocations"))
    ['ERK', 'LAMP', 'Uniform']
    """
    found = kind_of(kind)
    module, _, union = found.module.partition(":")
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return {}
    if union:
        return {member.__name__: member for member in get_args(getattr(package, union))}
    public = {name: getattr(package, name) for name in package.__all__}
    return {name: value for name, value in public.items() if _belongs(value, found)}


def kind_of(title: str) -> Kind:
    """What is known of one kind; raises `UnknownName` for another than those in `KINDS`."""
    if title not in _KINDS:
        raise UnknownName.among("catalogue", title, KINDS)
    return _KINDS[title]


def name_of(value: object) -> str:
    """How a recipe calls a class or function: its name in a catalogue, or 'package.module:name'.

    >>> from sparsewood.schedules import OneShot
    >>> name_of(OneShot), name_of(Kind)
    ('OneShot', 'sparsewood.run.catalogue:Kind')
    """
    for kind in KINDS:
        for name, component in components(kind).items():
            if component is value:
                return name
    return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', value)}"


def takes(kind: str, name: str) -> str:
    """The parameters of a component with their defaults, as "final, initial=0.0"; "" for none and for other names.

    >>> takes("granularities", "NM")
    'n, m, axis=1'
    """
    from sparsewood.run.annotations import MISSING, parameters

    if name not in components(kind):
        return ""
    found = parameters(components(kind)[name]).values()
    return ", ".join(p.name if p.default is MISSING else f"{p.name}={p.default!r}" for p in found if p.settable)


def load(path: str) -> Any:
    """The object of "package.module:name", one of sparsewood's own."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Converter:
    """A function that makes a component of a plain value, and the annotation of what it takes."""

    function: Callable[[Any], Any]
    hint: Any


@cache
def converter(titles: tuple[str, ...]) -> Converter | None:
    """What makes a component of one of these kinds of a plain value, if there is such a function.

    >>> converter(("amounts",)).function(0.5), converter(("schedules",))
    (Sparsity(fraction=0.5), None)
    """
    for title in titles:
        path = kind_of(title).plain
        if path:
            function = load(path)
            hints = get_type_hints(function)
            return Converter(function, next(hint for name, hint in hints.items() if name != "return"))
    return None


def _belongs(value: Any, kind: Kind) -> bool:
    if inspect.isabstract(value) or getattr(value, "_is_protocol", False):
        return False  # what components of the kind have in common
    if kind.base:
        return isinstance(value, type) and issubclass(value, load(kind.base))
    if kind.excluded:
        return not (isinstance(value, type) and issubclass(value, load(kind.excluded)))
    return True


def _first_line(value: object) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0]
