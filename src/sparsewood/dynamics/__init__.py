"""Masks that change while a network trains, by the step; `train.DynamicPruner` carries them out."""

from sparsewood.dynamics.movement import Movement
from sparsewood.dynamics.rigged_lottery import RigL
from sparsewood.dynamics.sparse_evolutionary import SET
from sparsewood.dynamics.splicing import Splicing
from sparsewood.dynamics.straight_through import StraightThrough

__all__ = ["SET", "Movement", "RigL", "Splicing", "StraightThrough"]
