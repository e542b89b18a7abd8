"""Tables as columns, and JSON that can stand in a page whatever the names in it are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

__all__ = ["column", "embeddable", "plain", "table"]

DIGITS = 7


def plain(value: Any, digits: int = DIGITS) -> Any:
    """`value` as JSON can hold it: floats to so many significant digits, None for what is not finite.

    >>> plain({"a": (0.123456789, float("nan"), 3)})
    {'a': [0.1234568, None, 3]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, digits) for one in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def column(values: Sequence[Any]) -> list[Any] | dict[str, list[Any]]:
    """A column: the values, or each different one once (`values`) and which of them stands in each row (`at`).

    >>> column(["SynFlow", "SynFlow", "SNIP", "SynFlow"])
    {'values': ['SynFlow', 'SNIP'], 'at': [0, 0, 1, 0]}
    >>> column([1, 2])
    [1, 2]
    """
    readable = [plain(value) for value in values]
    known: dict[str, int] = {}
    places = [known.setdefault(json.dumps(value), len(known)) for value in readable]
    if all(isinstance(value, int | None) for value in readable) or 2 * len(known) > len(readable):
        return readable
    return {"values": [json.loads(text) for text in known], "at": places}


def table(records: Sequence[Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Data class instances of one kind (or mappings) column by column; `names` takes some of the columns."""
    if not records:
        return {"length": 0, "columns": {}}
    first = records[0]
    if isinstance(first, Mapping):
        columns = {name: column([record[name] for record in records]) for name in names or first}
    else:
        chosen = names or [field.name for field in fields(first)]
        columns = {name: column([getattr(record, name) for record in records]) for name in chosen}
    return {"length": len(records), "columns": columns}


def embeddable(value: Any) -> str:
    """JSON in ASCII without the characters that could end a script, begin a comment or be read as markup.

    >>> embeddable("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
