"""Operators and layers of detectors and of RAFT, on Zoofleet's own kernels.

Functions that are more than tensor arithmetic are registered with torch as `zoofleet::` operators, so that they trace,
compile and, where they have a derivative, differentiate like any other. Importing this package loads `libzoofleet_ops`,
and raises `KernelLibraryError` where it does not load.
"""

from zoofleet.models._layers import StochasticDepth, stochastic_depth
from zoofleet.models.ops._correlation import correlation_lookup
from zoofleet.models.ops._cuda import verify as verify_kernels
from zoofleet.models.ops._kernels import batched_nms, nms, roi_align
from zoofleet.models.ops._losses import generalized_box_iou_loss, sigmoid_focal_loss
from zoofleet.models.ops._masks import paste_masks_to_rle
from zoofleet.models.ops._resize import resize_normalize
from zoofleet.models.ops._upsampled_argmax import upsampled_argmax
from zoofleet.models.ops.boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    generalized_box_iou,
    masks_to_boxes,
    remove_small_boxes,
)
from zoofleet.models.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)
from zoofleet.models.ops.misc import (
    MLP,
    Conv2dNormActivation,
    Conv3dNormActivation,
    FrozenBatchNorm2d,
    Permute,
    SqueezeExcitation,
)
from zoofleet.models.ops.poolers import MultiScaleRoIAlign, RoIAlign

__all__ = [
    "MLP",
    "Conv2dNormActivation",
    "Conv3dNormActivation",
    "ExtraFPNBlock",
    "FeaturePyramidNetwork",
    "FrozenBatchNorm2d",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "MultiScaleRoIAlign",
    "Permute",
    "RoIAlign",
    "SqueezeExcitation",
    "StochasticDepth",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "correlation_lookup",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "masks_to_boxes",
    "nms",
    "paste_masks_to_rle",
    "remove_small_boxes",
    "resize_normalize",
    "roi_align",
    "sigmoid_focal_loss",
    "stochastic_depth",
    "upsampled_argmax",
    "verify_kernels",
]
