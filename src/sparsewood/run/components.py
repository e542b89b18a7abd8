"""From the tree of a recipe to typed values: names become components, every parameter is checked against its type.

Nothing here knows any component: what there is comes from the catalogues, and what it takes from its annotations.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sparsewood.errors import FileFormatError, SparsewoodError, UnknownName
from sparsewood.run.annotations import MISSING, Form, form_of, parameters, takes_anything
from sparsewood.run.calls import Call, imported
from sparsewood.run.catalogue import converter, kind_of, load, name_of
from sparsewood.run.hints import has_nan, literals, validated, words_at
from sparsewood.run.yamlfile import Node, plain, shown

__all__ = ["INVALID", "Reader", "RecipeError"]

INVALID: Any = object()  # what stands where a mistake was found and written down
MOST_PROBLEMS = 50


class RecipeError(FileFormatError):
    """A recipe with mistakes; `problems` holds all of them, the message the first fifty, one on each line."""

    def __init__(self, problems: Iterable[str]) -> None:
        # What variants share is read for each of them, but told once.
        self.problems = tuple(sorted(dict.fromkeys(problems), key=_line))
        more = len(self.problems) - MOST_PROBLEMS
        shown = [*self.problems[:MOST_PROBLEMS], *([f"... and {more} more."] if more > 0 else [])]
        super().__init__("\n".join(shown))


class Reader:
    """Turns nodes into values; what is wrong is collected in `problems`, and `INVALID` stands for the value.

    `directories` are where modules that are named are looked for first; `also` are keys that the outermost section is
    said to have beside its fields.
    """

    def __init__(self, directories: Iterable[Path] = (), also: Iterable[str] = ()) -> None:
        self.directories = tuple(directories)
        self.also = tuple(also)
        self.problems: list[str] = []
        self.sections: list[type] = []

    @property
    def root(self) -> type | None:
        """The outermost section."""
        return self.sections[0] if self.sections else None

    def problem(self, node: Node, message: str) -> Any:
        """Write down what is wrong with a node; returns `INVALID`."""
        self.problems.append(f"{node.where}: {node.path}: {message}" if node.path else f"{node.where}: {message}")
        return INVALID

    def value(self, node: Node, hint: Any, default: Any = MISSING) -> Any:
        """The value of a node as its annotation wants it; a mapping without a name changes the `default`."""
        form = form_of(hint)
        if node.value is None and form.nullable:
            return None
        if form.deferred:
            return self.call(node, form)
        if self._names_component(node, form):
            target, given = self._target(node, form)
            return INVALID if target is INVALID else self._made(node, given, target, {})
        if isinstance(node.value, dict):
            return self._mapping(node, form, default)
        if isinstance(node.value, list) and form.items:
            return self._list(node, form.items)
        return self._plain(node, form)

    def section(self, node: Node, section: type, default: Any = MISSING) -> Any:
        """A dataclass that is in no catalogue, from a mapping of its fields."""
        self.sections.append(section)
        return self._made(node, node.value, section, _current(default) if type(default) is section else {})

    def call(self, node: Node, form: Form) -> Any:
        """A function to be called later, with its parameters."""
        if not self._names_component(node, form):
            return self.problem(node, f"must be {form.expected}. Got {shown(node)}.")
        function, given = self._target(node, form)
        values = INVALID if function is INVALID else self._parameters(node, given, function, {})
        if values is INVALID:
            return INVALID
        usual = {key: p.default for key, p in parameters(function).items() if p.settable and p.default is not MISSING}
        known = function in form.choices.values()
        loader = None if known else load(kind_of(form.kinds[0]).loader or "")
        name = name_of(function) if known else _name(node)
        return Call(name, usual | values, function, loader)

    # ------------------------------------------------------------ names

    def _names_component(self, node: Node, form: Form) -> bool:
        if not (form.kinds or form.bases):
            return False
        if isinstance(node.value, dict):
            return "name" in node.value
        # Where text is allowed as well, only a known name is a component.
        return isinstance(node.value, str) and (not form.text or node.value in form.choices or ":" in node.value)

    def _target(self, node: Node, form: Form) -> tuple[Any, dict[str, Node]]:
        """The class or function that a node names, and the parameters that stand beside the name."""
        given = dict(node.value) if isinstance(node.value, dict) else {}
        name = given.pop("name", node)
        if not isinstance(name.value, str):
            return self.problem(name, f"must be the name of {form.article}. Got {shown(name)}."), given
        if name.value in form.choices:
            return form.choices[name.value], given
        if ":" not in name.value:
            error = UnknownName.among(form.noun, name.value, form.choices)
            where = f"'sparsewood list {form.kinds[0]}' shows them" if form.kinds else "Write 'package.module:name'"
            return self.problem(name, f"{error} {where}."), given
        library = kind_of(form.kinds[0]).libraries if form.deferred else None
        if library and name.value.partition(":")[0] in load(library):
            return load(kind_of(form.kinds[0]).loader or ""), given  # its parameters are the library's to check
        try:
            found = imported(name.value, self.directories)
        except SparsewoodError as error:
            return self.problem(name, str(error)), given
        fault = _fault(found, form)
        return self.problem(name, f"{name.value!r} {fault}.") if fault else found, given

    # ------------------------------------------------------------ parameters

    def _made(self, node: Node, given: Mapping[str, Node], target: Any, start: Mapping[str, Any]) -> Any:
        values = self._parameters(node, given, target, start)
        if values is INVALID:
            return INVALID
        try:
            return target(**values)
        except (ValueError, TypeError) as error:
            return self.problem(node, str(error))

    def _parameters(self, node: Node, given: Mapping[str, Node], target: Any, start: Mapping[str, Any]) -> Any:
        """The values of the parameters that are given, on top of `start`."""
        known = {key: p for key, p in parameters(target).items() if p.settable}
        values = dict(start)
        for key, child in given.items():
            if key in known:
                values[key] = self.value(child, known[key].hint, values.get(key, known[key].default))
            elif takes_anything(target):
                values[key] = self.value(child, Any)
            else:
                what = "key" if target in self.sections else f"parameter of {target.__name__}"
                accepted = [*known, *(self.also if target is self.root else ())]
                values[key] = self.problem(child, str(UnknownName.among(what, key, accepted)))
        missing = [p for p in known.values() if p.default is MISSING and p.name not in values]
        for parameter in missing:
            expected = form_of(parameter.hint).expected
            self.problem(node, f"{target.__name__} needs {parameter.name!r}: {expected}.")
        return INVALID if missing or any(value is INVALID for value in values.values()) else values

    # ------------------------------------------------------------ values

    def _mapping(self, node: Node, form: Form, default: Any) -> Any:
        if form.sections:
            return self.section(node, form.sections[0], default)
        if form.values is not None:
            found = {key: self.value(child, form.values) for key, child in node.value.items()}
            return INVALID if any(value is INVALID for value in found.values()) else found
        convert = converter(form.kinds)
        if convert is not None and form_of(convert.hint).values is not None:
            return self._converted(node, form, self.value(node, convert.hint))
        if form.leaf is None and _is_component(default):
            return self._made(node, node.value, type(default), _current(default))
        return self._plain(node, form)

    def _list(self, node: Node, items: tuple[Any, ...]) -> Any:
        each = [items[0]] * len(node.value) if len(items) == 1 or items[-1] is ... else list(items)
        if len(each) != len(node.value):
            return self.problem(node, f"must be a list of {len(each)}. Got {len(node.value)}.")
        found = tuple(self.value(child, hint) for child, hint in zip(node.value, each, strict=True))
        return INVALID if any(value is INVALID for value in found) else found

    def _plain(self, node: Node, form: Form) -> Any:
        """A number, text or list of these, checked by pydantic."""
        convert = converter(form.kinds)
        leaf = form.leaf if form.leaf is not None or convert is None else form_of(convert.hint).leaf
        value = plain(node)
        if leaf is None or has_nan(value):
            return self.problem(node, f"must be {form.expected}. Got {shown(node)}.")
        try:
            found = validated(value, leaf)
        except ValidationError as error:
            return self._refused(node, form, error.errors()[0]["loc"])
        return self._converted(node, form, found)

    def _converted(self, node: Node, form: Form, value: Any) -> Any:
        """What a kind makes of a plain value; the value itself, checked, where the annotation takes that as well."""
        convert = converter(form.kinds)
        if value is INVALID or convert is None:
            return value
        try:
            made = convert.function(value)
        except ValueError as error:
            return self.problem(node, str(error))
        return value if form.leaf is not None else made

    def _refused(self, node: Node, form: Form, steps: tuple[int | str, ...]) -> Any:
        inner, taken = node, []
        for step in steps:  # some name the member of a union that did not fit
            below: Any = dict(enumerate(inner.value)) if isinstance(inner.value, list) else inner.value
            if isinstance(below, dict) and step in below:
                inner = below[step]
                taken.append(step)
        expected = words_at(form.leaf, taken) if taken else form.expected
        close = difflib.get_close_matches(str(inner.value), literals(form.leaf), n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        return self.problem(inner, f"must be {expected}. Got {shown(inner)}.{meant}")


def _line(problem: str) -> float:
    """The line that a problem is in; what was set on the command line comes last."""
    found = re.match(r"[^:]*, line (\d+):", problem)
    return int(found[1]) if found else math.inf


def _fault(found: Any, form: Form) -> str | None:
    """Why an imported object is no component of this form."""
    if form.deferred:
        return None if callable(found) else f"is a {type(found).__name__}. {form.article.capitalize()} is a function"
    wanted = f"{form.article.capitalize()} is a frozen dataclass"
    wanted += f" derived from {' or '.join(base.__name__ for base in form.bases)}" if form.bases else ""
    if not isinstance(found, type):
        return f"is a {type(found).__name__}. {wanted}"
    frozen = is_dataclass(found) and found.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    derived = not form.bases or issubclass(found, form.bases)
    return None if frozen and derived else f"is another kind of class. {wanted}"


def _name(node: Node) -> str:
    return node.value["name"].value if isinstance(node.value, dict) else node.value


def _is_component(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _current(instance: Any) -> dict[str, Any]:
    return {f.name: getattr(instance, f.name) for f in fields(instance) if f.init}
