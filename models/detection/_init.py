"""How detectors' new layers draw their first weights."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["normal_init", "rare_object_init", "xavier_init"]


def normal_init(module: nn.Module, std: float = 0.01) -> None:
    """Draw the weights of all convolutions anew, with that standard deviation; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def xavier_init(module: nn.Module) -> None:
    """Draw the weights of all convolutions anew, uniformly by fan-in and fan-out; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def rare_object_init(logits: nn.Conv2d, prior_probability: float) -> None:
    """`normal_init` of a layer of logits, whose bias says that this share of places is an object.

    Else the background would drown everything else when training starts: arXiv:1708.02002, section 3.3.
    """
    normal_init(logits)
    nn.init.constant_(logits.bias, -math.log((1 - prior_probability) / prior_probability))  # type: ignore[arg-type]
