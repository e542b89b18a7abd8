"""What Python knows of a class or function, as Markdown: its signature, its parameters, its members, its file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docstrings import Link, escaped, to_markdown

import sparsewood
from sparsewood.run.annotations import MISSING, Parameter, form_of, parameters

__all__ = ["described", "members", "parameter_table", "signature", "source_block", "source_path"]

_PACKAGE = Path(sparsewood.__file__).parent
_ADDRESS = re.compile(r"<(?:function|class|bound method|built-in function)? ?'?([\w.]+)'?[^>]*>")
_WIDTH = 88


def signature(name: str, value: Any, *, method: bool = False) -> str:
    """A block of code with the call: every parameter, its annotation and its default; of a method without the first."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return f"```python\n{name}\n```"
    parts, seen_star = [], False
    for one in [*found.parameters.values()][1 if method else 0 :]:
        if one.kind is one.KEYWORD_ONLY and not seen_star:
            parts.append("*")
        seen_star = seen_star or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        parts.append(_parameter(one))
    returns = (
        "" if isinstance(value, type) or found.return_annotation is found.empty else _hint(found.return_annotation)
    )
    arrow = f" -> {returns}" if returns else ""
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) > _WIDTH:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){arrow}"
    return f"```python\n{line}\n```"


def _parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    hint = "" if one.annotation is one.empty else f": {_hint(one.annotation)}"
    if one.default is one.empty:
        return f"{stars}{one.name}{hint}"
    return f"{stars}{one.name}{hint}{' = ' if hint else '='}{_default(one.default)}"


def _hint(annotation: Any) -> str:
    if isinstance(annotation, str):
        text = annotation
    elif isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        text = annotation.__qualname__
    else:
        text = str(annotation)
    return re.sub(r"Annotated\[([^,\]]+(?:\[[^\]]*\])?), OfKind\(['\"]([\w-]+)['\"]\)\]", r"\1", text).replace(
        "typing.", ""
    )


def _default(value: Any) -> str:
    if value is MISSING or type(value).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return "..."
    return _ADDRESS.sub(r"\1", repr(value))


def parameter_table(value: Any) -> str:
    """The parameters that a recipe can say, what each takes, and the default; "" if there are none."""
    found = [one for one in parameters(value).values() if one.settable]
    if not found:
        return ""
    rows = [f"| `{one.name}` | {_cell(form_of(one.hint).expected)} | {_shown(one)} |" for one in found]
    return "\n".join(["| parameter | takes | default |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return escaped(text)


def _shown(one: Parameter) -> str:
    return "required" if one.default is MISSING else f"`{_default(one.default)}`".replace("|", "\\|")


def described(value: Any, link: Link) -> str:
    """The docstring; that of a dataclass which Python made up is left out."""
    doc = inspect.getdoc(value) or ""
    if isinstance(value, type) and (value.__doc__ is None or doc.startswith(f"{value.__name__}(")):
        return ""
    return to_markdown(doc, _less(link, _taken(value)))


def _taken(value: Any) -> set[str]:
    """Names that mean parameters or members of this object in its docstring, whatever else is called so."""
    try:
        names = set(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        names = set()
    return names | ({name for name, _ in _own(value)} if isinstance(value, type) else set())


def _less(link: Link, names: set[str]) -> Link:
    return lambda name: None if name in names else link(name)


def members(value: type, link: Link, heading: str = "###") -> Iterator[str]:
    """Public methods and properties with a docstring, those of sparsewood's classes that it derives from included."""
    link = _less(link, _taken(value))
    for name, member in _own(value):
        inner: Any = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        plain = inspect.unwrap(inner)
        doc = inspect.getdoc(plain)
        if not doc:
            continue
        path = f"{value.__name__}.{name}"
        method = not isinstance(member, staticmethod)
        what = f"```python\n{path}\n```" if isinstance(member, property) else signature(path, plain, method=method)
        yield f"{heading} `{name}`\n\n{what}\n\n{to_markdown(doc, link)}"


def _own(value: type) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for base in value.__mro__:
        if not base.__module__.startswith("sparsewood"):
            continue
        for name, member in vars(base).items():
            public = not name.startswith("_") and name not in seen
            if public and (callable(member) or isinstance(member, property | classmethod | staticmethod)):
                seen.add(name)
                yield name, member


def source_path(value: Any) -> str:
    """The file, from the project's root; "" for what has none."""
    try:
        path = Path(inspect.getsourcefile(inspect.unwrap(value)) or "")
    except TypeError:
        return ""
    inside = path.is_relative_to(_PACKAGE)
    return f"src/sparsewood/{path.relative_to(_PACKAGE).as_posix()}" if inside else ""


def source_block(value: Any) -> str:
    """The code of a class or function, folded, under the name of its file."""
    path = source_path(value)
    if not path:
        return ""
    lines = inspect.getsource(value).rstrip().splitlines()
    code = "\n".join(f"    {line}".rstrip() for line in ["```python", *lines, "```"])
    return f'??? abstract "Source: {path}"\n\n{code}'
