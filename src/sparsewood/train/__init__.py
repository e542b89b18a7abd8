"""Training: one loop for dense networks, fine-tuning and pruning while training, and settings as plain values."""

from sparsewood.train.devices import make_fabric
from sparsewood.train.dynamic import DynamicPruner
from sparsewood.train.history import Epoch, Fitted, History, Progress
from sparsewood.train.logs import CsvLog, Log, Logs, TensorBoardLog
from sparsewood.train.loop import fit
from sparsewood.train.loss import Teacher
from sparsewood.train.optimizers import SGD, Adam, AdamW, OptimizerSettings
from sparsewood.train.penalizing import Penalizer, penalize
from sparsewood.train.protocols import Batches, InTraining, PrunerFactory
from sparsewood.train.pruner import Pruner
from sparsewood.train.rates import (
    Constant,
    Cosine,
    CosineRestarts,
    MultiStep,
    OneCycle,
    Piecewise,
    Rate,
    Step,
    Warmup,
)
from sparsewood.train.settings import Training
from sparsewood.train.trackers import MlflowLog, WandbLog

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Batches",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "CsvLog",
    "DynamicPruner",
    "Epoch",
    "Fitted",
    "History",
    "InTraining",
    "Log",
    "Logs",
    "MlflowLog",
    "MultiStep",
    "OneCycle",
    "OptimizerSettings",
    "Penalizer",
    "Piecewise",
    "Progress",
    "Pruner",
    "PrunerFactory",
    "Rate",
    "Step",
    "Teacher",
    "TensorBoardLog",
    "Training",
    "WandbLog",
    "Warmup",
    "fit",
    "make_fabric",
    "penalize",
]
