"""Where the rows of activations come from: positions of parameters."""

from __future__ import annotations

import numpy as np

from sparsewood.structure import Structure

__all__ = ["Origins"]


class Origins:
    """Positions of parameters that rows of activations come from: through views as rectangles, to where they begin."""

    def __init__(self, structure: Structure) -> None:
        record = structure.record
        self.spans = sorted(record.spans, key=lambda span: span.start)
        self.starts = np.array([span.start for span in self.spans])
        self.parameters = record.parameters
        self.side_of: dict[int, tuple[int, int, int]] = {}
        self.splits = [split for split, _ in record.splits]
        for number, split in enumerate(self.splits):
            for side, row in enumerate((split.left, split.right)):
                for index, label in enumerate(row.tolist()):
                    self.side_of.setdefault(label, (number, side, index))

    def vector(self, row: np.ndarray) -> str | None:
        """The parameter with one axis that a row is, whole."""
        found = self.places(row)
        if found is None or len(found[2]) != self.spans[self._span(row)].size or found[1] != 0:
            return None
        return found[0] if self._axes(found[0]) == 1 else None

    def _axes(self, param: str) -> int:
        return 1 + max(span.axis for span in self.spans if span.param == param)

    def _span(self, labels: np.ndarray) -> int:
        return int(np.searchsorted(self.starts, labels.flat[0], side="right")) - 1

    def places(self, labels: np.ndarray) -> tuple[str, int, np.ndarray] | None:
        """The parameter, axis and positions that labels stand for, if all are of the same axis."""
        if not labels.size or labels.min() <= 0 or not self.spans:
            return None
        span = self.spans[max(0, self._span(labels))]
        positions = np.unique(labels) - span.start
        if positions[0] < 0 or positions[-1] >= span.size or span.param not in self.parameters:
            return None
        return span.param, span.axis, positions

    def grid(self, row: np.ndarray) -> np.ndarray | None:
        """Labels of parameter axes [..., places of the row]: in front, the blocks in which each place is."""
        if self.places(row) is not None:
            return row
        sides = [self.side_of.get(label) for label in row.tolist()]
        if not sides or any(side is None or side[:2] != (sides[0] or side)[:2] for side in sides):
            return None
        number, side, _ = sides[0] or (0, 0, 0)
        split = self.splits[number]
        parent = self.grid(split.parent)
        if parent is None:
            return None
        parent = parent.reshape(*parent.shape[:-1], len(split.left), len(split.right))
        parent = parent if side == 1 else np.swapaxes(parent, -1, -2)
        return parent[..., [one[2] for one in sides if one is not None]]

    def candidates(self, row: np.ndarray) -> list[np.ndarray]:
        """What makes a row: all blocks, or one of three, where queries, keys and values stand together.

        Of the first two blocks one makes queries or keys, and keys may be scaled as well as queries.
        """
        grid = self.grid(row)
        if grid is None:
            return []
        lead = range(grid.ndim - 1)
        thirds = [grid.take(block, axis) for axis in lead if grid.shape[axis] == 3 for block in (0, 1)]
        others = [grid.take(0, axis) for axis in lead if grid.shape[axis] not in (1, 3)]
        return [*thirds, grid, *others] if len(lead) > 1 else [grid, *thirds, *others]
