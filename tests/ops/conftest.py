"""What the operators' tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Let each test draw the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator of its own for each test."""
    return torch.Generator().manual_seed(7)
