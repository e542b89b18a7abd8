"""Keeping masked entries at zero while a model trains.

After each optimizer step the masked entries are set back to zero, in the parameters and in what the optimizer
remembers of them. The model itself is not touched: the forward pass costs nothing, parameters keep their names, and
copies and state dicts are those of a plain model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.masks.apply import Resolved, as_masks, clear, local, resolve, shard
from sparsewood.types import Masks

# State of a parameter's shape that is a learning rate (Rprop), not a memory of gradients: zero would hold an entry that
# a later mask gives back at the smallest rate.
_RATES = frozenset({"step_size"})


def enforce(model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer) -> Keeper:
    """Set the masked entries to exactly +0.0 now and after every step of `optimizer`, until the keeper is removed.

    The entries of momenta and other floating-point optimizer state of the parameter's shape are set to zero alike
    (except the step sizes of Rprop, which are rates), so that an entry which a later mask gives back starts afresh. The
    kept entries take the same steps as under a masked gradient, for every optimizer that treats entries one by one.
    Gradients are not masked: they may be read to decide what to give back, and a global norm to clip by counts them.
    LBFGS searches over all entries, and the result is projected.

    The keeper follows the parameters to other devices and dtypes. With several optimizers, enforce once for each. A
    copied or unpickled optimizer is a plain one, and a parameter that another object replaced is no longer the
    optimizer's: enforce again.

    Raises as `apply_masks` does, and `SparsewoodError` if the optimizer updates none of the masked parameters.

    >>> import torch
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    >>> with enforce(model, {"weight": torch.tensor([[True, False]])}, optimizer) as keeper:
    ...     for _ in range(3):
    ...         model(torch.ones(4, 2)).sum().backward()
    ...         optimizer.step()
    >>> (model.weight == 0).tolist(), keeper.masks.sparsity
    ([[False, True]], 0.5)
    """
    if not isinstance(optimizer, Optimizer):
        raise SparsewoodError(f"enforce needs the optimizer whose steps are to keep the zeros. Got {optimizer!r:.80}.")
    return Keeper(model, masks, optimizer)


class Keeper:
    """Holds masked entries at zero; made by `enforce`.

    Leaving its `with` block, or `remove()`, ends it; the entries are then free to change. Without either it lives as
    long as the optimizer. It holds the masks and, for parameters on another device, a copy there: no more.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._removed = False
        self._take(masks)
        self._handle = optimizer.register_step_post_hook(self._after_step)

    @property
    def masks(self) -> Masks:
        """The masks in force.

        New ones may be assigned, and then hold at once. They are checked first, as by `enforce`; those that fail
        leave the old in force. An entry that they give back stays zero until the optimizer moves it.
        """
        return self._masks

    @masks.setter
    def masks(self, masks: Mapping[str, Tensor]) -> None:
        if self._removed:
            raise SparsewoodError("This keeper was removed and enforces nothing. Call enforce(...) for a new one.")
        self._take(masks)

    def project(self) -> None:
        """Set the masked entries of parameters and optimizer state to zero now.

        Only needed after writing to the parameters by other means than a step, as by `load_state_dict`.
        """
        for index, (name, parameter, mask) in enumerate(self._resolved):
            if mask.device != parameter.device:
                # From the masks as given, not from an earlier copy: back on their device no copy is needed.
                mask = shard(self._masks[name], parameter)  # noqa: PLW2901
                self._resolved[index] = (name, parameter, mask)
            clear(local(parameter), mask)
            for moment in _moments(self._optimizer, parameter):
                clear(local(moment), mask.to(moment.device))

    def remove(self) -> None:
        """Stop enforcing. May be called again without effect."""
        self._removed = True
        self._handle.remove()
        self._resolved = []

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else repr(self._masks)
        return f"Keeper({state}, {type(self._model).__name__}, {type(self._optimizer).__name__})"

    def _take(self, masks: Mapping[str, Tensor]) -> None:
        checked = as_masks(masks)
        resolved = resolve(self._model, checked)
        require_managed(resolved, self._optimizer)
        self._masks = checked
        # On its parameter's device a mask that is not sharded is the one given, no copy.
        self._resolved = [(name, owner, shard(mask, owner)) for name, owner, mask in resolved if not mask.all()]
        self.project()

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        self.project()


def _moments(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    """What the optimizer remembers entry by entry.

    Integer state is left alone: it holds codes (8-bit optimizers), of which 0 need not mean zero. So is that of a
    scalar parameter, where shape cannot tell a moment from a step counter.
    """
    # get: the state is a defaultdict, and looking must not add to it.
    for key, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor) or key in _RATES or not parameter.ndim:
            continue
        if value.shape == parameter.shape and (value.is_floating_point() or value.is_complex()):
            yield value


def require_managed(resolved: Resolved, optimizer: Optimizer) -> None:
    """Raise `SparsewoodError` if the optimizer updates none of the parameters."""
    managed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if resolved and not any(id(parameter) in managed for _, parameter, _ in resolved):
        names = ", ".join(repr(name) for name, _, _ in resolved[:3]) + (", ..." if len(resolved) > 3 else "")
        raise SparsewoodError(
            f"The {type(optimizer).__name__} optimizer updates none of the {len(resolved)} masked parameters "
            f"({names}), so there is nothing to enforce. Pass the optimizer that was built from this model's "
            "parameters, and build it after anything that replaces them."
        )
