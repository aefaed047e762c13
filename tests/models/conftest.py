"""Fixtures for the zoo."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zoofleet.models import WeightsEnum


@pytest.fixture(autouse=True)
def seed() -> None:
    """Let each test draw the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[WeightsEnum, dict[str, Any]], None]:
    """Serve a state dict as a weight set's file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def publish(weights: WeightsEnum, state: dict[str, Any]) -> None:
        path = tmp_path / "net.pth"
        torch.save(state, path)
        path = path.rename(tmp_path / f"net-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
        monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=path.as_uri()))

    return publish
