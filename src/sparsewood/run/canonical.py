"""Values back to plain data: in full, to be written, or only what differs from the defaults, to be hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from sparsewood.data.locate import Place
from sparsewood.errors import SparsewoodError
from sparsewood.run.annotations import MISSING, Form, Parameter, form_of, parameters
from sparsewood.run.calls import Call
from sparsewood.run.catalogue import converter, name_of
from sparsewood.run.hints import marks, validated

__all__ = ["canonical", "digest", "written"]


def written(value: Any, hint: Any) -> Any:
    """Plain data for a YAML file that reads back to an equal value, with every parameter.

    Raises `SparsewoodError` for what no file can say, such as a class or a tensor.

    >>> from sparsewood.schedules import Linear, Schedule
    >>> written(Linear(0.5), Schedule)
    {'name': 'Linear', 'final': 0.5, 'initial': 0.0}
    """
    form = form_of(hint)
    if isinstance(value, Call):
        return _named(value.name, {key: written(item, _hint(value, key)) for key, item in value.parameters.items()})
    if _is_component(value):
        known = _sayable(value)
        plain = {name: written(getattr(value, name), parameter.hint) for name, parameter in known.items()}
        return plain if type(value) in form.sections else _named(name_of(type(value)), plain)
    if isinstance(value, Mapping):
        return {_key(key): written(item, _values(form)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [written(item, _item(form, i)) for i, item in enumerate(value)]
    return _scalar(value)


def canonical(value: Any, hint: Any) -> Any:
    """Plain data that is equal for equal meaning: without defaults, numbers in one spelling.

    Components have their name, always, and the parameters that are not their defaults; so a parameter that is added
    later, with a default, changes nothing. Mappings whose order may matter (the first pattern that fits wins) are lists
    of pairs. Raises as `written` does.

    >>> from sparsewood.schedules import Linear, Schedule
    >>> canonical(Linear(final=1), Schedule)
    {'name': 'Linear', 'final': 1.0}
    """
    form = form_of(hint)
    convert = converter(form.kinds)
    if convert is not None and value is not None and not _is_component(value):
        value = convert.function(value) if form.values is None else value
    if isinstance(value, Call):
        known = parameters(value.function)
        every = {key: known.get(key, Parameter(key, Any, MISSING)) for key in value.parameters}
        # Where a published data set lies does not change what is in it.
        given = {key: parameter for key, parameter in every.items() if Place() not in marks(parameter.hint)}
        return {"name": value.name} | _differing(value.parameters, given)
    if _is_component(value):
        known = {name: parameter for name, parameter in _sayable(value).items() if parameter.hashed}
        plain = _differing({name: getattr(value, name) for name in known}, known)
        return plain if type(value) in form.sections else {"name": name_of(type(value))} | plain
    if isinstance(value, Mapping):
        return [[_key(key), canonical(item, _values(form))] for key, item in value.items()]
    if isinstance(value, list | tuple) and (form.items or form.leaf is None or form.anything):
        return [canonical(item, _item(form, i)) for i, item in enumerate(value)]
    return _normal(value, form)


def digest(plain: Any) -> str:
    """SHA-256 of plain data; the order of keys does not matter.

    >>> digest({"a": 1, "b": 2.0}) == digest({"b": 2.0, "a": 1}), digest(1) == digest(1.0)
    (True, False)
    """
    return hashlib.sha256(_text(plain).encode()).hexdigest()


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _differing(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    plain = {name: canonical(values[name], parameter.hint) for name, parameter in known.items()}
    usual = {
        name: canonical(parameter.default, parameter.hint)
        for name, parameter in known.items()
        if parameter.default is not MISSING
    }
    # As text, since Python takes 1, 1.0 and True for equal.
    return {name: item for name, item in plain.items() if name not in usual or _text(item) != _text(usual[name])}


def _sayable(instance: Any) -> dict[str, Parameter]:
    """The parameters of a component that a recipe can say; the others must have their defaults."""
    known = parameters(type(instance))
    for name, parameter in known.items():
        if not parameter.settable and getattr(instance, name) != parameter.default:
            raise SparsewoodError(
                f"{type(instance).__name__}: {name!r} is {getattr(instance, name)!r:.80}, which no recipe can say."
            )
    return {name: parameter for name, parameter in known.items() if parameter.settable}


def _normal(value: Any, form: Form) -> Any:
    """A plain value in one spelling: 1 for a float is 1.0, and there is no negative zero."""
    plain = _scalar(value) if not isinstance(value, list | tuple) else written(value, form.hint)
    if form.leaf is None or plain is None:
        return plain
    try:
        found = validated(plain, form.leaf)
    except ValueError as error:
        raise SparsewoodError(f"{value!r:.80} is not {form.expected}, so it has no place in a recipe.") from error
    return _without_sign(written(found, form.hint))


def _without_sign(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_without_sign(item) for item in plain]
    return plain + 0.0 if isinstance(plain, float) else plain


def _named(name: str, plain: dict[str, Any]) -> Any:
    return {"name": name} | plain if plain else name


def _hint(call: Call, key: str) -> Any:
    known = parameters(call.function)
    return known[key].hint if key in known else Any


def _values(form: Form) -> Any:
    return form.values if form.values is not None else Any


def _item(form: Form, index: int) -> Any:
    if not form.items:
        return Any
    return form.items[0] if len(form.items) == 1 or form.items[-1] is ... else form.items[index]


def _is_component(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise SparsewoodError(f"A recipe cannot say the key {key!r:.80}. Use the name.")
    return key


def _scalar(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if value is not None and not isinstance(value, bool | int | float | str):
        raise SparsewoodError(f"A recipe cannot say {value!r:.80}. Use numbers, text and components.")
    return value
