"""Faster R-CNN with a feature pyramid, the base of the R-CNN family.

Sources: Ren et al., "Faster R-CNN", arXiv:1506.01497; Lin et al., "Feature Pyramid Networks", arXiv:1612.03144. The
second versions: Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv:2111.11429.

Letters in shapes: N images, C channels, H and W pixels, R regions of all images, Q rows and columns of a pooled region,
D values of a region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Unpack

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import load_published, register_model
from zoofleet.models._weight_sets import (
    FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
)
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._options import TransformOptions, check_classes, check_names, out_channels
from zoofleet.models.detection.anchor_utils import AnchorGenerator
from zoofleet.models.detection.backbone_utils import drop_norm_eps, mobilenet_v3_large_fpn, resnet50_fpn
from zoofleet.models.detection.generalized_rcnn import GeneralizedRCNN
from zoofleet.models.detection.roi_heads import Branches, RoIHeads
from zoofleet.models.detection.rpn import RegionProposalNetwork, RPNHead
from zoofleet.models.detection.transform import GeneralizedRCNNTransform
from zoofleet.models.mobilenetv3 import MobileNet_V3_Large_Weights
from zoofleet.models.ops import MultiScaleRoIAlign
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "FasterRCNN",
    "FasterRCNNOptions",
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
    """Return one size and three aspect ratios for each of five maps: arXiv:1612.03144, section 4.1."""
    return AnchorGenerator(sizes=((32,), (64,), (128,), (256,), (512,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5)


class TwoMLPHead(nn.Module):
    """Two fully connected layers over pooled regions.

    Args:
        in_channels: values of a pooled region: channels times rows times columns.
        representation_size: values of a region that come out.
    """

    def __init__(self, in_channels: int, representation_size: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        """Turn pooled regions (R, C, Q, Q) into values (R, representation_size)."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class FastRCNNConvFCHead(nn.Sequential):
    """Convolutions, then fully connected layers, over pooled regions.

    Args:
        input_size: channels, rows and columns of a pooled region.
        conv_layers: channels that come out of each convolution.
        fc_layers: values that come out of each fully connected layer.
        norm_layer: makes the layer after each convolution from its number of channels; None for no such layer.
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
    """Two layers that give the class and the box codes of regions.

    Args:
        in_channels: values of a region.
        num_classes: number of classes, with the background.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turn values (R, D) or (R, D, 1, 1) into logits (R, num_classes) and box codes (R, num_classes * 4)."""
        x = x.flatten(1)  # (R, in_channels)
        return self.cls_score(x), self.bbox_pred(x)


class FasterRCNNOptions(TransformOptions, total=False):
    """The options of `FasterRCNN` that its subclasses pass on, which are documented there."""

    max_size: int
    image_mean: Sequence[float] | None
    image_std: Sequence[float] | None
    rpn_anchor_generator: AnchorGenerator | None
    rpn_head: nn.Module | None
    rpn_pre_nms_top_n_train: int
    rpn_pre_nms_top_n_test: int
    rpn_post_nms_top_n_train: int
    rpn_post_nms_top_n_test: int
    rpn_nms_thresh: float
    rpn_fg_iou_thresh: float
    rpn_bg_iou_thresh: float
    rpn_batch_size_per_image: int
    rpn_positive_fraction: float
    rpn_score_thresh: float
    box_roi_pool: MultiScaleRoIAlign | None
    box_head: nn.Module | None
    box_predictor: nn.Module | None
    box_score_thresh: float
    box_nms_thresh: float
    box_detections_per_img: int
    box_fg_iou_thresh: float
    box_bg_iou_thresh: float
    box_batch_size_per_image: int
    box_positive_fraction: float
    bbox_reg_weights: Sequence[float] | None


class FasterRCNN(GeneralizedRCNN):
    """Faster R-CNN; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, 3, H, W) into a dict of feature maps of `backbone.out_channels`
            channels each, or into one such map.
        num_classes: number of classes, with the background; None where `box_predictor` is given.
        min_size: length in pixels that an image's shorter side is resized to, or several lengths, of which training
            draws one for each image and inference takes the last.
        max_size: greatest length in pixels of the longer side of a resized image.
        image_mean: mean of each channel, for images in [0, 1]; None for ImageNet's.
        image_std: standard deviation of each channel; None for ImageNet's.
        rpn_anchor_generator: lays the anchors; None for one size and three aspect ratios on each of five feature maps.
        rpn_head: turns the list of feature maps into logits and box codes of every anchor; None for an `RPNHead`.
        rpn_pre_nms_top_n_train: greatest number of candidates of a feature map that enter non-maximum suppression, in
            training.
        rpn_pre_nms_top_n_test: the same number in inference.
        rpn_post_nms_top_n_train: greatest number of proposals of an image, in training.
        rpn_post_nms_top_n_test: the same number in inference.
        rpn_nms_thresh: overlap (IoU) above which the weaker of two candidates of a feature map goes.
        rpn_fg_iou_thresh: overlap (IoU) with a true box from which on an anchor counts as an object in the loss.
        rpn_bg_iou_thresh: overlap (IoU) below which an anchor counts as background in the loss.
        rpn_batch_size_per_image: greatest number of anchors of an image that the loss is taken over.
        rpn_positive_fraction: greatest share of objects among these.
        rpn_score_thresh: least objectness of a proposal.
        box_roi_pool: cuts a region for each proposal out of the feature maps; None for regions of 7 x 7 cells from the
            maps `0`, `1`, `2` and `3`.
        box_head: turns regions (R, C, Q, Q) into values (R, D); None for a `TwoMLPHead` of 1024 values.
        box_predictor: turns these into logits (R, num_classes) and box codes (R, num_classes * 4); None for a
            `FastRCNNPredictor`.
        box_score_thresh: scores of detections must be above this.
        box_nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes.
        box_detections_per_img: greatest number of detections of an image.
        box_fg_iou_thresh: overlap (IoU) with a true box from which on a proposal counts as an object in the losses.
        box_bg_iou_thresh: overlap (IoU) below which a proposal counts as background in the losses.
        box_batch_size_per_image: greatest number of proposals of an image that the losses are taken over.
        box_positive_fraction: greatest share of objects among these.
        bbox_reg_weights: factors of the four values of a box code; None for (10, 10, 5, 5).
        branches: branches of `RoIHeads` beside that for boxes; None for none.
        options: `size_divisible`, to multiples of which in pixels a batch is padded, 32 if left out; `fixed_size`, the
            height and width in pixels that every image gets in the place of `min_size` and `max_size`.

    Raises:
        InvalidArgumentError: an option has another name; a threshold, fraction or score is outside [0, 1]; a number is
            not a positive integer; both or neither of `num_classes` and `box_predictor` are given; or the backbone has
            no `out_channels`.
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
        *,
        branches: Branches | None = None,
        **options: Unpack[TransformOptions],
    ) -> None:
        check_names(FasterRCNN, options)
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
            **(branches or {}),
        )
        transform = GeneralizedRCNNTransform(min_size, max_size, image_mean, image_std, **options)
        super().__init__(backbone, rpn, roi_heads, transform)


def pyramid_roi_pool(output_size: int) -> MultiScaleRoIAlign:
    """Return what cuts regions of `output_size` squared cells out of the maps `0`, `1`, `2` and `3` of a pyramid."""
    return MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=output_size, sampling_ratio=2)


def conv_heads(channels: int, rpn_anchor_generator: AnchorGenerator | None) -> dict[str, nn.Module]:
    """Return the deeper heads of the second versions, under their options `rpn_head` and `box_head`.

    Args:
        channels: channels of each feature map.
        rpn_anchor_generator: the option of that name; None for the anchors of `FasterRCNN`.
    """
    anchors = (rpn_anchor_generator or _anchors()).num_anchors_per_location()[0]
    return {
        "rpn_head": RPNHead(channels, anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead((channels, 7, 7), (256, 256, 256, 256), (1024,), nn.BatchNorm2d),
    }


@register_model(
    weights=FasterRCNN_ResNet50_FPN_Weights,
    weights_backbone=ResNet50_Weights,
    finish=(load_published, drop_norm_eps),
)
def fasterrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Build Faster R-CNN over ResNet-50 with a feature pyramid (41.8 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: further options of `FasterRCNN`, such as `min_size`, `rpn_post_nms_top_n_test` and `box_score_thresh`.
    """
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    return FasterRCNN(backbone, num_classes, **kwargs)


@register_model(weights=FasterRCNN_ResNet50_FPN_V2_Weights, weights_backbone=ResNet50_Weights)
def fasterrcnn_resnet50_fpn_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Build Faster R-CNN over ResNet-50 with a feature pyramid, and deeper heads with batch norm (43.7 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: further options of `FasterRCNN`, such as `min_size`, `rpn_post_nms_top_n_test` and `box_score_thresh`.
    """
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        freeze_norms=False,
        norm_layer=nn.BatchNorm2d,
    )
    heads = conv_heads(backbone.out_channels, kwargs.get("rpn_anchor_generator"))
    return FasterRCNN(backbone, num_classes, **heads | kwargs)


def _mobilenet_defaults() -> dict[str, Any]:
    """Return the options of `FasterRCNN` that its variants over MobileNetV3-Large set: the reference's values."""
    anchors = AnchorGenerator(sizes=((32, 64, 128, 256, 512),) * 3, aspect_ratios=((0.5, 1.0, 2.0),) * 3)
    return {"rpn_anchor_generator": anchors, "rpn_score_thresh": 0.05}


@register_model(weights=FasterRCNN_MobileNet_V3_Large_FPN_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def fasterrcnn_mobilenet_v3_large_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Build Faster R-CNN over MobileNetV3-Large with a feature pyramid (19.4 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the MobileNet alone: a member of `MobileNet_V3_Large_Weights`, the name of one, or
            None for random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the MobileNet's six parts, counted from the last, are trained; 0 to 6, or
            None for 3. A MobileNet without trained weights is trained whole.
        **kwargs: further options of `FasterRCNN`, such as `box_score_thresh`; `rpn_score_thresh` is 0.05 if left out,
            and `rpn_anchor_generator` lays five sizes and three aspect ratios on each of the three maps.
    """
    backbone = mobilenet_v3_large_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    return FasterRCNN(backbone, num_classes, **_mobilenet_defaults() | kwargs)


@register_model(weights=FasterRCNN_MobileNet_V3_Large_320_FPN_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def fasterrcnn_mobilenet_v3_large_320_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Build Faster R-CNN over MobileNetV3-Large with a feature pyramid (19.4 M parameters), for small images.

    It takes less time than `fasterrcnn_mobilenet_v3_large_fpn`, since it looks at fewer pixels and makes fewer
    proposals.

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the MobileNet alone: a member of `MobileNet_V3_Large_Weights`, the name of one, or
            None for random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the MobileNet's six parts, counted from the last, are trained; 0 to 6, or
            None for 3. A MobileNet without trained weights is trained whole.
        **kwargs: further options of `FasterRCNN`, such as `box_score_thresh`; if left out, `min_size` is 320,
            `max_size` 640, `rpn_pre_nms_top_n_test` and `rpn_post_nms_top_n_test` are 150, `rpn_score_thresh` is 0.05,
            and `rpn_anchor_generator` lays five sizes and three aspect ratios on each of the three maps.
    """
    backbone = mobilenet_v3_large_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    few = {"min_size": 320, "max_size": 640, "rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150}
    return FasterRCNN(backbone, num_classes, **_mobilenet_defaults() | few | kwargs)
