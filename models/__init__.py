"""The model zoo: architectures, published weights and their transforms.

Classifiers stand here, the other tasks in `detection`, `optical_flow`, `quantization`, `segmentation` and `video`.
"""

from zoofleet.models import detection, ops, optical_flow, quantization, segmentation, transforms, video
from zoofleet.models._registry import (
    get_model,
    get_model_builder,
    get_model_weights,
    get_weight,
    list_models,
    register_model,
)
from zoofleet.models._weights import Weights, WeightsEnum
from zoofleet.models.maxvit import (
    MaxVit,
    MaxVit_T_Weights,
    maxvit_t,
)
from zoofleet.models.mobilenet_v2 import MobileNet_V2_Weights, MobileNetV2, mobilenet_v2
from zoofleet.models.mobilenet_v3 import MobileNet_V3_Large_Weights, MobileNetV3, mobilenet_v3_large
from zoofleet.models.resnet import ResNet, ResNet50_Weights, resnet50
from zoofleet.models.swin_transformer import (
    Swin_B_Weights,
    Swin_S_Weights,
    Swin_T_Weights,
    Swin_V2_B_Weights,
    Swin_V2_S_Weights,
    Swin_V2_T_Weights,
    SwinTransformer,
    swin_b,
    swin_s,
    swin_t,
    swin_v2_b,
    swin_v2_s,
    swin_v2_t,
)
from zoofleet.models.vision_transformer import (
    VisionTransformer,
    ViT_B_16_Weights,
    ViT_B_32_Weights,
    ViT_H_14_Weights,
    ViT_L_16_Weights,
    ViT_L_32_Weights,
    vit_b_16,
    vit_b_32,
    vit_h_14,
    vit_l_16,
    vit_l_32,
)

__all__ = [
    "MaxVit",
    "MaxVit_T_Weights",
    "MobileNetV2",
    "MobileNetV3",
    "MobileNet_V2_Weights",
    "MobileNet_V3_Large_Weights",
    "ResNet",
    "ResNet50_Weights",
    "SwinTransformer",
    "Swin_B_Weights",
    "Swin_S_Weights",
    "Swin_T_Weights",
    "Swin_V2_B_Weights",
    "Swin_V2_S_Weights",
    "Swin_V2_T_Weights",
    "ViT_B_16_Weights",
    "ViT_B_32_Weights",
    "ViT_H_14_Weights",
    "ViT_L_16_Weights",
    "ViT_L_32_Weights",
    "VisionTransformer",
    "Weights",
    "WeightsEnum",
    "detection",
    "get_model",
    "get_model_builder",
    "get_model_weights",
    "get_weight",
    "list_models",
    "maxvit_t",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "ops",
    "optical_flow",
    "quantization",
    "register_model",
    "resnet50",
    "segmentation",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "transforms",
    "video",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
]
