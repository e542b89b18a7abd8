"""Which parameters of a model are meant: names, patterns, types, and the default set."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from sparsewood.errors import SparsewoodError, UnknownName, require_model

logger = logging.getLogger(__name__)

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.CrossMapLRN2d,
    nn.LocalResponseNorm,
)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

Selector = str | type[nn.Module] | nn.Module
Selectors = Selector | Iterable[Selector]


@dataclass(frozen=True)
class Entry:
    """One parameter and where it lives.

    A tied parameter has several `owners`, of which `module` is the first, and other names, its `aliases`. `last` is the
    position of its last name among all parameter names of the model.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module
    module_name: str
    leaf: str
    aliases: tuple[str, ...]
    owners: tuple[nn.Module, ...]
    last: int

    @property
    def inputs_first(self) -> bool:
        """Whether axis 0 holds the inputs and axis 1 the outputs, as in transposed convolutions."""
        return isinstance(self.module, nn.modules.conv._ConvTransposeNd) and self.leaf == "weight"

    @property
    def groups(self) -> int:
        """Of a convolution: into how many parts, connected only within themselves, its channels are divided."""
        return self.module.groups if isinstance(self.module, nn.modules.conv._ConvNd) else 1


def entries(model: nn.Module) -> list[Entry]:
    """All parameters in registration order, tied ones once."""
    require_model(model)
    names: dict[int, list[str]] = {}
    last: dict[int, int] = {}
    for position, (name, parameter) in enumerate(model.named_parameters(remove_duplicate=False)):
        names.setdefault(id(parameter), []).append(name)
        last[id(parameter)] = position
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for name, parameter in model.named_parameters():
        module_name, _, leaf = name.rpartition(".")
        aliases = tuple(alias for alias in names[id(parameter)] if alias != name)
        owners = dict.fromkeys(modules[alias.rpartition(".")[0]] for alias in (name, *aliases))
        found.append(
            Entry(name, parameter, modules[module_name], module_name, leaf, aliases, tuple(owners), last[id(parameter)])
        )
    return found


def is_weight(entry: Entry) -> bool:
    """Weights that are pruned by default.

    A floating-point parameter with at least two axes whose own name is a weight's by PyTorch's convention (`weight`,
    `in_proj_weight`, `weight_ih_l0` ...), outside embeddings (also where it is tied to one) and normalisation layers,
    and from which no other weight is computed (see `is_raw`).
    """
    outside = not any(isinstance(owner, NORMS + EMBEDDINGS) for owner in entry.owners)
    return outside and _is_matrix(entry) and not is_raw(entry)


def is_raw(entry: Entry) -> bool:
    """Whether the layer computes its weight from this parameter, as under a parametrisation or `torch.nn.utils.prune`.

    A zero in such a parameter need not be a zero of the weight.
    """
    if isinstance(entry.module, ParametrizationList):
        return True
    computed = entry.leaf.rpartition("_")[0]  # weight_g and weight_v, weight_orig
    return computed != "" and computed in vars(entry.module)


def _is_matrix(entry: Entry) -> bool:
    named = entry.leaf.startswith("weight") or entry.leaf.endswith("weight")
    dense = entry.parameter.layout is torch.strided
    return named and dense and entry.parameter.ndim >= 2 and entry.parameter.is_floating_point()


def is_batchnorm_scale(entry: Entry) -> bool:
    """The affine scale of a BatchNorm layer."""
    return isinstance(entry.module, nn.modules.batchnorm._BatchNorm) and entry.leaf == "weight"


def matches(entry: Entry, selector: Selector) -> bool:
    """Whether a selector means this parameter.

    A selector is a parameter name, a module name (meaning all parameters below it), a shell pattern over either
    (`*` also matches dots), a module class, or a module.
    """
    if isinstance(selector, type):
        return any(isinstance(owner, selector) for owner in entry.owners)
    if isinstance(selector, nn.Module):
        return any(owner is module for module in selector.modules() for owner in entry.owners)
    return names_match((entry.name, *entry.aliases), selector)


def names_match(names: Iterable[str], selector: str) -> bool:
    """Whether a name, a module's name or a shell pattern over either means a parameter of one of these names.

    >>> names_match(["features.0.weight"], "features"), names_match(["features.0.weight"], "*.1*")
    (True, False)
    """
    for name in names:
        parents = [name]
        while "." in parents[-1]:
            parents.append(parents[-1].rpartition(".")[0])
        if selector in parents or any(fnmatch.fnmatchcase(parent, selector) for parent in parents):
            return True
    return False


def find(model_entries: Sequence[Entry], selectors: Selectors, what: str) -> list[Entry]:
    """The entries that any selector means, in model order; a selector that means nothing raises `UnknownName`."""
    wanted = _as_list(selectors, what)
    chosen: set[str] = set()
    for selector in wanted:
        hits = [entry.name for entry in model_entries if matches(entry, selector)]
        if not hits:
            raise _unmatched(selector, what, model_entries)
        chosen.update(hits)
    return [entry for entry in model_entries if entry.name in chosen]


def _as_list(selectors: Selectors, what: str) -> list[Selector]:
    if isinstance(selectors, str | type | nn.Module) or not isinstance(selectors, Iterable):
        wanted = [selectors]
    else:
        wanted = list(selectors)
    for selector in wanted:
        if not isinstance(selector, str | type | nn.Module):
            raise SparsewoodError(f"{what} takes names, patterns, module classes and modules. Got {selector!r}.")
    return wanted


def _unmatched(selector: Selector, what: str, model_entries: Sequence[Entry]) -> UnknownName:
    if isinstance(selector, str):
        known = [entry.name for entry in model_entries]
        known += sorted({entry.module_name for entry in model_entries if entry.module_name})
        return UnknownName.among(f"layer or parameter in {what}", selector, known)
    shown = selector.__name__ if isinstance(selector, type) else type(selector).__name__
    return UnknownName(f"{what}: no parameter of this model belongs to {shown}.")


def choose(
    model: nn.Module,
    *,
    include: Selectors | None = None,
    exclude: Selectors | None = None,
    protect_classifier: bool = True,
    default: Callable[[Entry], bool] = is_weight,
    action: str = "prune",
) -> list[Entry]:
    """The parameters to prune, or to do with what `action` says in the error for none.

    Without `include`: those for which `default` is true, less the classifier (see `classifier`) when
    `protect_classifier`. With `include`: every floating-point parameter that is named by parameter name, and, where a
    module, class or pattern is given, the weights it covers (all it covers if none is a weight). What `exclude` means
    is then taken out.
    """
    known = entries(model)
    _refuse_lazy(known)
    if include is None:
        chosen = [entry for entry in known if default(entry)]
        _report_raw(known)
        if protect_classifier:
            chosen = _without_classifier(chosen, known)
    else:
        chosen = _included(known, include, default)
    if exclude is not None:
        dropped = {entry.name for entry in find(known, exclude, "exclude")}
        chosen = [entry for entry in chosen if entry.name not in dropped]
    if not chosen:
        raise SparsewoodError(
            f"Nothing to {action} in {type(model).__name__}: no parameter was chosen from {len(known)}. "
            "Name some with include=[...] (parameter names, module names, patterns or module classes)."
        )
    return chosen


def _report_raw(known: Sequence[Entry]) -> None:
    raw = [entry.name for entry in known if is_raw(entry) and entry.parameter.ndim >= 2]
    if raw:
        logger.warning(
            "Not pruned: %s. Their layers compute a weight from them (a parametrisation, weight_norm, spectral_norm or "
            "torch.nn.utils.prune). Remove that first, or name them in include to mask them all the same.",
            ", ".join(raw),
        )


def _refuse_lazy(known: Sequence[Entry]) -> None:
    for entry in known:
        if is_lazy(entry.parameter):
            raise SparsewoodError(
                f"{entry.name!r} has no shape yet: its lazy module has not seen an input. "
                "Run the model once on a batch first."
            )


def _included(known: Sequence[Entry], include: Selectors, default: Callable[[Entry], bool]) -> list[Entry]:
    names: set[str] = set()
    for selector in _as_list(include, "include"):
        hits = find(known, selector, "include")
        exact = [entry for entry in hits if selector in (entry.name, *entry.aliases)]
        weights = [entry for entry in hits if default(entry)]
        raw = [entry.name for entry in hits if is_raw(entry)]
        if raw and not exact and not weights:
            raise SparsewoodError(
                f"include {selector!r} means layers that compute their weight from {', '.join(raw)}. Remove the "
                "parametrisation or torch.nn.utils.prune first, or name these parameters to mask them all the same."
            )
        names.update(entry.name for entry in exact or weights or hits)
    chosen = [entry for entry in known if entry.name in names]
    for entry in chosen:
        if not entry.parameter.is_floating_point() or entry.parameter.layout is not torch.strided:
            raise SparsewoodError(
                f"Parameter {entry.name!r} of type {entry.parameter.dtype} and layout {entry.parameter.layout} cannot "
                "be pruned: it must be a dense floating-point tensor."
            )
    return chosen


def classifier(known: Sequence[Entry]) -> Entry | None:
    """The weight taken to be the classifier: the last one in registration order, if there are several.

    A weight that is tied to an embedding counts by its last name, and what a weight is computed from as that weight.
    """
    weights = [e for e in known if is_weight(e) or is_raw(e) or (_is_matrix(e) and len(e.owners) > 1)]
    return max(weights, key=lambda entry: entry.last) if len(weights) > 1 else None


def _without_classifier(chosen: list[Entry], known: Sequence[Entry]) -> list[Entry]:
    last = classifier(known)
    kept = [entry for entry in chosen if last is None or entry.module is not last.module]
    if not kept or len(kept) == len(chosen):  # a network of one layer has nothing else to prune
        return chosen
    logger.info("The classifier, %s, is not pruned (protect_classifier=True).", last.name if last else None)
    return kept
