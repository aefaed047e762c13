"""The ways in which a loaded model can be run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from zoofleet._values.tasks import Precision

__all__ = ["EXACT", "Plan", "PlanState", "PlanStatus"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A way of running a model. Items share a batch only if they have the same plan. `Runner.forms` has what it runs.

    Attributes:
        name: what operators read, such as `eager float32`.
        precision: what it serves, and what its results say.
        shape_class: what the inputs that it takes have in common, as `Runner.shape_class` gives it.
    """

    name: str
    precision: Precision
    shape_class: tuple[int, ...] = ()


EXACT: Final = Plan("eager float32", Precision.EXACT)
"""The reference's own arithmetic. Every model has it."""


class PlanState(Enum):
    """How far the search for a model's fastest plan is."""

    BUILDING = "building"
    """Plans are being built and measured; EXACT serves meanwhile."""
    READY = "ready"
    """The fastest plan serves."""
    FAILED = "failed"
    """The search ended with an error; EXACT serves."""


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """What serves the items of a loaded model and a class of shapes that ask for FAST.

    Attributes:
        state: how far the search is.
        plan: what serves.
        shape_class: what the items' inputs have in common, as `Runner.shape_class` gives it.
        milliseconds: time of an item by the plan, measured when it was built; 0 unless READY.
        exact_milliseconds: time of an item by EXACT, measured in the same run; 0 unless READY.
        deviation: 1 minus the cosine of the plan's raw outputs and EXACT's; 0 for EXACT.
        memory_bytes: memory that the plan takes beside the loaded model.
        message: what an operator should know: which plans failed, and why.
    """

    state: PlanState
    plan: Plan
    shape_class: tuple[int, ...]
    milliseconds: float = 0.0
    exact_milliseconds: float = 0.0
    deviation: float = 0.0
    memory_bytes: int = 0
    message: str = ""
