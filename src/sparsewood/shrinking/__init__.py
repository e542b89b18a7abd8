"""Removal: the units that a mask silences are cut out, and the smaller network is compared with the masked one."""

from sparsewood.shrinking.budgets import Bytes, Latency, MACs, Params
from sparsewood.shrinking.compose import expand
from sparsewood.shrinking.engines import Eager, OnnxRuntime
from sparsewood.shrinking.files import load, save
from sparsewood.shrinking.plan import ShrinkPlan
from sparsewood.shrinking.shrink import Shrunk, preview, shrink

__all__ = [
    "Bytes",
    "Eager",
    "Latency",
    "MACs",
    "OnnxRuntime",
    "Params",
    "ShrinkPlan",
    "Shrunk",
    "expand",
    "load",
    "preview",
    "save",
    "shrink",
]
