"""A recipe cut down to some of its variants, under the names that older scripts had for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.run.recipe import Recipe, Variant, load_recipe
from sparsewood.schedules import Levels

__all__ = ["ALIASES", "Choice", "chosen", "level_settings", "load_chosen"]

ALIASES = {
    "mag_pruning": "magnitude",
    "pmag": "magnitude",
    "prune_by_mag": "magnitude",
    "prune_random": "random",
    "lowest_l1": "l1_filter",
    "prune_lowest_l1": "l1_filter",
    "outliers": "outlier",
    "prune_outlier_neuron": "outlier",
}
"""Old name -> how the variant of the recipes that come with the project is called."""
BY_UNITMEM = {
    "lowest": "low_unitmem",
    "highest": "high_unitmem",
    "hybrid": "hybrid_unitmem",
}


@dataclass(frozen=True)
class Choice:
    """Which variants are meant, and what of their criteria is changed.

    `methods` are names of variants or those in `ALIASES`; "unitmem" and "prune_by_unitmem" mean the one that
    `prune_by` says. `augmentations` and `batch_size` are those of criteria that augment images themselves.
    """

    methods: tuple[str, ...] = ()
    prune_by: Literal["lowest", "highest", "hybrid"] = "lowest"
    augmentations: int | None = None
    batch_size: int | None = None


def load_chosen(path: Path, overrides: Sequence[str], choice: Choice) -> Recipe:
    """`load_recipe`, and of the recipe what is chosen. Raises as both do."""
    return chosen(load_recipe(path, overrides), choice)


def chosen(recipe: Recipe, choice: Choice) -> Recipe:
    """The recipe with the variants that are meant, in its own order, and those whose masks or numbers they need.

    Raises `UnknownName` for a method that the recipe does not have, and `SparsewoodError` for augmentations where no
    criterion augments.

    >>> from sparsewood.run.recipe import parse_recipe
    >>> recipe = parse_recipe("{name: x, data: digits, model: small_conv, variants: {magnitude: {}, random: {}}}")
    >>> [variant.name for variant in chosen(recipe, Choice(("mag_pruning",))).variants]
    ['magnitude']
    """
    variants = recipe.variants
    if choice.methods:
        meant = [recipe.variant(_variant_name(recipe, method, choice)) for method in choice.methods]
        needed = {one.name for variant in meant for one in (variant, *recipe.sources(variant))}
        variants = tuple(variant for variant in variants if variant.name in needed)
    changes = {"augmentations": choice.augmentations, "batch_size": choice.batch_size}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes:
        if not any(variant.pruning.reads_images for variant in variants):
            raise SparsewoodError(
                f"{' and '.join(changes)} are for criteria that augment images, such as UnitMem; no variant has one: "
                f"{', '.join(variant.name for variant in variants)}."
            )
        variants = tuple(_changed(variant, changes) for variant in variants)
    return replace(recipe, variants=variants)


def level_settings(percent: float) -> list[str]:
    """Settings for levels that each take `percent` of what is left, as long as 39 % are left.

    >>> level_settings(50.0)
    ['pruning.schedule={name: Levels, amounts: [0.5]}', 'pruning.rounds=1']
    """
    shares = [event.amount.fraction for event in _levels(percent)]
    return [f"pruning.schedule={{name: Levels, amounts: {shares}}}", f"pruning.rounds={len(shares)}"]


def _levels(percent: float) -> Sequence[Any]:
    levels = Levels.compounded(percent)
    return levels(len(levels.amounts))


def _variant_name(recipe: Recipe, method: str, choice: Choice) -> str:
    names = [variant.name for variant in recipe.variants]
    if method in names:
        return method
    if method in ("unitmem", "prune_by_unitmem"):
        method = BY_UNITMEM[choice.prune_by]
    name = ALIASES.get(method, method)
    if name not in names:
        raise UnknownName.among(f"method of recipe {recipe.name}", method, names)
    return name


def _changed(variant: Variant, changes: dict[str, int]) -> Variant:
    if not variant.pruning.reads_images:
        return variant
    criterion: Any = variant.pruning.criterion
    return replace(variant, pruning=replace(variant.pruning, criterion=replace(criterion, **changes)))
