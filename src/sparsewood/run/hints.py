"""Annotations of plain values, those that are no components: what they allow, in words, and checking against them."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from sparsewood.marks import OfKind

__all__ = [
    "LISTS",
    "PLAIN",
    "OfKind",
    "adapter",
    "has_nan",
    "is_mapping",
    "is_plain",
    "literals",
    "marks",
    "members",
    "validated",
    "words",
    "words_at",
]

PLAIN = (bool, int, float, str, Path)
LISTS = (tuple, list, Sequence, frozenset, set)
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def validated(value: Any, leaf: Any) -> Any:
    """A plain value as its annotation wants it: strict, so that "3" is no number, 1 no truth value, and 3 is 3.0.

    Lists become tuples and text becomes paths where the annotation says so. Raises pydantic's `ValidationError`.

    >>> validated([1, 2], tuple[int, ...]), validated(3, float)
    ((1, 2), 3.0)
    """
    if leaf in (Any, object):
        return value
    # What comes from a file has JSON's types, and pydantic's strict mode for JSON is made for them.
    return _immutable(adapter(leaf).validate_json(json.dumps(value)), leaf)


def _immutable(value: Any, leaf: Any) -> Any:
    """With tuples where the annotation only says that it is a sequence, as defaults are."""
    for member in members(leaf):
        if isinstance(value, list | tuple) and get_origin(member) in (Sequence, tuple):
            return tuple(_immutable(item, get_args(member)[0]) for item in value)
    return value


@cache
def adapter(leaf: Any) -> TypeAdapter[Any]:
    """Pydantic's check of an annotation, strict."""
    return TypeAdapter(leaf, config=STRICT)


# ---------------------------------------------------------------- annotations


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, without the marks of `Annotated`."""
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(dict.fromkeys(inner for member in get_args(hint) for inner in _members_of_union(member)))
    return (hint,)


def _members_of_union(member: Any) -> tuple[Any, ...]:
    # Constraints stay with the member they are of: Annotated[int, ge(1)] | None.
    keeps = get_origin(member) is Annotated and not any(isinstance(mark, OfKind) for mark in marks(member))
    return (member,) if keeps else members(member)


def marks(hint: Any) -> tuple[Any, ...]:
    """What `Annotated` adds to a hint; of a union the kinds of components that its members name."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[1:]
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(mark for member in get_args(hint) for mark in marks(member) if isinstance(mark, OfKind))
    return ()


def is_mapping(member: Any) -> bool:
    """Whether a member is a mapping of something to something."""
    origin = get_origin(member)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def is_plain(value: Any) -> bool:
    """Whether a file could say a value, as far as can be seen; `MISSING` counts, too."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or value is MISSING or isinstance(value, PLAIN)


# ---------------------------------------------------------------- words


def words_at(leaf: Any, steps: Sequence[int | str]) -> str:
    """What the part at `steps` inside a plain list or mapping must be, in words.

    >>> words_at(tuple[int, float], [1])
    'a number'
    """
    for step in steps:
        for member in members(leaf):
            inside = get_args(member)
            if get_origin(member) in LISTS and isinstance(step, int):
                leaf = inside[step] if step < len(inside) and inside[-1] is not ... else inside[0]
            elif is_mapping(member) and isinstance(step, str):
                leaf = inside[1]
    return words(leaf)


def literals(leaf: Any) -> list[str]:
    """The texts that an annotation lists."""
    return [
        value
        for member in members(leaf)
        for inner in members(member)
        if get_origin(inner) is Literal
        for value in get_args(inner)
        if isinstance(value, str)
    ]


def words(leaf: Any) -> str:
    """What an annotation of plain values allows, in words.

    >>> words(tuple[int, ...]), words(Literal["a"] | float)
    ('a list, each a whole number', "'a' or a number")
    """
    found = marks(leaf)
    told = [mark.description for mark in found if isinstance(mark, FieldInfo) and mark.description]
    if told:
        return told[0]
    return " or ".join(dict.fromkeys(_plain_words(member) for member in members(leaf))) + _bounds(found)


def _plain_words(member: Any) -> str:
    if get_origin(member) is Annotated:
        return words(member)
    if get_origin(member) is Literal:
        return " or ".join(map(repr, get_args(member)))
    inside = [part for part in get_args(member) if part is not ...]
    if is_mapping(member) or member in (dict, Mapping):
        return "a mapping"
    if get_origin(member) in LISTS or member in LISTS:
        return f"a list, each {words(inside[0])}" if len(set(inside)) == 1 else "a list"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}.get(
        member, "any value"
    )


def _bounds(constraints: Sequence[Any]) -> str:
    found = [inner for mark in constraints for inner in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    told = [f"{sign} {getattr(m, key)}" for m in found for key, sign in signs.items() if hasattr(m, key)]
    return f" {' and '.join(told)}" if told else ""


def has_nan(value: Any) -> bool:
    """Whether a plain value is or holds a NaN, which equals nothing, not even itself."""
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    return any(map(has_nan, value)) if isinstance(value, list) else isinstance(value, float) and math.isnan(value)
