"""Keypoint R-CNN with a feature pyramid: Faster R-CNN with a branch that finds a person's keypoints.

Source: He et al., "Mask R-CNN", arXiv:1703.06870, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._hub import load_weights
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import KeypointRCNN_ResNet50_FPN_Weights
from zoofleet.models._weights import WeightsEnum, fixed_by_weights
from zoofleet.models.detection._checks import out_channels, positive
from zoofleet.models.detection.backbone_utils import drop_norm_eps, resnet50_fpn
from zoofleet.models.detection.faster_rcnn import FasterRCNN, pyramid_roi_pool
from zoofleet.models.detection.transform import Target
from zoofleet.models.ops import MultiScaleRoIAlign
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "KeypointRCNN",
    "KeypointRCNNHeads",
    "KeypointRCNNPredictor",
    "KeypointRCNN_ResNet50_FPN_Weights",
    "keypointrcnn_resnet50_fpn",
]


_MIN_SIZES = (640, 672, 704, 736, 768, 800)


class KeypointRCNNHeads(nn.Sequential):
    """3x3 convolutions with ReLU over a pooled region.

    Args:
        in_channels: channels of the region.
        layers: channels of each convolution.
    """

    def __init__(self, in_channels: int, layers: Sequence[int]) -> None:
        modules: list[nn.Module] = []
        for before, after in zip([in_channels, *layers], layers, strict=False):
            modules += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        super().__init__(*modules)
        for layer in modules:
            if isinstance(layer, nn.Conv2d):
                _init_conv(layer)


class KeypointRCNNPredictor(nn.Module):
    """Upsampling by four to a heatmap of each keypoint.

    Args:
        in_channels: channels of the region.
        num_keypoints: heatmaps.
    """

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, num_keypoints, 4, stride=2, padding=1)
        _init_conv(self.kps_score_lowres)

    def forward(self, x: Tensor) -> Tensor:
        """(R, in_channels, P, P) to logits (R, num_keypoints, 4 * P, 4 * P)."""
        return F.interpolate(self.kps_score_lowres(x), scale_factor=2.0, mode="bilinear", align_corners=False)


def _init_conv(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class KeypointRCNN(FasterRCNN):
    """Keypoint R-CNN. `Detector` says what goes in and out.

    Args:
        backbone: as `FasterRCNN` takes it.
        num_classes: background among them; None where `box_predictor` is given.
        min_size: as for `FasterRCNN`; None for 640 to 800 in training and 800 in inference.
        keypoint_roi_pool: None for 14 x 14 cells from the maps `0`..`3`.
        keypoint_head: None for eight convolutions of 512 channels.
        keypoint_predictor: None for heatmaps of four times the cells.
        num_keypoints: of each object; None where `keypoint_predictor` is given, and for 17 where not.
        options: all others of `FasterRCNN`.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        min_size: int | Sequence[int] | None = None,
        *,
        keypoint_roi_pool: MultiScaleRoIAlign | None = None,
        keypoint_head: nn.Module | None = None,
        keypoint_predictor: nn.Module | None = None,
        num_keypoints: int | None = None,
        **options: Any,
    ) -> None:
        if keypoint_predictor is not None and num_keypoints is not None:
            raise InvalidArgumentError(
                f"num_keypoints must be None where keypoint_predictor is given, got {num_keypoints!r}"
            )
        # Before the base's heads, because the reference draws their random weights in this order.
        if keypoint_head is None:
            keypoint_head = KeypointRCNNHeads(out_channels(backbone), (512,) * 8)
        if keypoint_predictor is None:
            points = 17 if num_keypoints is None else positive("num_keypoints", num_keypoints)
            keypoint_predictor = KeypointRCNNPredictor(512, points)
        super().__init__(backbone, num_classes, _MIN_SIZES if min_size is None else min_size, **options)
        self.roi_heads.keypoint_roi_pool = pyramid_roi_pool(14) if keypoint_roi_pool is None else keypoint_roi_pool
        self.roi_heads.keypoint_head = keypoint_head
        self.roi_heads.keypoint_predictor = keypoint_predictor

    def _check_targets(self, targets: Sequence[Target]) -> None:
        if any("keypoints" not in target for target in targets):
            raise InvalidArgumentError("every target must have keypoints, float of shape (N, K, 3)")


@register_model(weights=KeypointRCNN_ResNet50_FPN_Weights, weights_backbone=ResNet50_Weights)
def keypointrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    num_keypoints: int | None = None,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> KeypointRCNN:
    """Keypoint R-CNN over ResNet-50 with a feature pyramid.

    Args:
        weights: of the whole model, instead of `weights_backbone`; None for random ones.
        progress: write a progress line to stderr while downloading.
        num_classes: background among them; None for 2, which the weights have.
        num_keypoints: of each object; None for 17, which the weights have.
        weights_backbone: of the backbone alone.
        trainable_backbone_layers: parts of a backbone with trained weights that are trained further, counted from
            the last; 0 to 5, 3 if left out. A random backbone is trained whole.
        kwargs: options of `KeypointRCNN`.
    """
    num_classes = positive("num_classes", 2 if num_classes is None else num_classes)
    if weights is not None:
        num_keypoints = fixed_by_weights(weights, "num_keypoints", num_keypoints, len(weights.meta["keypoint_names"]))
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    model = KeypointRCNN(backbone, num_classes, num_keypoints=num_keypoints, **kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
        if weights is KeypointRCNN_ResNet50_FPN_Weights.COCO_V1:
            drop_norm_eps(model)
    return model
