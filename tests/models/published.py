"""State dicts in the layout of the published files, made from the manifests.

To be small they hold a number for each output channel, repeated by strides of zero.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from tests.models import reference
from torch import Tensor

from zoofleet.models import WeightsEnum, get_model


def state_of(weights: WeightsEnum, builder: str) -> dict[str, Any]:
    """What the file of a weight set may hold: float numbers of no meaning, or an INT8 model with random weights."""
    if weights.meta.get("backend"):
        return get_model(builder, quantize=True).state_dict()  # with the versions of its layers as an attribute
    layout: list[list[Any]] = reference.load(f"state_dicts/{builder}.json")
    options = _published_options(weights, builder)
    if options:  # which the manifest's model has not
        with torch.device("meta"):
            layout = reference.describe(get_model(builder, **options).state_dict())
    generator = torch.Generator().manual_seed(zlib.crc32(repr(weights).encode()))
    return {key: _tensor(key, getattr(torch, dtype), shape, generator) for key, dtype, shape in layout}


def _published_options(weights: WeightsEnum, builder: str) -> dict[str, Any]:
    """Those that change the layout: the auxiliary heads of segmentation, and the images of SWAG's transformers."""
    if builder.startswith(("fcn", "deeplabv3")):
        return {"weights_backbone": None, "aux_loss": True}
    if "E2E" in weights.name and builder.startswith("vit"):
        return {"image_size": weights.meta["min_size"][0]}
    return {}


def _tensor(key: str, dtype: torch.dtype, shape: list[int], generator: torch.Generator) -> Tensor:
    if not dtype.is_floating_point or key.endswith("running_var"):
        return torch.ones((), dtype=dtype).expand(shape)
    first = shape[:1] or [1]
    noise = torch.randn(first, generator=generator)
    if len(shape) == 1:
        return (1 + 0.1 * noise if key.endswith("weight") else 0.1 * noise).to(dtype)
    scaled = noise / math.prod(shape[1:])
    return scaled.view(-1, *[1] * (len(shape) - 1)).expand(shape).to(dtype)
