"""Numbers of several seeds as the cell of a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Mean and sample standard deviation; of one value the value alone.

    >>> shown([1.0, 2.0]), shown([1.0], 1)
    ('1.50 +- 0.71', '1.0')
    """
    spread = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
