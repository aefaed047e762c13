"""What the process that builds plans is asked for, and what it answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from zoofleet.worker.plans.assembly import Part

__all__ = ["Request", "Trial"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to build.

    Attributes:
        model: the model's name.
        shape_class: as `Runner.shape_class` gave it.
        device: the device, such as `cpu`.
        threads: CPU threads of a forward pass.
        folder: where packages are put.
        int8: whether the operator allows INT8.
    """

    model: str
    shape_class: tuple[int, ...]
    device: str
    threads: int
    folder: str
    int8: bool = False

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make one of what `to_json` gave."""
        fields = json.loads(text)
        return cls(**{**fields, "shape_class": tuple(fields["shape_class"])})


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a rung.

    Attributes:
        name: the rung's name.
        is_valid: whether it was built and follows EXACT.
        parts: what stands in the place of each region.
        milliseconds: time of an item in the larger of the batches that were timed.
        exact_milliseconds: time of an item by EXACT, measured in turns with it.
        shares: its time as a share of EXACT's, for each size of batch that was timed.
        deviation: 1 minus the cosine of its raw outputs and EXACT's.
        seconds: how long it took to build.
        message: how far it strays, or why there is none.
    """

    name: str
    is_valid: bool = False
    parts: tuple[Part, ...] = ()
    milliseconds: float = 0.0
    exact_milliseconds: float = 0.0
    shares: tuple[float, ...] = ()
    deviation: float = 0.0
    seconds: float = 0.0
    message: str = ""

    @property
    def packages(self) -> list[str]:
        """Names of the files that it needs."""
        return [part.package for part in self.parts if part.package is not None]

    @property
    def is_faster(self) -> bool:
        """Whether it may serve and is faster than EXACT at every size of batch."""
        return self.is_valid and max(self.shares) < 1

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Make one of what `dataclasses.asdict` gave, after a way through JSON."""
        parts = tuple(Part.from_json(part) for part in fields["parts"])
        return cls(**{**fields, "parts": parts, "shares": tuple(fields["shares"])})
