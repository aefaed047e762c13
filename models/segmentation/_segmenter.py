"""What the segmentation models have in common: dilated backbones, input, output, and a second head for training.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, fx, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._utils import IntermediateLayerGetter
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.mobilenetv3 import mobilenet_v3_large
from zoofleet.models.resnet import ResNet

__all__ = [
    "TRAINED_WITH_HEAD",
    "DilatedBackbone",
    "FCNHead",
    "Segmenter",
    "build_segmenter",
    "check_images",
    "upsample",
]

S = TypeVar("S", bound="Segmenter")

TRAINED_WITH_HEAD: Final = {"aux_loss": lambda _meta: True}
"""What the weights of all models with an auxiliary head fix, as `register_model` takes it."""

fx.wrap("check_images")  # a branch that torch.fx would not trace


class FCNHead(nn.Sequential):
    """A 3x3 convolution to a quarter of the channels and a 1x1 classifier; also every model's auxiliary head.

    Args:
        in_channels: channels of the features.
        channels: number of channels of the logits, which is the number of classes.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        width = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Conv2d(width, channels, kernel_size=1),
        )


class Segmenter(nn.Module):
    """Semantic segmentation with a head over the last feature map, and perhaps one over an earlier map.

    Args:
        backbone: gives a dict with the features `out` and, with an auxiliary head, `aux`.
        classifier: maps the features `out` to logits of their size.
        aux_classifier: maps the features `aux` to logits of their size, whose loss helps training; None for none.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Segment images.

        Args:
            x: (N, 3, H, W) float, normalised as the weights' transforms do.

        Returns:
            `out`: logits (N, num_classes, H, W); with an auxiliary head also `aux`: its logits, the same shape.

        Raises:
            InvalidArgumentError: the input is not four-dimensional with three channels.
        """
        check_images(x)
        features = self.backbone(x)
        results = OrderedDict(out=upsample(self.classifier(features["out"]), x))
        if self.aux_classifier is not None:
            results["aux"] = upsample(self.aux_classifier(features["aux"]), x)
        return results


def check_images(x: Tensor) -> None:
    """Refuse what is not (N, 3, H, W)."""
    if x.ndim != 4 or x.shape[1] != 3:
        raise InvalidArgumentError(f"images of shape {tuple(x.shape)}: the model takes (N, 3, H, W)")


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Bring (N, C, h, w) to the height and width of `like`, bilinearly."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class DilatedBackbone:
    """A classifier whose last features keep a finer resolution than they have for classification.

    Attributes:
        network: calls its children one after the other.
        early: child with the features for an auxiliary or low-level head, and their channels.
        last: child with the last features, and their channels.
    """

    network: nn.Module
    early: tuple[str, int]
    last: tuple[str, int]

    @classmethod
    def resnet(cls, build: Callable[..., ResNet], weights: WeightsEnum | None, progress: bool) -> DilatedBackbone:
        """A ResNet of bottlenecks, whose last two stages both have stride 8."""
        network = build(weights=weights, progress=progress, replace_stride_with_dilation=(False, True, True))
        return cls(network, early=("layer3", 1024), last=("layer4", 2048))

    @classmethod
    def mobilenet_v3_large(cls, weights: WeightsEnum | None, progress: bool) -> DilatedBackbone:
        """MobileNetV3-Large with the last features of stride 16 and, of stride 8, those that begin this resolution."""
        network = mobilenet_v3_large(weights=weights, progress=progress, dilated=True).features
        strided = [i for i, block in enumerate(network) if getattr(block, "strided", False)]
        early, last = ((str(i), cast("int", network[i].out_channels)) for i in (strided[-3], len(network) - 1))
        return cls(network, early, last)

    def giving(self, *, early: str | None, last: str) -> IntermediateLayerGetter:
        """Cut out the network, with its features under these names; None for not giving them."""
        names = {self.early[0]: early} if early is not None else {}
        return IntermediateLayerGetter(self.network, names | {self.last[0]: last})


def build_segmenter(
    model_class: type[S],
    head: Callable[[int, int], nn.Module],
    dilated: DilatedBackbone,
    num_classes: int,
    aux_loss: bool,
) -> S:
    """Build a segmentation model over a backbone.

    Args:
        model_class: the model's class.
        head: makes the head from the channels of the backbone's last features and the number of classes.
        dilated: the backbone.
        num_classes: number of channels of the output.
        aux_loss: whether the model has an auxiliary head over the backbone's early features.
    """
    return model_class(
        backbone=dilated.giving(early="aux" if aux_loss else None, last="out"),
        aux_classifier=FCNHead(dilated.early[1], num_classes) if aux_loss else None,
        classifier=head(dilated.last[1], num_classes),
    )
