"""What `make test` leaves to `.ci/run`: tests marked `rest`, those of large models that others stand for.

A large model's random initialisation and weights, or a detector's run on 800 pixels, takes ten seconds and more, all of
them together minutes. ZOOFLEET_ZOO_PART is `sample`, the default: all tests without the mark; `rest`: those with it,
which CI runs too; or `all`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

from zoofleet import _catalog

VARIABLE = "ZOOFLEET_ZOO_PART"
LARGE = 60_000_000
"""Parameters from which a model is large, whatever its task."""
SAMPLE = ("alexnet", "vgg11_bn", "vit_b_16", "quantized_resnext101_64x4d", "keypointrcnn_resnet50_fpn")
"""The large builders that have no mark: they stand for architectures of which no builder is quick."""


def chosen() -> str:
    """The part of this run: `sample`, `rest` or `all`."""
    part = os.environ.get(VARIABLE) or "sample"
    if part not in ("sample", "rest", "all"):
        raise pytest.UsageError(f"{VARIABLE} must be sample, rest or all, got {part!r}")
    return part


def takes(part: str, item: pytest.Item) -> bool:
    """Whether a part has a test: each test is in one of `sample` and `rest`, and in `all`."""
    return part == "all" or (part == "rest") == (item.get_closest_marker("rest") is not None)


def is_large(name: str) -> bool:
    """Whether a builder's tests take long."""
    info = _catalog.builders()[name]
    return info.num_params >= LARGE or (info.task == "detection" and "resnet50" in name)


def marked(names: Iterable[str], sample: Iterable[str]) -> list[Any]:
    """Parameters of a test, with the mark on those that are not in the sample."""
    kept = set(sample)
    return [pytest.param(name, marks=[] if name in kept else pytest.mark.rest) for name in names]


def in_sample(name: str) -> bool:
    """Whether the tests of a builder have no mark."""
    return name in SAMPLE or not is_large(name)


def builders(names: Iterable[str]) -> list[Any]:
    """Builders as parameters of a test, with the mark on the large ones that are not in the sample."""
    given = list(names)
    return marked(given, filter(in_sample, given))
