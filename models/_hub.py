"""Published weight files: fetched once, checked, and read without running code."""

from __future__ import annotations

from typing import Any


def load_state_dict(url: str, *, progress: bool, check_hash: bool) -> dict[str, Any]:
    """Fetch and read a weight file."""
    raise NotImplementedError


def load_weights(model: Any, weights: Any, progress: bool = True) -> None: ...
