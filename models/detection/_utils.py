"""What code that replaces a detector's heads asks of its backbone."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["retrieve_out_channels"]


def retrieve_out_channels(model: nn.Module, size: tuple[int, int]) -> list[int]:
    """Return the number of channels of each feature map of a backbone, found by a run on an empty image.

    Args:
        model: the backbone, which turns (1, 3, height, width) into a dict of feature maps or into one; its mode is left
            as it was.
        size: height and width of the image in pixels.
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        device = next(model.parameters()).device
        maps = model(torch.zeros(1, 3, *size, device=device))
    model.train(training)
    return [x.shape[1] for x in (maps.values() if isinstance(maps, dict) else [maps])]
