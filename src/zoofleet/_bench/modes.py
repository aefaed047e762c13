"""What requests are, and when they are sent. Apart from the rest, so that the command's help loads nothing large."""

from __future__ import annotations

from enum import Enum

__all__ = ["Arrivals", "Mode"]


class Mode(Enum):
    """What a request is."""

    CALLS = "calls"
    """A call of its own with one item."""
    STREAM = "stream"
    """An item of a stream that stays open."""
    JOBS = "jobs"
    """A job."""


class Arrivals(Enum):
    """When requests of an open loop have their turns."""

    POISSON = "poisson"
    """At random moments that know nothing of each other, as those of many users."""
    CONSTANT = "constant"
    """At equal intervals."""
