"""Keypoint R-CNN with a feature pyramid: Faster R-CNN with a branch that finds a person's keypoints.

Source: He et al., "Mask R-CNN", arXiv:1703.06870, section 5.

Letters in shapes: N images or objects of an image, C channels, H and W pixels, R regions of all images, Q rows and
columns of a pooled region, D channels of a region, M rows and columns of a heatmap, K keypoints of an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._registry import load_published, register_model
from zoofleet.models._weight_sets import KeypointRCNN_ResNet50_FPN_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._options import out_channels, positive
from zoofleet.models.detection.backbone_utils import drop_norm_eps, resnet50_fpn
from zoofleet.models.detection.faster_rcnn import FasterRCNN, FasterRCNNOptions, pyramid_roi_pool
from zoofleet.models.detection.roi_heads import Branches
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
"""Lengths in pixels of images' shorter side: arXiv:1703.06870, section 5, draws from 640 to 800 in training."""


class KeypointRCNNHeads(nn.Sequential):
    """3 x 3 convolutions with ReLU over pooled regions: (R, in_channels, Q, Q) to (R, layers[-1], Q, Q).

    Args:
        in_channels: channels of a pooled region.
        layers: channels that come out of each convolution.
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
        in_channels: channels of a region.
        num_keypoints: number of heatmaps.
    """

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, num_keypoints, 4, stride=2, padding=1)
        _init_conv(self.kps_score_lowres)

    def forward(self, x: Tensor) -> Tensor:
        """Turn regions (R, in_channels, Q, Q) into logits (R, num_keypoints, 4 * Q, 4 * Q)."""
        return F.interpolate(self.kps_score_lowres(x), scale_factor=2.0, mode="bilinear", align_corners=False)


def _init_conv(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class KeypointRCNN(FasterRCNN):
    """Keypoint R-CNN; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, 3, H, W) into a dict of feature maps of `backbone.out_channels`
            channels each, or into one such map.
        num_classes: number of classes, with the background; None where `box_predictor` is given.
        min_size: length in pixels that an image's shorter side is resized to, or several lengths, of which training
            draws one for each image and inference takes the last; None for six lengths from 640 to 800.
        keypoint_roi_pool: cuts a region for each detection out of the feature maps; None for regions of 14 x 14 cells
            from the maps `0`, `1`, `2` and `3`.
        keypoint_head: turns regions (R, C, Q, Q) into (R, D, Q, Q); None for eight convolutions of 512 channels.
        keypoint_predictor: turns these into heatmaps (R, K, M, M); None for a `KeypointRCNNPredictor`, whose heatmaps
            are of four times the cells.
        num_keypoints: number of keypoints of an object; None for 17, and where `keypoint_predictor` is given.
        options: all other options of `FasterRCNN`, which documents them, by name.

    Raises:
        InvalidArgumentError: an option has another name; a threshold, fraction or score is outside [0, 1]; a number is
            not a positive integer; both or neither of `num_classes` and `box_predictor` are given; both of
            `num_keypoints` and `keypoint_predictor` are; or the backbone has no `out_channels`.
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
        **options: Unpack[FasterRCNNOptions],
    ) -> None:
        if keypoint_predictor is not None and num_keypoints is not None:
            raise InvalidArgumentError(
                f"num_keypoints must be None where keypoint_predictor is given, got {num_keypoints!r}"
            )
        # Made before the heads of `FasterRCNN`, because the reference draws random weights in this order.
        if keypoint_head is None:
            keypoint_head = KeypointRCNNHeads(out_channels(backbone), (512,) * 8)
        if keypoint_predictor is None:
            points = 17 if num_keypoints is None else positive("num_keypoints", num_keypoints)
            keypoint_predictor = KeypointRCNNPredictor(512, points)
        branches: Branches = {
            "keypoint_roi_pool": pyramid_roi_pool(14) if keypoint_roi_pool is None else keypoint_roi_pool,
            "keypoint_head": keypoint_head,
            "keypoint_predictor": keypoint_predictor,
        }
        min_size = _MIN_SIZES if min_size is None else min_size
        super().__init__(backbone, num_classes, min_size, branches=branches, **options)

    def _check_targets(self, targets: Sequence[Target]) -> None:
        if any("keypoints" not in target for target in targets):
            raise InvalidArgumentError("every target must have keypoints, float of shape (N, K, 3)")


@register_model(
    weights=KeypointRCNN_ResNet50_FPN_Weights,
    weights_backbone=ResNet50_Weights,
    fixed={"num_keypoints": lambda meta: len(meta["keypoint_names"])},
    finish=(load_published, drop_norm_eps),
)
def keypointrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 2,
    num_keypoints: int | None = None,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> KeypointRCNN:
    """Build Keypoint R-CNN over ResNet-50 with a feature pyramid (59.2 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 2.
        num_keypoints: number of keypoints of an object; None for 17, which the published weights have.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: further options of `KeypointRCNN` and `FasterRCNN`, such as `min_size` and `box_score_thresh`.
    """
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    return KeypointRCNN(backbone, num_classes, num_keypoints=num_keypoints, **kwargs)
