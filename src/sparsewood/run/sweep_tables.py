"""The tables that `sparsewood sweep` shows: what there is to do, and the accuracies that came of it."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewood.report.rows import summarize
from sparsewood.report.table import Table
from sparsewood.run.cell_work import noted_row
from sparsewood.run.cells import Plan
from sparsewood.run.sweep import Board

__all__ = ["cell_counts", "method_tables"]


def cell_counts(plans: Sequence[Plan], compressions: Sequence[float], seeds: Sequence[int]) -> Table:
    """How many networks of which kind there are on each problem."""
    kinds = ("dense", "tuned", "pruned", "layers", "narrow", "scratch")
    rows = []
    for plan in plans:
        methods = list(dict.fromkeys(cell.method for cell in plan.cells if cell.role == "method"))
        counts = [sum(cell.kind == kind for cell in plan.cells) for kind in kinds]
        rows.append((plan.problem.name, str(len(methods)), *map(str, counts), str(len(plan.cells))))
    amounts = ", ".join(f"{one:g}" for one in compressions)
    return Table(
        f"Compressions {amounts}; seeds {', '.join(map(str, seeds))}",
        ("problem", "methods", "dense", "trained on", "pruned", "by layer", "narrow", "from scratch", "cells"),
        tuple(rows),
    )


def method_tables(plans: Sequence[Plan], board: Board) -> list[Table]:
    """For each problem the test accuracy of every method and control at each compression, over seeds."""
    return [_table(plan, board) for plan in plans]


def _table(plan: Plan, board: Board) -> Table:
    amounts = sorted({cell.amount for cell in plan.cells})
    reached: dict[tuple[str, float], list[float]] = {}
    for cell in plan.cells:
        row = noted_row(plan, cell) if cell.hash in board.seconds else None
        if row is not None:
            reached.setdefault((cell.method, cell.amount), []).append(row["accuracy"])
    roles = {cell.method: cell.role for cell in plan.cells}
    order = sorted(roles, key=lambda name: (roles[name] != "method", list(roles).index(name)))
    seeds = len({cell.seed for cell in plan.cells})
    rows = tuple((name, *(_cell(reached.get((name, amount)), seeds) for amount in amounts)) for name in order)
    heads = ("dense" if amount == 1 else f"{amount:g}x" for amount in amounts)
    title = f"{plan.problem.name} ({plan.problem.title}): test accuracy in %, mean +- sample std over {seeds} seeds"
    return Table(title, ("method", *heads), rows)


def _cell(values: list[float] | None, seeds: int) -> str:
    """Mean and deviation; how many seeds there are, if not all."""
    if not values:
        return ""
    found = summarize(values)
    mean = f"{100 * found.mean:.2f}"
    shown = mean if found.std is None else f"{mean} +- {100 * found.std:.2f}"
    return shown if len(values) == seeds else f"{shown} (of {len(values)})"
