"""How the new layers of detectors draw their first weights."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["normal_init", "rare_object_init", "xavier_init"]


def normal_init(module: nn.Module, std: float = 0.01) -> None:
    """Draw the weights of all convolutions within a module anew from a normal distribution; biases become 0.

    Args:
        module: the module; its other layers are left alone.
        std: the distribution's standard deviation; its mean is 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def xavier_init(module: nn.Module) -> None:
    """Draw the weights of all convolutions within a module anew from Glorot's uniform distribution; biases become 0.

    Args:
        module: the module; its other layers are left alone.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def rare_object_init(logits: nn.Conv2d, prior_probability: float) -> None:
    """Draw the weights of a layer of logits by `normal_init`, with a bias that says how rare objects are.

    Without it the loss on background would drown everything else when training starts. Source: Lin et al., Focal Loss,
    arXiv:1708.02002, section 3.3.

    Args:
        logits: the layer.
        prior_probability: share of places that the untrained layer takes for an object, in (0, 1).
    """
    normal_init(logits)
    nn.init.constant_(logits.bias, -math.log((1 - prior_probability) / prior_probability))  # type: ignore[arg-type]
