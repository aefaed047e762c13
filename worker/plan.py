"""The ways in which a loaded model can be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zoofleet._values.tasks import Precision

__all__ = ["EXACT", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A way of running a model. Items share a batch only if they have the same plan.

    Attributes:
        name: what operators read, such as `eager float32`.
        precision: what it serves, and what its results say.
    """

    name: str
    precision: Precision


EXACT: Final = Plan("eager float32", Precision.EXACT)
"""The reference's own arithmetic. Every model has it."""
