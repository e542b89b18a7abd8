"""What a model costs and how well it does: parameters, bytes, multiply-accumulates, latency, accuracy."""

from sparsewood.measurement.accuracy import Evaluation, evaluate
from sparsewood.measurement.counting import Count, count
from sparsewood.measurement.jacobian import (
    SingularValues,
    jacobian_contributions,
    jacobian_singular_values,
    layer_singular_values,
)
from sparsewood.measurement.multiply_adds import Macs, Work, count_macs
from sparsewood.measurement.summary import Measurement, measure
from sparsewood.measurement.timing import Latency, LatencyComparison, compare_latency, latency

__all__ = [
    "Count",
    "Evaluation",
    "Latency",
    "LatencyComparison",
    "Macs",
    "Measurement",
    "SingularValues",
    "Work",
    "compare_latency",
    "count",
    "count_macs",
    "evaluate",
    "jacobian_contributions",
    "jacobian_singular_values",
    "latency",
    "layer_singular_values",
    "measure",
]
