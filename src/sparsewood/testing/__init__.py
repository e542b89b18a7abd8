"""A testing kit: contracts for parts of your own, small networks, leak checks; `strategies` needs hypothesis."""

from sparsewood.testing.checks import (
    check_allocation,
    check_criterion,
    check_data,
    check_dynamics,
    check_granularity,
    check_penalty,
    check_recovery,
    check_schedule,
    check_scope,
    check_unit_criterion,
)
from sparsewood.testing.leaks import no_leaks
from sparsewood.testing.structures import StructureReport, check_structure
from sparsewood.testing.toys import (
    ARCHITECTURES,
    TOYS,
    Architecture,
    Coupled,
    Toy,
    constant_filters,
    counting_linear,
    product_network,
)

__all__ = [
    "ARCHITECTURES",
    "TOYS",
    "Architecture",
    "Coupled",
    "StructureReport",
    "Toy",
    "check_allocation",
    "check_criterion",
    "check_data",
    "check_dynamics",
    "check_granularity",
    "check_penalty",
    "check_recovery",
    "check_schedule",
    "check_scope",
    "check_structure",
    "check_unit_criterion",
    "constant_filters",
    "counting_linear",
    "no_leaks",
    "product_network",
]
