"""Op rules: what an operation does to the rows of its operands. One file per family.

A rule is a function `rule(trace, op)`: it reads the rows of the operands, notes what they couple or freeze, and sets
the rows of the results. An operation without a rule is a barrier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sparsewood.structure.log import Op
    from sparsewood.structure.tracer import Tracer

__all__ = ["Family", "Rule", "find_function_rule", "find_rule", "function_rule", "rule"]

Family = Literal["pointwise", "activation", "normalization", "movement", "contraction", "reduction", "constant"]
"""What an operation is to the taps: `activation` is a pointwise non-linearity, `constant` depends on no value."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and the family of its operation; `always`: it is asked even if no operand has labels."""

    apply: Callable[[Tracer, Op], None]
    family: Family
    always: bool


_rules: dict[Any, Rule] = {}
_function_rules: dict[Any, Callable[..., Any]] = {}
_FILES = (
    "pointwise",
    "factories",
    "movement",
    "indexing",
    "contraction",
    "convolution",
    "attention",
    "normalization",
    "reduction",
    "pooling",
    "recurrent",
    "spectral",
)


def rule(
    *ops: Any, family: Family, always: bool = False
) -> Callable[[Callable[[Tracer, Op], None]], Callable[[Tracer, Op], None]]:
    """Register a rule for ATen operations, given as packets (`aten.add`) or overloads (`aten.add.Tensor`).

    Contractions are asked even if no operand has labels, for their multiply-adds; others only if `always`.
    """

    def register(function: Callable[[Tracer, Op], None]) -> Callable[[Tracer, Op], None]:
        for op in ops:
            assert op not in _rules, f"two rules for {op}"
            _rules[op] = Rule(function, family, always or family == "contraction")
        return function

    return register


def function_rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule `f(trace, function, args, kwargs) -> result` for functions that are called from Python.

    It sees the call before PyTorch takes it apart, and must return what the function returns, with rows set.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for key in functions:
            assert key not in _function_rules, f"two rules for {key}"
            _function_rules[key] = function
        return function

    return register


def find_rule(func: Any) -> Rule | None:
    """The rule for an ATen overload, if there is one."""
    _load()
    return _rules.get(func) or _rules.get(func.overloadpacket)


def find_function_rule(func: Any) -> Callable[..., Any] | None:
    """The rule for a Python-level function, if there is one."""
    _load()
    return _function_rules.get(func)


_loaded: list[bool] = []


def _load() -> None:
    if not _loaded:
        for name in _FILES:
            import_module(f"{__name__}.{name}")
        _loaded.append(True)
