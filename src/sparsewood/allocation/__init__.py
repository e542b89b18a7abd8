"""Scores x scope x budget -> what stays, exactly."""

from sparsewood.allocation.erk import ERK
from sparsewood.allocation.lamp import LAMP
from sparsewood.allocation.scopes import Everywhere, Isomorphic, Named, PerLayer, PerRow, PerType, Scope, as_scope
from sparsewood.allocation.uniform import Uniform

__all__ = ["ERK", "LAMP", "Everywhere", "Isomorphic", "Named", "PerLayer", "PerRow", "PerType", "Uniform"]
