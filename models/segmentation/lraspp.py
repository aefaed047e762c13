"""LR-ASPP: a light segmentation head over two feature maps of MobileNetV3.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244, section 6.4 and figure 10.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, fx, nn

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import LRASPP_MobileNet_V3_Large_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.mobilenetv3 import MobileNet_V3_Large_Weights
from zoofleet.models.segmentation._segmenter import DilatedBackbone, check_images, upsample

__all__ = ["LRASPP", "LRASPPHead", "LRASPP_MobileNet_V3_Large_Weights", "lraspp_mobilenet_v3_large"]

fx.wrap("check_images")  # a branch that torch.fx would not trace


class LRASPPHead(nn.Module):
    """Gates the coarse features by their global mean, brings them to the fine ones' size and adds both classifiers.

    Args:
        low_channels: channels of the fine, low-level features.
        high_channels: channels of the coarse, high-level features.
        num_classes: channels of the output.
        inter_channels: channels to which the coarse features are brought.
    """

    def __init__(self, low_channels: int, high_channels: int, num_classes: int, inter_channels: int) -> None:
        super().__init__()
        self.cbr = nn.Sequential(
            nn.Conv2d(high_channels, inter_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(inter_channels),
            nn.ReLU(inplace=True),
        )
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(high_channels, inter_channels, kernel_size=1, bias=False),
            nn.Sigmoid(),
        )
        self.low_classifier = nn.Conv2d(low_channels, num_classes, kernel_size=1)
        self.high_classifier = nn.Conv2d(inter_channels, num_classes, kernel_size=1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(N, low_channels, h, w) and (N, high_channels, h', w') -> logits (N, num_classes, h, w)."""
        x = self.cbr(high) * self.scale(high)
        out: Tensor = self.low_classifier(low) + self.high_classifier(upsample(x, low))
        return out


class LRASPP(nn.Module):
    """Semantic segmentation with the LR-ASPP head.

    Args:
        backbone: gives a dict with the features `low` and `high`.
        low_channels: channels of `low`.
        high_channels: channels of `high`.
        num_classes: channels of the output.
        inter_channels: channels to which the coarse features are brought.
    """

    def __init__(
        self, backbone: nn.Module, low_channels: int, high_channels: int, num_classes: int, inter_channels: int = 128
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = LRASPPHead(low_channels, high_channels, num_classes, inter_channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Segment images.

        Args:
            x: (N, 3, H, W) float, normalised as the weights' transforms do.

        Returns:
            `out`: logits (N, num_classes, H, W).

        Raises:
            InvalidArgumentError: the input is not four-dimensional with three channels.
        """
        check_images(x)
        features = self.backbone(x)
        return OrderedDict(out=upsample(self.classifier(features["low"], features["high"]), x))


@register_model(weights=LRASPP_MobileNet_V3_Large_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def lraspp_mobilenet_v3_large(
    *,
    progress: bool = True,
    num_classes: int = 21,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    **kwargs: Any,
) -> LRASPP:
    """Build LR-ASPP on a dilated MobileNetV3-Large (3.2 M parameters).

    Args:
        num_classes: number of channels of the output, the background among them; weights fix it.
        weights_backbone: the backbone's own weights, a member of `MobileNet_V3_Large_Weights` or the name of one, used
            only without `weights`; None for random ones.
        **kwargs: `inter_channels`, the option of `LRASPP`.
    """
    dilated = DilatedBackbone.mobilenet_v3_large(weights_backbone, progress)
    return LRASPP(dilated.giving(early="low", last="high"), dilated.early[1], dilated.last[1], num_classes, **kwargs)
