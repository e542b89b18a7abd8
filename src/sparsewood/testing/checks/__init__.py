"""The contracts of the parts that can be added to, as code: a part that passes works with all the others.

Each function raises `AssertionError` with what is wrong. They are meant for tests of parts of your own:

>>> from sparsewood.criteria import Magnitude
>>> check_criterion(Magnitude())
"""

from sparsewood.testing.checks.criterion import check_criterion
from sparsewood.testing.checks.data import check_data
from sparsewood.testing.checks.dynamics import check_dynamics
from sparsewood.testing.checks.granularity import check_granularity
from sparsewood.testing.checks.penalty import check_penalty
from sparsewood.testing.checks.schedule import check_recovery, check_schedule
from sparsewood.testing.checks.scope import check_allocation, check_scope
from sparsewood.testing.checks.unit_criterion import check_unit_criterion

__all__ = [
    "check_allocation",
    "check_criterion",
    "check_data",
    "check_dynamics",
    "check_granularity",
    "check_penalty",
    "check_recovery",
    "check_schedule",
    "check_scope",
    "check_unit_criterion",
]
