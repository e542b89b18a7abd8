"""Which epoch's weights stay, and when there is nothing more to hope for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Selection"]


class Selection:
    """Keeps the weights of the epoch with the highest accuracy, the first of equals, and counts epochs since then.

    `restored` says whether weights are kept at all ("best"), or only the count ("last").
    """

    def __init__(self, restored: bool) -> None:
        self._restored = restored
        self._weights: dict[str, Tensor] = {}
        self.chosen: int | None = None
        self.best: float | None = None
        self.waited = 0

    def consider(self, model: nn.Module, number: int, accuracy: float) -> None:
        """Look at the model as it is after epoch `number`."""
        if self.best is not None and accuracy <= self.best:
            self.waited += 1
            return
        self.best, self.waited = accuracy, 0
        if self._restored:
            self.chosen = number
            self._weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def put_back(self, model: nn.Module) -> None:
        """Give the model the kept weights and buffers; without any it stays as it is."""
        if self._weights:
            model.load_state_dict(self._weights)

    def tensors(self) -> dict[str, Tensor]:
        """The kept weights by name."""
        return self._weights

    def values(self) -> dict[str, Any]:
        """All else, as JSON values."""
        return {"chosen": self.chosen, "best": self.best, "waited": self.waited}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `values` gave."""
        self._weights = dict(tensors)
        self.chosen, self.best, self.waited = values["chosen"], values["best"], values["waited"]
