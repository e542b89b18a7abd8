"""Errors for users. Each message says what failed, where, what was got and expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SparsewoodError(ValueError):
    """Something the caller asked for cannot be done; the message says what would work."""


class UnknownName(SparsewoodError):
    """A parameter, module, pattern or catalogue name that does not exist."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> UnknownName:
        """The error for `name`, with the closest known names.

        >>> print(UnknownName.among("parameter", "conv1.wieght", ["conv1.weight", "fc.weight"]))
        Unknown parameter 'conv1.wieght'. Did you mean 'conv1.weight'?
        """
        known = list(known)
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
        if close:
            return cls(f"Unknown {what} {name!r}. Did you mean {' or '.join(map(repr, close))}?")
        shown = ", ".join(map(repr, known[:8])) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        return cls(f"Unknown {what} {name!r}. Known: {shown or 'none'}.")


def require_model(model: object) -> None:
    """Raise `SparsewoodError` for what is no network: a class, a state dict, None."""
    if not callable(getattr(type(model), "named_parameters", None)):
        shown = model.__name__ if isinstance(model, type) else type(model).__name__
        raise SparsewoodError(f"The model must be a torch.nn.Module. Got {shown}.")


class FileFormatError(SparsewoodError):
    """A file is not what it should be: truncated, altered, or of another kind or version."""


class OutputError(SparsewoodError):
    """A place that should be written to cannot be."""
