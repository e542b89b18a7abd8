"""Small networks: some whose answers are mental arithmetic, and two lists of awkward ones.

`ARCHITECTURES` are classifiers to prune and train; `TOYS` trip up what follows couplings through a network, and say
what holds for them.
"""

from collections.abc import Mapping
from types import MappingProxyType

from sparsewood.testing.toys.architectures import (
    ARCHITECTURES,
    Architecture,
    constant_filters,
    counting_linear,
    product_network,
)
from sparsewood.testing.toys.attention import ATTENTION
from sparsewood.testing.toys.channels import CHANNELS
from sparsewood.testing.toys.control import CONTROL
from sparsewood.testing.toys.convolutions import CONVOLUTIONS
from sparsewood.testing.toys.joins import JOINS
from sparsewood.testing.toys.networks import NETWORKS
from sparsewood.testing.toys.norms import NORMS
from sparsewood.testing.toys.recurrent import RECURRENT
from sparsewood.testing.toys.toy import Coupled, Network, Toy
from sparsewood.testing.toys.weights import WEIGHTS

__all__ = [
    "ARCHITECTURES",
    "TOYS",
    "Architecture",
    "Coupled",
    "Network",
    "Toy",
    "constant_filters",
    "counting_linear",
    "product_network",
]

TOYS: Mapping[str, Toy] = MappingProxyType(
    {
        toy.name: toy
        for toy in (*JOINS, *CHANNELS, *CONVOLUTIONS, *NORMS, *WEIGHTS, *ATTENTION, *RECURRENT, *CONTROL, *NETWORKS)
    }
)
"""Awkward networks by name, with what couples in them."""
