"""AlexNet in its single-column form.

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, arXiv:1404.5997.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import AlexNet_Weights

__all__ = ["AlexNet", "AlexNet_Weights", "alexnet"]


class AlexNet(nn.Module):
    """Five convolutions of total stride 32 and three linear layers over a 6x6 grid.

    Args:
        num_classes: length of the output.
        dropout: probability before each of the first two linear layers.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 63 pixels a side, normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = torch.flatten(self.avgpool(self.features(x)), 1)  # (N, 9216)
        logits: Tensor = self.classifier(x)
        return logits


@register_model(weights=AlexNet_Weights)
def alexnet(**kwargs: Any) -> AlexNet:
    """Build AlexNet (61.1 M parameters).

    Args:
        **kwargs: options of `AlexNet`: `num_classes` and `dropout`.
    """
    return AlexNet(**kwargs)
