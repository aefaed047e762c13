"""Which builders a run holds against the reference: all that are quick, and in turn a part of those that are large.

A large model's random initialisation and weights, or a detector's run on 800 pixels, takes ten seconds and more, all of
them together minutes. The part changes with the date, so that four days of runs have seen them all; ZOOFLEET_ZOO_PART
names one (1 to 4) or `all`.
"""

from __future__ import annotations

import datetime as dt
import os

import pytest

from zoofleet import _catalog

VARIABLE = "ZOOFLEET_ZOO_PART"
PARTS = 4
LARGE = 60_000_000
"""Parameters from which a model is large, whatever its task."""


def chosen() -> str:
    """The part of this run: `1` to `4`, or `all`."""
    parts = [str(part) for part in range(1, PARTS + 1)]
    part = os.environ.get(VARIABLE) or parts[dt.datetime.now(dt.UTC).toordinal() % PARTS]
    if part not in (*parts, "all"):
        raise pytest.UsageError(f"{VARIABLE} must be one of {', '.join(parts)} and all, got {part!r}")
    return part


def large(part: str) -> list[str]:
    """The large builders of a part, which has a like share of the largest and the smallest among them."""
    sizes = {
        name: info.num_params
        for name, info in _catalog.builders().items()
        if info.num_params >= LARGE or (info.task == "detection" and "resnet50" in name)
    }
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    return by_size if part == "all" else by_size[int(part) - 1 :: PARTS]


def builders() -> list[str]:
    """The builders of this run, in the catalog's order."""
    left_out = set(large("all")) - set(large(chosen()))
    return [name for name in _catalog.builders() if name not in left_out]
