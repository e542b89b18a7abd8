"""What an annotation says to whoever reads recipes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OfKind"]


@dataclass(frozen=True)
class OfKind:
    """Mark of an annotation: a component of this kind, where a base class does not say so."""

    title: str
