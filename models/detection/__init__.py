"""Object detection models: images of any sizes in, boxes, masks and keypoints in their own coordinates out."""

from zoofleet.models.detection._anchors import AnchorGenerator, DefaultBoxGenerator
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._masks import paste_masks
from zoofleet.models.detection.faster_rcnn import FasterRCNN
from zoofleet.models.detection.keypoint_rcnn import (
    KeypointRCNN,
    KeypointRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
)
from zoofleet.models.detection.mask_rcnn import MaskRCNN, MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn
from zoofleet.models.detection.ssd import SSD
from zoofleet.models.detection.ssdlite import SSDLite320_MobileNet_V3_Large_Weights, ssdlite320_mobilenet_v3_large

__all__ = [
    "SSD",
    "AnchorGenerator",
    "DefaultBoxGenerator",
    "Detector",
    "FasterRCNN",
    "KeypointRCNN",
    "KeypointRCNN_ResNet50_FPN_Weights",
    "MaskRCNN",
    "MaskRCNN_ResNet50_FPN_Weights",
    "SSDLite320_MobileNet_V3_Large_Weights",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "paste_masks",
    "ssdlite320_mobilenet_v3_large",
]
