"""What a recipe may say, read off type annotations: which parameters a component has, and what each of them takes."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from sparsewood.errors import SparsewoodError
from sparsewood.run.catalogue import KINDS, components, kind_of
from sparsewood.run.hints import LISTS, PLAIN, OfKind, adapter, is_mapping, is_plain, marks, members, words

__all__ = ["MISSING", "UNHASHED", "Form", "OfKind", "Parameter", "check", "form_of", "parameters", "takes_anything"]

UNHASHED = types.MappingProxyType({"hashed": False})  # metadata of fields that do not change what comes out


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component; `default` is `MISSING` if it has none."""

    name: str
    hint: Any
    default: Any
    hashed: bool = True

    @property
    def settable(self) -> bool:
        """Whether a recipe can say it: generators, modules and functions it cannot."""
        form = form_of(self.hint)
        unsayable = form.anything and not is_plain(self.default)
        return form.settable and not unsayable


@dataclass(frozen=True)
class Form:
    """What an annotation allows.

    `choices` are components by name, of the kinds `kinds`, derived from `bases`; `sections` are dataclasses that are in
    no catalogue, written as mappings without a name; `items` and `values` are the annotations of what is in a list and
    in a mapping that hold components; `leaf` is the annotation of plain values.
    """

    hint: Any
    nullable: bool
    choices: Mapping[str, Any]
    kinds: tuple[str, ...]
    bases: tuple[type, ...]
    sections: tuple[type, ...]
    items: tuple[Any, ...]
    values: Any
    leaf: Any

    @property
    def anything(self) -> bool:
        """Whether there is no annotation, or one that says nothing."""
        return self.leaf in (Any, object)

    @property
    def text(self) -> bool:
        """Whether a plain text may be meant."""
        found = [inner for member in members(self.leaf) for inner in members(member)]
        return self.anything or str in found or Path in found or any(get_origin(member) is Literal for member in found)

    @property
    def deferred(self) -> bool:
        """Whether it is a call that the run makes, not a value."""
        return any(kind_of(title).deferred for title in self.kinds)

    @property
    def settable(self) -> bool:
        """Whether a recipe can say any value of it."""
        found = self.kinds or self.bases or self.sections or self.items or self.values is not None
        return bool(found) or self.leaf is not None

    @property
    def noun(self) -> str:
        """What one of the components is called."""
        return kind_of(self.kinds[0]).noun if self.kinds else " or ".join(base.__name__ for base in self.bases)

    @property
    def article(self) -> str:
        """`noun` with its article."""
        return f"{'an' if self.noun[:1].lower() in 'aeiou' else 'a'} {self.noun}"

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        told = [f"{self.article} (its name, or a mapping with 'name')"] if self.kinds or self.bases else []
        told += [f"a mapping of the fields of {section.__name__}" for section in self.sections]
        told += ["a list"] if self.items else []
        told += ["a mapping"] if self.values is not None else []
        told += [words(self.leaf)] if self.leaf is not None else []
        return " or ".join([*dict.fromkeys(told), *(["null"] if self.nullable else [])])


def form_of(hint: Any) -> Form:
    """What an annotation allows.

    >>> from sparsewood.schedules import Schedule
    >>> form_of(Schedule).noun, form_of(float | None).expected, form_of(type(print)).settable
    ('schedule', 'a number or null', False)
    """
    try:
        return _form_of(hint)
    except TypeError:  # an annotation that cannot be hashed
        return _form_of.__wrapped__(hint)


@cache
def _form_of(hint: Any) -> Form:
    parts = [member for member in members(hint) if member is not types.NoneType]
    nullable = types.NoneType in members(hint)
    titles = [mark.title for mark in marks(hint) if isinstance(mark, OfKind)]
    if titles:
        return Form(hint, nullable, components(titles[0]), tuple(titles), (), (), (), None, None)
    sorted_out: dict[str, list[Any]] = {"base": [], "section": [], "list": [], "mapping": [], "leaf": [], "other": []}
    for member in parts:
        sorted_out[_sort_of(member)].append(member)
    found = [_derived(base) for base in sorted_out["base"]]
    lists, mappings = sorted_out["list"], sorted_out["mapping"]
    return Form(
        hint,
        nullable,
        choices={name: value for each in found for named in each.values() for name, value in named.items()},
        kinds=tuple(dict.fromkeys(title for each in found for title in each)),
        bases=tuple(sorted_out["base"]),
        sections=tuple(sorted_out["section"]),
        items=get_args(lists[0]) if lists else (),
        values=get_args(mappings[0])[1] if mappings else None,
        leaf=_constrained(sorted_out["leaf"], marks(hint)),
    )


def _sort_of(member: Any) -> str:
    """Which part of a form a member of a union belongs to."""
    if _derived(member) or _is_open(member):
        return "base"
    if isinstance(member, type) and is_dataclass(member):
        return "section"
    inside = [_holds_components(form_of(part)) for part in get_args(member) if part is not ...]
    if get_origin(member) in LISTS and any(inside):
        return "list"
    if is_mapping(member) and any(inside[1:]):
        return "mapping"
    return "leaf" if _is_leaf(member) else "other"


def _constrained(leaves: list[Any], marks: Sequence[Any]) -> Any:
    if not leaves:
        return None
    leaf: Any = Union[tuple(leaves)]  # noqa: UP007  (their number is known only now)
    for mark in marks:
        leaf = Annotated[leaf, mark]
    return leaf


@cache
def parameters(target: Any) -> dict[str, Parameter]:
    """The parameters of a class or function that can be given by name, in order.

    >>> from sparsewood.granularity import NM
    >>> [(p.name, p.default is MISSING) for p in parameters(NM).values()]
    [('n', True), ('m', True), ('axis', False)]
    """
    if isinstance(target, type) and is_dataclass(target):
        hints = typing.get_type_hints(target, include_extras=True)
        return {
            f.name: Parameter(
                f.name,
                hints[f.name],
                f.default_factory() if f.default_factory is not MISSING else f.default,
                f.metadata.get("hashed", True),
            )
            for f in fields(target)
            if f.init
        }
    hints = _hints(target)
    usual = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    # A generator is the run's to give, also where no annotation says what it is.
    found = [p for p in _signature(target) if p.kind in usual and p.name != "generator"]
    defaults = {p.name: MISSING if p.default is inspect.Parameter.empty else p.default for p in found}
    return {name: Parameter(name, hints.get(name, Any), default) for name, default in defaults.items()}


def takes_anything(target: Any) -> bool:
    """Whether it is a function with `**keywords`, or one whose parameters cannot be known."""
    if isinstance(target, type) and is_dataclass(target):
        return False
    found = _signature(target)
    return not found or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found)


def check(instance: Any) -> None:
    """Check the plain fields of a dataclass against their annotations.

    Raises `SparsewoodError` that names the field.
    """
    for name, parameter in parameters(type(instance)).items():
        form, value = form_of(parameter.hint), getattr(instance, name)
        simple = form.leaf is not None and not form.kinds and not form.sections and not form.items
        if not simple or (value is None and form.nullable):
            continue
        try:
            adapter(form.leaf).validate_python(value)
        except ValueError as error:
            raise SparsewoodError(
                f"{type(instance).__name__}: {name!r} must be {form.expected}. Got {value!r}."
            ) from error


# ---------------------------------------------------------------- annotations


def _derived(member: Any) -> dict[str, dict[str, Any]]:
    """By kind, the components in the catalogues that are derived from a class."""
    if not isinstance(member, type) or member in (*PLAIN, object) or get_origin(member) is not None:
        return {}
    found = {
        title: {name: value for name, value in components(title).items() if _is_derived(value, member)}
        for title in KINDS
        if not kind_of(title).deferred
    }
    return {title: named for title, named in found.items() if named}


def _is_open(member: Any) -> bool:
    """Whether it is an abstract class of which there is nothing in the catalogues: other modules may have it."""
    return inspect.isabstract(member) and member.__module__.partition(".")[0] not in sys.stdlib_module_names


def _is_derived(value: Any, base: type) -> bool:
    try:
        return isinstance(value, type) and issubclass(value, base)
    except TypeError:  # a protocol that is for type checkers only
        return False


def _holds_components(form: Form) -> bool:
    return bool(form.kinds or form.bases or form.sections or form.items or form.values is not None)


def _is_leaf(member: Any) -> bool:
    if get_origin(member) is Annotated:
        return _is_leaf(get_args(member)[0])
    if get_origin(member) is Literal or member in (*PLAIN, Any, object):
        return True
    inside = [part for part in get_args(member) if part is not ...]
    if get_origin(member) in LISTS or is_mapping(member):
        return all(form_of(part).leaf is not None for part in inside)
    return member in LISTS or member in (dict, Mapping)


def _hints(target: Any) -> dict[str, Any]:
    """Annotations of a function; what cannot be evaluated is taken as not annotated."""
    try:
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _signature(target: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # functions written in C
        return []
