"""Faster R-CNN with a feature pyramid, the base of the R-CNN family.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497; Lin et al., "Feature Pyramid Networks", arXiv:1612.03144. The
second versions: Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv:2111.11429.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._hub import load_weights
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
)
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._checks import check_classes, check_options, out_channels, positive
from zoofleet.models.detection.anchor_utils import AnchorGenerator
from zoofleet.models.detection.backbone_utils import drop_norm_eps, mobilenet_v3_large_fpn, resnet50_fpn
from zoofleet.models.detection.generalized_rcnn import GeneralizedRCNN
from zoofleet.models.detection.roi_heads import RoIHeads
from zoofleet.models.detection.rpn import RegionProposalNetwork, RPNHead
from zoofleet.models.detection.transform import IMAGENET_MEAN, IMAGENET_STD, GeneralizedRCNNTransform
from zoofleet.models.mobilenetv3 import MobileNet_V3_Large_Weights
from zoofleet.models.ops import MultiScaleRoIAlign
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "FasterRCNN",
    "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights",
    "FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    "FasterRCNN_ResNet50_FPN_V2_Weights",
    "FasterRCNN_ResNet50_FPN_Weights",
    "TwoMLPHead",
    "conv_heads",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "pyramid_roi_pool",
]


def _anchors() -> AnchorGenerator:
    return AnchorGenerator(sizes=((32,), (64,), (128,), (256,), (512,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5)


class TwoMLPHead(nn.Module):
    """Two fully connected layers over a pooled region.

    Args:
        in_channels: values of a region.
        representation_size: values out.
    """

    def __init__(self, in_channels: int, representation_size: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, P, P) to (R, representation_size)."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class FastRCNNConvFCHead(nn.Sequential):
    """Convolutions, then fully connected layers, over a pooled region.

    Args:
        input_size: channels, height and width of the region.
        conv_layers: channels of each convolution.
        fc_layers: values out of each fully connected layer.
        norm_layer: after each convolution; None for none.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        conv_layers: Sequence[int],
        fc_layers: Sequence[int],
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        in_channels, height, width = input_size
        channels = [in_channels, *conv_layers]
        values = [channels[-1] * height * width, *fc_layers]
        layers: list[nn.Module] = [
            *(Conv2dNormActivation(before, after, norm_layer=norm_layer) for before, after in pairwise(channels)),
            nn.Flatten(),
        ]
        for before, after in pairwise(values):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class FastRCNNPredictor(nn.Module):
    """Classes and box codes of a region.

    Args:
        in_channels: values of a region.
        num_classes: background among them.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, in_channels) or (R, in_channels, 1, 1) to logits (R, classes) and codes (R, classes * 4)."""
        x = x.flatten(1)  # (R, in_channels)
        return self.cls_score(x), self.bbox_pred(x)


class FasterRCNN(GeneralizedRCNN):
    """Faster R-CNN. `Detector` says what goes in and out.

    Args:
        backbone: maps (N, 3, H, W) to a dict of feature maps of `backbone.out_channels` channels each, or to one map.
        num_classes: background among them; None where `box_predictor` is given.
        min_size: pixels of the resized images' shorter side, or several of which training draws one.
        max_size: most pixels of their longer side.
        image_mean: of each channel; None for ImageNet's.
        image_std: of each channel; None for ImageNet's.
        rpn_anchor_generator: None for one size and three aspect ratios on each of five maps.
        rpn_head: None for one convolution.
        rpn_pre_nms_top_n_train: candidates of each map that enter non-maximum suppression, in training.
        rpn_pre_nms_top_n_test: the same in inference.
        rpn_post_nms_top_n_train: proposals of each image, in training.
        rpn_post_nms_top_n_test: the same in inference.
        rpn_nms_thresh: these `rpn_` are as for `RegionProposalNetwork`.
        rpn_fg_iou_thresh: see there.
        rpn_bg_iou_thresh: see there.
        rpn_batch_size_per_image: see there.
        rpn_positive_fraction: see there.
        rpn_score_thresh: see there.
        box_roi_pool: None for 7 x 7 cells from the maps `0`..`3`.
        box_head: None for two layers of 1024.
        box_predictor: None for one layer each for classes and codes.
        box_score_thresh: these `box_` are as for `RoIHeads`.
        box_nms_thresh: see there.
        box_detections_per_img: see there.
        box_fg_iou_thresh: see there.
        box_bg_iou_thresh: see there.
        box_batch_size_per_image: see there.
        box_positive_fraction: see there.
        bbox_reg_weights: see there.
        options: `size_divisible` and `fixed_size` of `GeneralizedRCNNTransform`.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        rpn_anchor_generator: AnchorGenerator | None = None,
        rpn_head: nn.Module | None = None,
        rpn_pre_nms_top_n_train: int = 2000,
        rpn_pre_nms_top_n_test: int = 1000,
        rpn_post_nms_top_n_train: int = 2000,
        rpn_post_nms_top_n_test: int = 1000,
        rpn_nms_thresh: float = 0.7,
        rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3,
        rpn_batch_size_per_image: int = 256,
        rpn_positive_fraction: float = 0.5,
        rpn_score_thresh: float = 0.0,
        box_roi_pool: MultiScaleRoIAlign | None = None,
        box_head: nn.Module | None = None,
        box_predictor: nn.Module | None = None,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25,
        bbox_reg_weights: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        check_options(FasterRCNN, options)
        check_classes(num_classes, "box_predictor", box_predictor)
        channels = out_channels(backbone)
        anchors = _anchors() if rpn_anchor_generator is None else rpn_anchor_generator
        rpn = RegionProposalNetwork(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]) if rpn_head is None else rpn_head,
            fg_iou_thresh=rpn_fg_iou_thresh,
            bg_iou_thresh=rpn_bg_iou_thresh,
            batch_size_per_image=rpn_batch_size_per_image,
            positive_fraction=rpn_positive_fraction,
            pre_nms_top_n={"training": rpn_pre_nms_top_n_train, "testing": rpn_pre_nms_top_n_test},
            post_nms_top_n={"training": rpn_post_nms_top_n_train, "testing": rpn_post_nms_top_n_test},
            nms_thresh=rpn_nms_thresh,
            score_thresh=rpn_score_thresh,
        )
        pool = pyramid_roi_pool(7) if box_roi_pool is None else box_roi_pool
        if box_head is None:
            height, width = pool.output_size
            box_head = TwoMLPHead(channels * height * width, 1024)
        if box_predictor is None:
            box_predictor = FastRCNNPredictor(1024, num_classes)  # type: ignore[arg-type]
        roi_heads = RoIHeads(
            pool,
            box_head,
            box_predictor,
            fg_iou_thresh=box_fg_iou_thresh,
            bg_iou_thresh=box_bg_iou_thresh,
            batch_size_per_image=box_batch_size_per_image,
            positive_fraction=box_positive_fraction,
            bbox_reg_weights=bbox_reg_weights,
            score_thresh=box_score_thresh,
            nms_thresh=box_nms_thresh,
            detections_per_img=box_detections_per_img,
        )
        transform = GeneralizedRCNNTransform(
            min_size, max_size, image_mean or IMAGENET_MEAN, image_std or IMAGENET_STD, **options
        )
        super().__init__(backbone, rpn, roi_heads, transform)


def pyramid_roi_pool(output_size: int) -> MultiScaleRoIAlign:
    """Regions as `output_size` squared cells, cut from the maps `0`..`3` of a pyramid."""
    return MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=output_size, sampling_ratio=2)


def conv_heads(channels: int, rpn_anchor_generator: AnchorGenerator | None) -> dict[str, nn.Module]:
    """The deeper `rpn_head` and `box_head` of the second versions, over maps of so many channels."""
    anchors = (rpn_anchor_generator or _anchors()).num_anchors_per_location()[0]
    return {
        "rpn_head": RPNHead(channels, anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead((channels, 7, 7), (256, 256, 256, 256), (1024,), nn.BatchNorm2d),
    }


@register_model(weights=FasterRCNN_ResNet50_FPN_Weights, weights_backbone=ResNet50_Weights)
def fasterrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over ResNet-50 with a feature pyramid.

    Args:
        weights: of the whole model, instead of `weights_backbone`; None for random ones.
        progress: write a progress line to stderr while downloading.
        num_classes: background among them; None for 91, which the weights have.
        weights_backbone: of the backbone alone.
        trainable_backbone_layers: parts of a backbone with trained weights that are trained further, counted from
            the last; 0 to 5, 3 if left out. A random backbone is trained whole.
        kwargs: options of `FasterRCNN`.
    """
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    model = FasterRCNN(backbone, num_classes, **kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
        if weights is FasterRCNN_ResNet50_FPN_Weights.COCO_V1:
            drop_norm_eps(model)
    return model


@register_model(weights=FasterRCNN_ResNet50_FPN_V2_Weights, weights_backbone=ResNet50_Weights)
def fasterrcnn_resnet50_fpn_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over ResNet-50 with deeper heads, and batch norm everywhere.

    Args are those of `fasterrcnn_resnet50_fpn`, but the backbone is random unless `weights_backbone` are given.
    """
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        freeze_norms=False,
        norm_layer=nn.BatchNorm2d,
    )
    heads = conv_heads(backbone.out_channels, kwargs.get("rpn_anchor_generator"))
    model = FasterRCNN(backbone, num_classes, **heads | kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
    return model


def _mobilenet_v3_large_fpn(
    weights: WeightsEnum | None,
    progress: bool,
    num_classes: int | None,
    weights_backbone: WeightsEnum | None,
    trainable_backbone_layers: int | None,
    options: dict[str, Any],
) -> FasterRCNN:
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = mobilenet_v3_large_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    anchors = AnchorGenerator(sizes=((32, 64, 128, 256, 512),) * 3, aspect_ratios=((0.5, 1.0, 2.0),) * 3)
    defaults: dict[str, Any] = {"rpn_anchor_generator": anchors, "rpn_score_thresh": 0.05}
    model = FasterRCNN(backbone, num_classes, **defaults | options)
    if weights is not None:
        load_weights(model, weights, progress=progress)
    return model


@register_model(weights=FasterRCNN_MobileNet_V3_Large_FPN_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def fasterrcnn_mobilenet_v3_large_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over MobileNetV3-Large with a feature pyramid.

    Args are those of `fasterrcnn_resnet50_fpn`, but the backbone has six parts and `rpn_score_thresh` is 0.05 if left
    out.
    """
    return _mobilenet_v3_large_fpn(weights, progress, num_classes, weights_backbone, trainable_backbone_layers, kwargs)


@register_model(weights=FasterRCNN_MobileNet_V3_Large_320_FPN_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def fasterrcnn_mobilenet_v3_large_320_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over MobileNetV3-Large with a feature pyramid, for phones: small images and few proposals.

    Args are those of `fasterrcnn_mobilenet_v3_large_fpn`, but `min_size` is 320, `max_size` 640, and
    `rpn_pre_nms_top_n_test` and `rpn_post_nms_top_n_test` are 150 if left out.
    """
    small = {"min_size": 320, "max_size": 640, "rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150}
    return _mobilenet_v3_large_fpn(
        weights, progress, num_classes, weights_backbone, trainable_backbone_layers, small | kwargs
    )
