"""SSDLite over MobileNetV3: SSD with depthwise separable heads, for phones.

Sources: Sandler et al., "MobileNetV2", arXiv:1801.04381, section 6.2; Howard et al., "Searching for MobileNetV3",
arXiv:1905.02244, section 6.3.

Letters in shapes: N images, C channels, H and W cells of a feature map or pixels of an image, A default boxes of all
maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import SSDLite320_MobileNet_V3_Large_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._init import normal_init
from zoofleet.models.detection._options import positive
from zoofleet.models.detection._utils import retrieve_out_channels
from zoofleet.models.detection.anchor_utils import DefaultBoxGenerator
from zoofleet.models.detection.backbone_utils import freeze_mobilenet, num_trainable_layers
from zoofleet.models.detection.ssd import SSD, SSDScoringHead, refuse_size
from zoofleet.models.mobilenetv3 import InvertedResidual, MobileNet_V3_Large_Weights, MobileNetV3, mobilenet_v3_large

__all__ = [
    "SSDLite320_MobileNet_V3_Large_Weights",
    "SSDLiteBackbone",
    "SSDLiteClassificationHead",
    "SSDLiteHead",
    "SSDLiteRegressionHead",
    "ssdlite320_mobilenet_v3_large",
]

NormLayer = Callable[..., nn.Module]

_SIZE = (320, 320)
_STD = 0.03
"""Standard deviation of the first weights: the reference's value."""


class SSDLiteBackbone(nn.Module):
    """MobileNetV3 cut within its last strided block, and four smaller maps behind it.

    Args:
        network: the MobileNetV3; it is taken apart, and its first parts are frozen.
        trainable_layers: how many of its six parts, counted from the last, are left to train; 0 to 6. A part begins
            with the first layer, with each that halves the resolution, and with the last.
        norm_layer: makes the normalisation after each convolution of the four further blocks from its number of
            channels.
    """

    def __init__(self, network: MobileNetV3, trainable_layers: int, norm_layer: NormLayer) -> None:
        super().__init__()
        layers = list(network.features)
        parts = freeze_mobilenet(layers, trainable_layers)
        # The last map at stride 16 is the wide one inside the block that strides: arXiv:1905.02244, section 6.3.
        cut = parts[-2]
        strided: InvertedResidual = layers[cut]  # type: ignore[assignment]
        self.features = nn.Sequential(
            nn.Sequential(*layers[:cut], strided.block[0]),
            nn.Sequential(strided.block[1:], *layers[cut + 1 :]),
        )
        last_channels: int = layers[-1].out_channels  # type: ignore[assignment]
        channels = [last_channels, 512, 256, 256, 128]
        self.extra = nn.ModuleList(_shrinking_block(before, after, norm_layer) for before, after in pairwise(channels))
        normal_init(self.extra, _STD)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Turn images (N, 3, H, W) into six maps by number, at strides 16, 32, 64, 128, 256 and 512."""
        maps = []
        for layer in (*self.features, *self.extra):
            x = layer(x)
            maps.append(x)
        return {str(i): x for i, x in enumerate(maps)}


def _shrinking_block(in_channels: int, out_channels: int, norm_layer: NormLayer) -> nn.Sequential:
    """Return what makes the next map from one: (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2)."""
    narrow = out_channels // 2
    conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.ReLU6)
    return nn.Sequential(
        conv(in_channels, narrow, kernel_size=1),
        conv(narrow, narrow, kernel_size=3, stride=2, groups=narrow),
        conv(narrow, out_channels, kernel_size=1),
    )


class SSDLiteClassificationHead(SSDScoringHead):
    """Computes the logits of every default box, by a depthwise separable convolution for each feature map.

    Args:
        in_channels: channels of each map.
        num_anchors: default boxes at each cell of each map.
        num_classes: number of classes, with the background.
        norm_layer: makes the normalisation after each depthwise convolution from its number of channels.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int, norm_layer: NormLayer
    ) -> None:
        positive("num_classes", num_classes)
        super().__init__(_convolutions(in_channels, num_anchors, num_classes, norm_layer), num_classes)


class SSDLiteRegressionHead(SSDScoringHead):
    """Computes the box codes of every default box, by a depthwise separable convolution for each feature map.

    Args:
        in_channels: channels of each map.
        num_anchors: default boxes at each cell of each map.
        norm_layer: makes the normalisation after each depthwise convolution from its number of channels.
    """

    def __init__(self, in_channels: Sequence[int], num_anchors: Sequence[int], norm_layer: NormLayer) -> None:
        super().__init__(_convolutions(in_channels, num_anchors, 4, norm_layer), 4)


def _convolutions(
    in_channels: Sequence[int], num_anchors: Sequence[int], columns: int, norm_layer: NormLayer
) -> nn.ModuleList:
    depthwise = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.ReLU6)
    blocks = nn.ModuleList(
        nn.Sequential(depthwise(channels, channels, groups=channels), nn.Conv2d(channels, anchors * columns, 1))
        for channels, anchors in zip(in_channels, num_anchors, strict=True)
    )
    normal_init(blocks, _STD)
    return blocks


class SSDLiteHead(nn.Module):
    """Computes logits and box codes of every default box.

    Args:
        in_channels: channels of each feature map.
        num_anchors: default boxes at each cell of each map.
        num_classes: number of classes, with the background.
        norm_layer: makes the normalisation after each depthwise convolution from its number of channels.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int, norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.classification_head = SSDLiteClassificationHead(in_channels, num_anchors, num_classes, norm_layer)
        self.regression_head = SSDLiteRegressionHead(in_channels, num_anchors, norm_layer)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Turn feature maps (N, C, H, W) into logits (N, A, num_classes) and codes (N, A, 4)."""
        return self.classification_head(maps), self.regression_head(maps)


@register_model(weights=SSDLite320_MobileNet_V3_Large_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def ssdlite320_mobilenet_v3_large(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    norm_layer: NormLayer | None = None,
    **kwargs: Any,
) -> SSD:
    """Build SSDLite over MobileNetV3-Large (3.4 M parameters), for images of 320 x 320 pixels.

    Args:
        num_classes: number of classes, with the background; those of the weights, or 91 without.
        weights_backbone: weights of the MobileNet alone: a member of `MobileNet_V3_Large_Weights`, the name of one, or
            None for random ones, without which its last blocks are half as wide. They are not used where there are
            `weights`.
        trainable_backbone_layers: how many of the MobileNet's six parts, counted from the last, are trained; 0 to 6, or
            None for all. A MobileNet without trained weights is trained whole.
        norm_layer: makes the normalisation after each convolution from its number of channels; None for batch norm with
            epsilon 0.001 and momentum 0.03.
        **kwargs: options of `SSD`: `image_mean`, `image_std`, `head`, `score_thresh`, `nms_thresh`,
            `detections_per_img`, `iou_thresh`, `topk_candidates` and `positive_fraction`; if left out, `image_mean` and
            `image_std` are 0.5, `score_thresh` is 0.001, `nms_thresh` is 0.55, and `detections_per_img` and
            `topk_candidates` are 300.

    Raises:
        InvalidArgumentError: `size` is among the options.
    """
    refuse_size(kwargs, 320)
    is_trained = weights is not None or weights_backbone is not None
    trainable = num_trainable_layers(trainable_backbone_layers, is_trained=is_trained, most=6, default=6)
    if norm_layer is None:
        norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    network = mobilenet_v3_large(
        weights=weights_backbone, progress=progress, norm_layer=norm_layer, reduced_tail=weights_backbone is None
    )
    if weights_backbone is None:
        normal_init(network, _STD)
    backbone = SSDLiteBackbone(network, trainable, norm_layer)
    anchors = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(
        retrieve_out_channels(backbone, _SIZE), anchors.num_anchors_per_location(), num_classes, norm_layer
    )
    defaults: dict[str, Any] = {
        "image_mean": (0.5,) * 3,
        "image_std": (0.5,) * 3,
        "score_thresh": 0.001,
        "nms_thresh": 0.55,
        "detections_per_img": 300,
        "topk_candidates": 300,
        "head": head,
    }
    return SSD(backbone, anchors, _SIZE, num_classes, **defaults | kwargs)
