"""What follows pruning: train on, go back, or start anew."""

from sparsewood.recovery.base import Follow, Recovery, Snapshot, snapshot
from sparsewood.recovery.batchnorm import Recalibration, StatisticsChange, recalibrate
from sparsewood.recovery.distill import Distillation, distillation_loss
from sparsewood.recovery.drawing import Initializer
from sparsewood.recovery.initializers import (
    ConvolutionOrthogonal,
    DeltaOrthogonal,
    LayerDefault,
    Normal,
    Original,
    Orthogonal,
    VarianceScaling,
)
from sparsewood.recovery.isometry import Isometry, IsometryReport, LayerIsometry, enforce_isometry
from sparsewood.recovery.least_squares import LayerError, Reconstruction, reconstruct
from sparsewood.recovery.restarts import (
    Distill,
    FineTune,
    Reinitialize,
    Rewind,
    RewindRate,
    RewindToBest,
    Scratch,
)
from sparsewood.recovery.surgery import LayerSurgery, Surgery, surgeon
from sparsewood.recovery.surgery_solvers import BlockSurgeon, DiagonalSurgeon, ExactSurgeon

__all__ = ["Distill", "FineTune", "Isometry", "Reinitialize", "Rewind", "RewindRate", "RewindToBest", "Scratch"]
