"""Which builders a run holds against the reference: all that are quick, and a sample of those that are large.

A large model's random initialisation and weights, or a detector's run on 800 pixels, takes ten seconds and more, all of
them together minutes. ZOOFLEET_ZOO_PART is `sample`, the default: the quick ones and a quarter of the large ones, the
same for all runs; `rest`: the other large ones, which CI runs too; or `all`.
"""

from __future__ import annotations

import os

import pytest

from zoofleet import _catalog

VARIABLE = "ZOOFLEET_ZOO_PART"
SAMPLE_STEP = 4
"""One large model in so many, by size, is in the sample."""
LARGE = 60_000_000
"""Parameters from which a model is large, whatever its task."""


def chosen() -> str:
    """The part of this run: `sample`, `rest` or `all`."""
    part = os.environ.get(VARIABLE) or "sample"
    if part not in ("sample", "rest", "all"):
        raise pytest.UsageError(f"{VARIABLE} must be sample, rest or all, got {part!r}")
    return part


def large(part: str) -> list[str]:
    """The large builders of a part; the sample has a like share of the largest and the smallest among them."""
    sizes = {
        name: info.num_params
        for name, info in _catalog.builders().items()
        if info.num_params >= LARGE or (info.task == "detection" and "resnet50" in name)
    }
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    sample = by_size[::SAMPLE_STEP]
    return {"sample": sample, "rest": [name for name in by_size if name not in sample], "all": by_size}[part]


def builders(part: str) -> list[str]:
    """The builders of a part, in the catalog's order."""
    quick = set() if part == "rest" else _catalog.builders().keys() - large("all")
    return [name for name in _catalog.builders() if name in quick or name in large(part)]
