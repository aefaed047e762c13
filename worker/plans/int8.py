"""The INT8 form of a classifier: the zoo's own layout of it, with the float model's weights rounded.

The scales of its activations are measured on drawn pictures. The published INT8 weights are other models, which clients
ask for by their own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet.models import get_model, quantization
from zoofleet.models.quantization._quantizable import without_expected_warnings

__all__ = ["int8_builder", "load_int8", "save_int8"]


def int8_builder(model: ModelName) -> str | None:
    """Return the name of the builder of a float model's INT8 form. None where the zoo has none."""
    name = f"quantized_{model.builder}"
    return name if name in _catalog.builders() else None


def save_int8(module: nn.Module, builder: str, batches: Sequence[Tensor], path: Path) -> None:
    """Make the INT8 form of a float model, and write its state to a file.

    Args:
        module: the float model, on the CPU.
        builder: as `int8_builder` gave it.
        batches: the pictures on which scales are measured, each float32 (N, 3, H, W).
        path: the file.

    Raises:
        RuntimeError: the model's weights are not those of the builder's float form.
    """
    form: Any = get_model(builder, weights=None, quantize=False, progress=False)
    # Auxiliary heads, which are used in training only, may stand on either side.
    state = {name: value for name, value in module.state_dict().items() if name in form.state_dict()}
    missing, _ = form.load_state_dict(state, strict=False)
    if lost := [name for name in missing if not name.lower().startswith("aux")]:
        raise RuntimeError(f"{builder} has weights that the model has not, such as {lost[0]}")
    with without_expected_warnings():
        quantization.convert(form.eval(), batches)
        torch.save(form.state_dict(), path)


def load_int8(builder: str, path: Path) -> nn.Module:
    """Return the INT8 form whose state `save_int8` has written.

    Raises:
        RuntimeError: the file is not the state of such a model.
    """
    # What is drawn, and replaced, must not move the generator that others draw from.
    with torch.random.fork_rng(devices=[]), without_expected_warnings():
        form = get_model(builder, weights=None, quantize=True, progress=False)
        form.load_state_dict(torch.load(path, weights_only=True))
    return form.eval()
