"""What a model costs and how well it does: parameters, bytes, multiply-accumulates, latency, accuracy."""

from sparsewood.measure.accuracy import Evaluation, evaluate
from sparsewood.measure.count import Count, count
from sparsewood.measure.latency import Latency, LatencyComparison, compare_latency, latency
from sparsewood.measure.macs import Macs, Work, count_macs
from sparsewood.measure.measure import Measurement, measure

__all__ = [
    "Count",
    "Evaluation",
    "Latency",
    "LatencyComparison",
    "Macs",
    "Measurement",
    "Work",
    "compare_latency",
    "count",
    "count_macs",
    "evaluate",
    "latency",
    "measure",
]
