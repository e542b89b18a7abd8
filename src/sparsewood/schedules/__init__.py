"""When and how much: schedules are data, and need no model."""

from sparsewood.schedules.plans import Cubic, Event, Geometric, Linear, OneShot, Plan, Schedule

__all__ = ["Cubic", "Geometric", "Linear", "OneShot"]
