"""Generated from the catalog by scripts/weights; not edited."""

# ruff: noqa: PYI021 -- editors show these docstrings
from zoofleet.models._weights import WeightsEnum

class AlexNet_Weights(WeightsEnum):
    """Weight sets of `alexnet` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 56.522, acc@5 79.066 on ImageNet-1K. 61.1 M parameters, 0.7 GFLOPs, 233.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class ConvNeXt_Base_Weights(WeightsEnum):
    """Weight sets of `convnext_base` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 84.062, acc@5 96.87 on ImageNet-1K. 88.6 M parameters, 15.4 GFLOPs, 338.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#convnext.
    """
    DEFAULT = IMAGENET1K_V1

class ConvNeXt_Large_Weights(WeightsEnum):
    """Weight sets of `convnext_large` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 84.414, acc@5 96.976 on ImageNet-1K. 197.8 M parameters, 34.4 GFLOPs, 754.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#convnext.
    """
    DEFAULT = IMAGENET1K_V1

class ConvNeXt_Small_Weights(WeightsEnum):
    """Weight sets of `convnext_small` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.616, acc@5 96.65 on ImageNet-1K. 50.2 M parameters, 8.7 GFLOPs, 191.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#convnext.
    """
    DEFAULT = IMAGENET1K_V1

class ConvNeXt_Tiny_Weights(WeightsEnum):
    """Weight sets of `convnext_tiny` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 82.52, acc@5 96.146 on ImageNet-1K. 28.6 M parameters, 4.5 GFLOPs, 109.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#convnext.
    """
    DEFAULT = IMAGENET1K_V1

class DeepLabV3_MobileNet_V3_Large_Weights(WeightsEnum):
    """Weight sets of `deeplabv3_mobilenet_v3_large` (segmentation)."""

    COCO_WITH_VOC_LABELS_V1 = ...
    """miou 60.3, pixel_acc 91.2 on COCO-val2017-VOC-labels. 11.0 M parameters, 10.5 GFLOPs, 42.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/segmentation#deeplabv3_mobilenet_v3_large.
    """
    DEFAULT = COCO_WITH_VOC_LABELS_V1

class DeepLabV3_ResNet101_Weights(WeightsEnum):
    """Weight sets of `deeplabv3_resnet101` (segmentation)."""

    COCO_WITH_VOC_LABELS_V1 = ...
    """miou 67.4, pixel_acc 92.4 on COCO-val2017-VOC-labels. 61.0 M parameters, 258.7 GFLOPs, 233.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/segmentation#fcn_resnet101.
    """
    DEFAULT = COCO_WITH_VOC_LABELS_V1

class DeepLabV3_ResNet50_Weights(WeightsEnum):
    """Weight sets of `deeplabv3_resnet50` (segmentation)."""

    COCO_WITH_VOC_LABELS_V1 = ...
    """miou 66.4, pixel_acc 92.4 on COCO-val2017-VOC-labels. 42.0 M parameters, 178.7 GFLOPs, 160.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/segmentation#deeplabv3_resnet50.
    """
    DEFAULT = COCO_WITH_VOC_LABELS_V1

class DenseNet121_Weights(WeightsEnum):
    """Weight sets of `densenet121` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 74.434, acc@5 91.972 on ImageNet-1K. 8.0 M parameters, 2.8 GFLOPs, 30.8 MB. Trained as in
    https://github.com/pytorch/vision/pull/116.
    """
    DEFAULT = IMAGENET1K_V1

class DenseNet161_Weights(WeightsEnum):
    """Weight sets of `densenet161` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.138, acc@5 93.56 on ImageNet-1K. 28.7 M parameters, 7.7 GFLOPs, 110.4 MB. Trained as in
    https://github.com/pytorch/vision/pull/116.
    """
    DEFAULT = IMAGENET1K_V1

class DenseNet169_Weights(WeightsEnum):
    """Weight sets of `densenet169` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 75.6, acc@5 92.806 on ImageNet-1K. 14.1 M parameters, 3.4 GFLOPs, 54.7 MB. Trained as in
    https://github.com/pytorch/vision/pull/116.
    """
    DEFAULT = IMAGENET1K_V1

class DenseNet201_Weights(WeightsEnum):
    """Weight sets of `densenet201` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 76.896, acc@5 93.37 on ImageNet-1K. 20.0 M parameters, 4.3 GFLOPs, 77.4 MB. Trained as in
    https://github.com/pytorch/vision/pull/116.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B0_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b0` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.692, acc@5 93.532 on ImageNet-1K. 5.3 M parameters, 0.4 GFLOPs, 20.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B1_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b1` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 78.642, acc@5 94.186 on ImageNet-1K. 7.8 M parameters, 0.7 GFLOPs, 30.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    IMAGENET1K_V2 = ...
    """acc@1 79.838, acc@5 94.934 on ImageNet-1K. 7.8 M parameters, 0.7 GFLOPs, 30.1 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-lr-wd-crop-tuning.
    """
    DEFAULT = IMAGENET1K_V2

class EfficientNet_B2_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b2` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 80.608, acc@5 95.31 on ImageNet-1K. 9.1 M parameters, 1.1 GFLOPs, 35.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B3_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b3` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 82.008, acc@5 96.054 on ImageNet-1K. 12.2 M parameters, 1.8 GFLOPs, 47.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B4_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b4` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.384, acc@5 96.594 on ImageNet-1K. 19.3 M parameters, 4.4 GFLOPs, 74.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B5_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b5` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.444, acc@5 96.628 on ImageNet-1K. 30.4 M parameters, 10.3 GFLOPs, 116.9 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B6_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b6` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 84.008, acc@5 96.916 on ImageNet-1K. 43.0 M parameters, 19.1 GFLOPs, 165.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_B7_Weights(WeightsEnum):
    """Weight sets of `efficientnet_b7` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 84.122, acc@5 96.908 on ImageNet-1K. 66.3 M parameters, 37.7 GFLOPs, 254.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v1.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_V2_L_Weights(WeightsEnum):
    """Weight sets of `efficientnet_v2_l` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 85.808, acc@5 97.788 on ImageNet-1K. 118.5 M parameters, 56.1 GFLOPs, 454.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v2.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_V2_M_Weights(WeightsEnum):
    """Weight sets of `efficientnet_v2_m` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 85.112, acc@5 97.156 on ImageNet-1K. 54.1 M parameters, 24.6 GFLOPs, 208.0 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v2.
    """
    DEFAULT = IMAGENET1K_V1

class EfficientNet_V2_S_Weights(WeightsEnum):
    """Weight sets of `efficientnet_v2_s` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 84.228, acc@5 96.878 on ImageNet-1K. 21.5 M parameters, 8.4 GFLOPs, 82.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#efficientnet-v2.
    """
    DEFAULT = IMAGENET1K_V1

class FCN_ResNet101_Weights(WeightsEnum):
    """Weight sets of `fcn_resnet101` (segmentation)."""

    COCO_WITH_VOC_LABELS_V1 = ...
    """miou 63.7, pixel_acc 91.9 on COCO-val2017-VOC-labels. 54.3 M parameters, 232.7 GFLOPs, 207.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/segmentation#deeplabv3_resnet101.
    """
    DEFAULT = COCO_WITH_VOC_LABELS_V1

class FCN_ResNet50_Weights(WeightsEnum):
    """Weight sets of `fcn_resnet50` (segmentation)."""

    COCO_WITH_VOC_LABELS_V1 = ...
    """miou 60.5, pixel_acc 91.4 on COCO-val2017-VOC-labels. 35.3 M parameters, 152.7 GFLOPs, 135.0 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/segmentation#fcn_resnet50.
    """
    DEFAULT = COCO_WITH_VOC_LABELS_V1

class FCOS_ResNet50_FPN_Weights(WeightsEnum):
    """Weight sets of `fcos_resnet50_fpn` (detection)."""

    COCO_V1 = ...
    """box_map 39.2 on COCO-val2017. 32.3 M parameters, 128.2 GFLOPs, 123.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#fcos-resnet-50-fpn.
    """
    DEFAULT = COCO_V1

class FasterRCNN_MobileNet_V3_Large_320_FPN_Weights(WeightsEnum):
    """Weight sets of `fasterrcnn_mobilenet_v3_large_320_fpn` (detection)."""

    COCO_V1 = ...
    """box_map 22.8 on COCO-val2017. 19.4 M parameters, 0.7 GFLOPs, 74.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#faster-r-cnn-mobilenetv3-large-320-fpn.
    """
    DEFAULT = COCO_V1

class FasterRCNN_MobileNet_V3_Large_FPN_Weights(WeightsEnum):
    """Weight sets of `fasterrcnn_mobilenet_v3_large_fpn` (detection)."""

    COCO_V1 = ...
    """box_map 32.8 on COCO-val2017. 19.4 M parameters, 4.5 GFLOPs, 74.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#faster-r-cnn-mobilenetv3-large-fpn.
    """
    DEFAULT = COCO_V1

class FasterRCNN_ResNet50_FPN_V2_Weights(WeightsEnum):
    """Weight sets of `fasterrcnn_resnet50_fpn_v2` (detection)."""

    COCO_V1 = ...
    """box_map 46.7 on COCO-val2017. 43.7 M parameters, 280.4 GFLOPs, 167.1 MB. Trained as in
    https://github.com/pytorch/vision/pull/5763.
    """
    DEFAULT = COCO_V1

class FasterRCNN_ResNet50_FPN_Weights(WeightsEnum):
    """Weight sets of `fasterrcnn_resnet50_fpn` (detection)."""

    COCO_V1 = ...
    """box_map 37 on COCO-val2017. 41.8 M parameters, 134.4 GFLOPs, 159.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#faster-r-cnn-resnet-50-fpn.
    """
    DEFAULT = COCO_V1

class GoogLeNet_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_googlenet` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 69.826, acc@5 89.404 on ImageNet-1K. 6.6 M parameters, 1.5 GFLOPs, 12.6 MB. Made from
    `GoogLeNet_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class GoogLeNet_Weights(WeightsEnum):
    """Weight sets of `googlenet` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 69.778, acc@5 89.53 on ImageNet-1K. 6.6 M parameters, 1.5 GFLOPs, 49.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#googlenet.
    """
    DEFAULT = IMAGENET1K_V1

class Inception_V3_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_inception_v3` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 77.176, acc@5 93.354 on ImageNet-1K. 27.2 M parameters, 5.7 GFLOPs, 23.1 MB. Made from
    `Inception_V3_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class Inception_V3_Weights(WeightsEnum):
    """Weight sets of `inception_v3` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.294, acc@5 93.45 on ImageNet-1K. 27.2 M parameters, 5.7 GFLOPs, 103.9 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#inception-v3.
    """
    DEFAULT = IMAGENET1K_V1

class KeypointRCNN_ResNet50_FPN_Weights(WeightsEnum):
    """Weight sets of `keypointrcnn_resnet50_fpn` (detection)."""

    COCO_LEGACY = ...
    """box_map 50.6, kp_map 61.1 on COCO-val2017. 59.1 M parameters, 133.9 GFLOPs, 226.1 MB. Trained as in
    https://github.com/pytorch/vision/issues/1606.
    """
    COCO_V1 = ...
    """box_map 54.6, kp_map 65 on COCO-val2017. 59.1 M parameters, 137.4 GFLOPs, 226.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#keypoint-r-cnn.
    """
    DEFAULT = COCO_V1

class LRASPP_MobileNet_V3_Large_Weights(WeightsEnum):
    """Weight sets of `lraspp_mobilenet_v3_large` (segmentation)."""

    COCO_WITH_VOC_LABELS_V1 = ...
    """miou 57.9, pixel_acc 91.2 on COCO-val2017-VOC-labels. 3.2 M parameters, 2.1 GFLOPs, 12.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/segmentation#lraspp_mobilenet_v3_large.
    """
    SHAPES_V1 = ...
    """miou 86.34, pixel_acc 97.91 on Shapes. 3.2 M parameters, 0.6 GFLOPs, 6.2 MB. Trained as in
    demo/weights/lraspp_mobilenet_v3_large.md.
    """
    DEFAULT = COCO_WITH_VOC_LABELS_V1

class MC3_18_Weights(WeightsEnum):
    """Weight sets of `mc3_18` (video)."""

    KINETICS400_V1 = ...
    """acc@1 63.96, acc@5 84.13 on Kinetics-400. 11.7 M parameters, 43.3 GFLOPs, 44.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/video_classification.
    """
    DEFAULT = KINETICS400_V1

class MNASNet0_5_Weights(WeightsEnum):
    """Weight sets of `mnasnet0_5` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 67.734, acc@5 87.49 on ImageNet-1K. 2.2 M parameters, 0.1 GFLOPs, 8.6 MB. Trained as in
    https://github.com/1e100/mnasnet_trainer.
    """
    DEFAULT = IMAGENET1K_V1

class MNASNet0_75_Weights(WeightsEnum):
    """Weight sets of `mnasnet0_75` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 71.18, acc@5 90.496 on ImageNet-1K. 3.2 M parameters, 0.2 GFLOPs, 12.3 MB. Trained as in
    https://github.com/pytorch/vision/pull/6019.
    """
    DEFAULT = IMAGENET1K_V1

class MNASNet1_0_Weights(WeightsEnum):
    """Weight sets of `mnasnet1_0` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 73.456, acc@5 91.51 on ImageNet-1K. 4.4 M parameters, 0.3 GFLOPs, 16.9 MB. Trained as in
    https://github.com/1e100/mnasnet_trainer.
    """
    DEFAULT = IMAGENET1K_V1

class MNASNet1_3_Weights(WeightsEnum):
    """Weight sets of `mnasnet1_3` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 76.506, acc@5 93.522 on ImageNet-1K. 6.3 M parameters, 0.5 GFLOPs, 24.2 MB. Trained as in
    https://github.com/pytorch/vision/pull/6019.
    """
    DEFAULT = IMAGENET1K_V1

class MViT_V1_B_Weights(WeightsEnum):
    """Weight sets of `mvit_v1_b` (video)."""

    KINETICS400_V1 = ...
    """acc@1 78.477, acc@5 93.582 on Kinetics-400. 36.6 M parameters, 70.6 GFLOPs, 139.8 MB. Trained as in
    https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md.
    """
    DEFAULT = KINETICS400_V1

class MViT_V2_S_Weights(WeightsEnum):
    """Weight sets of `mvit_v2_s` (video)."""

    KINETICS400_V1 = ...
    """acc@1 80.757, acc@5 94.665 on Kinetics-400. 34.5 M parameters, 64.2 GFLOPs, 131.9 MB. Trained as in
    https://github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md.
    """
    DEFAULT = KINETICS400_V1

class MaskRCNN_ResNet50_FPN_V2_Weights(WeightsEnum):
    """Weight sets of `maskrcnn_resnet50_fpn_v2` (detection)."""

    COCO_V1 = ...
    """box_map 47.4, mask_map 41.8 on COCO-val2017. 46.4 M parameters, 333.6 GFLOPs, 177.2 MB. Trained as in
    https://github.com/pytorch/vision/pull/5773.
    """
    DEFAULT = COCO_V1

class MaskRCNN_ResNet50_FPN_Weights(WeightsEnum):
    """Weight sets of `maskrcnn_resnet50_fpn` (detection)."""

    COCO_V1 = ...
    """box_map 37.9, mask_map 34.6 on COCO-val2017. 44.4 M parameters, 134.4 GFLOPs, 169.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#mask-r-cnn.
    """
    DEFAULT = COCO_V1

class MaxVit_T_Weights(WeightsEnum):
    """Weight sets of `maxvit_t` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.7, acc@5 96.722 on ImageNet-1K. 30.9 M parameters, 5.6 GFLOPs, 118.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#maxvit.
    """
    DEFAULT = IMAGENET1K_V1

class MobileNet_V2_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_mobilenet_v2` (quantization)."""

    IMAGENET1K_QNNPACK_V1 = ...
    """acc@1 71.658, acc@5 90.15 on ImageNet-1K. 3.5 M parameters, 0.3 GFLOPs, 3.4 MB. Made from
    `MobileNet_V2_Weights.IMAGENET1K_V1` for qnnpack. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#qat-mobilenetv2.
    """
    DEFAULT = IMAGENET1K_QNNPACK_V1

class MobileNet_V2_Weights(WeightsEnum):
    """Weight sets of `mobilenet_v2` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 71.878, acc@5 90.286 on ImageNet-1K. 3.5 M parameters, 0.3 GFLOPs, 13.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#mobilenetv2.
    """
    IMAGENET1K_V2 = ...
    """acc@1 72.154, acc@5 90.822 on ImageNet-1K. 3.5 M parameters, 0.3 GFLOPs, 13.6 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-reg-tuning.
    """
    DEFAULT = IMAGENET1K_V2

class MobileNet_V3_Large_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_mobilenet_v3_large` (quantization)."""

    IMAGENET1K_QNNPACK_V1 = ...
    """acc@1 73.004, acc@5 90.858 on ImageNet-1K. 5.5 M parameters, 0.2 GFLOPs, 21.6 MB. Made from
    `MobileNet_V3_Large_Weights.IMAGENET1K_V1` for qnnpack. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#qat-mobilenetv3.
    """
    DEFAULT = IMAGENET1K_QNNPACK_V1

class MobileNet_V3_Large_Weights(WeightsEnum):
    """Weight sets of `mobilenet_v3_large` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 74.042, acc@5 91.34 on ImageNet-1K. 5.5 M parameters, 0.2 GFLOPs, 21.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#mobilenetv3-large--small.
    """
    IMAGENET1K_V2 = ...
    """acc@1 75.274, acc@5 92.566 on ImageNet-1K. 5.5 M parameters, 0.2 GFLOPs, 21.1 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-reg-tuning.
    """
    DEFAULT = IMAGENET1K_V2

class MobileNet_V3_Small_Weights(WeightsEnum):
    """Weight sets of `mobilenet_v3_small` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 67.668, acc@5 87.402 on ImageNet-1K. 2.5 M parameters, 0.1 GFLOPs, 9.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#mobilenetv3-large--small.
    """
    SHAPES_V1 = ...
    """acc@1 96.67, acc@5 100 on Shapes. 1.5 M parameters, 0.0 GFLOPs, 3.0 MB. Trained as in
    demo/weights/mobilenet_v3_small.md.
    """
    DEFAULT = IMAGENET1K_V1

class R2Plus1D_18_Weights(WeightsEnum):
    """Weight sets of `r2plus1d_18` (video)."""

    KINETICS400_V1 = ...
    """acc@1 67.463, acc@5 86.175 on Kinetics-400. 31.5 M parameters, 40.5 GFLOPs, 120.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/video_classification.
    """
    DEFAULT = KINETICS400_V1

class R3D_18_Weights(WeightsEnum):
    """Weight sets of `r3d_18` (video)."""

    KINETICS400_V1 = ...
    """acc@1 63.2, acc@5 83.479 on Kinetics-400. 33.4 M parameters, 40.7 GFLOPs, 127.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/video_classification.
    """
    DEFAULT = KINETICS400_V1

class Raft_Large_Weights(WeightsEnum):
    """Weight sets of `raft_large` (optical flow)."""

    C_T_V1 = ...
    """epe 1.4411 on Sintel-Train-Cleanpass; epe 2.7894 on Sintel-Train-Finalpass; per_image_epe 5.0172, fl_all
    17.4506 on Kitti-Train. 5.3 M parameters, 211.0 GFLOPs, 20.1 MB. Trained as in
    https://github.com/princeton-vl/RAFT.
    """
    C_T_V2 = ...
    """epe 1.3822 on Sintel-Train-Cleanpass; epe 2.7161 on Sintel-Train-Finalpass; per_image_epe 4.5118, fl_all
    16.0679 on Kitti-Train. 5.3 M parameters, 211.0 GFLOPs, 20.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/optical_flow.
    """
    C_T_SKHT_V1 = ...
    """epe 1.94 on Sintel-Test-Cleanpass; epe 3.18 on Sintel-Test-Finalpass. 5.3 M parameters, 211.0 GFLOPs, 20.1 MB.
    Trained as in https://github.com/princeton-vl/RAFT.
    """
    C_T_SKHT_V2 = ...
    """epe 1.819 on Sintel-Test-Cleanpass; epe 3.067 on Sintel-Test-Finalpass. 5.3 M parameters, 211.0 GFLOPs, 20.1
    MB. Trained as in https://github.com/pytorch/vision/tree/main/references/optical_flow.
    """
    C_T_SKHT_K_V1 = ...
    """fl_all 5.1 on Kitti-Test. 5.3 M parameters, 211.0 GFLOPs, 20.1 MB. Trained as in
    https://github.com/princeton-vl/RAFT.
    """
    C_T_SKHT_K_V2 = ...
    """fl_all 5.19 on Kitti-Test. 5.3 M parameters, 211.0 GFLOPs, 20.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/optical_flow.
    """
    DEFAULT = C_T_SKHT_V2

class Raft_Small_Weights(WeightsEnum):
    """Weight sets of `raft_small` (optical flow)."""

    C_T_V1 = ...
    """epe 2.1231 on Sintel-Train-Cleanpass; epe 3.279 on Sintel-Train-Finalpass; per_image_epe 7.6557, fl_all
    25.2801 on Kitti-Train. 1.0 M parameters, 47.7 GFLOPs, 3.8 MB. Trained as in
    https://github.com/princeton-vl/RAFT.
    """
    C_T_V2 = ...
    """epe 1.9901 on Sintel-Train-Cleanpass; epe 3.2831 on Sintel-Train-Finalpass; per_image_epe 7.5978, fl_all
    25.2369 on Kitti-Train. 1.0 M parameters, 47.7 GFLOPs, 3.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/optical_flow.
    """
    SHAPES_V1 = ...
    """epe 0.5167 on Shapes. 1.0 M parameters, 13.5 GFLOPs, 1.9 MB. Trained as in demo/weights/raft_small.md."""
    DEFAULT = C_T_V2

class RegNet_X_16GF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_16gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 80.058, acc@5 94.944 on ImageNet-1K. 54.3 M parameters, 15.9 GFLOPs, 207.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#medium-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 82.716, acc@5 96.196 on ImageNet-1K. 54.3 M parameters, 15.9 GFLOPs, 207.6 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_X_1_6GF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_1_6gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.04, acc@5 93.44 on ImageNet-1K. 9.2 M parameters, 1.6 GFLOPs, 35.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#small-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 79.668, acc@5 94.922 on ImageNet-1K. 9.2 M parameters, 1.6 GFLOPs, 35.3 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-fixres.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_X_32GF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_32gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 80.622, acc@5 95.248 on ImageNet-1K. 107.8 M parameters, 31.7 GFLOPs, 412.0 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#large-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 83.014, acc@5 96.288 on ImageNet-1K. 107.8 M parameters, 31.7 GFLOPs, 412.0 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_X_3_2GF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_3_2gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 78.364, acc@5 93.992 on ImageNet-1K. 15.3 M parameters, 3.2 GFLOPs, 58.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#medium-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 81.196, acc@5 95.43 on ImageNet-1K. 15.3 M parameters, 3.2 GFLOPs, 58.8 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_X_400MF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_400mf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 72.834, acc@5 90.95 on ImageNet-1K. 5.5 M parameters, 0.4 GFLOPs, 21.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#small-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 74.864, acc@5 92.322 on ImageNet-1K. 5.5 M parameters, 0.4 GFLOPs, 21.3 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-fixres.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_X_800MF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_800mf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 75.212, acc@5 92.348 on ImageNet-1K. 7.3 M parameters, 0.8 GFLOPs, 27.9 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#small-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 77.522, acc@5 93.826 on ImageNet-1K. 7.3 M parameters, 0.8 GFLOPs, 27.9 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-fixres.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_X_8GF_Weights(WeightsEnum):
    """Weight sets of `regnet_x_8gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 79.344, acc@5 94.686 on ImageNet-1K. 39.6 M parameters, 8.0 GFLOPs, 151.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#medium-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 81.682, acc@5 95.678 on ImageNet-1K. 39.6 M parameters, 8.0 GFLOPs, 151.5 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_128GF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_128gf` (classification)."""

    IMAGENET1K_SWAG_E2E_V1 = ...
    """acc@1 88.228, acc@5 98.682 on ImageNet-1K. 644.8 M parameters, 374.6 GFLOPs, 2461.6 MB. Trained as in
    https://github.com/facebookresearch/SWAG.
    """
    IMAGENET1K_SWAG_LINEAR_V1 = ...
    """acc@1 86.068, acc@5 97.844 on ImageNet-1K. 644.8 M parameters, 127.5 GFLOPs, 2461.6 MB. Trained as in
    https://github.com/pytorch/vision/pull/5793.
    """
    DEFAULT = IMAGENET1K_SWAG_E2E_V1

class RegNet_Y_16GF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_16gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 80.424, acc@5 95.24 on ImageNet-1K. 83.6 M parameters, 15.9 GFLOPs, 319.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#large-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 82.886, acc@5 96.328 on ImageNet-1K. 83.6 M parameters, 15.9 GFLOPs, 319.5 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    IMAGENET1K_SWAG_E2E_V1 = ...
    """acc@1 86.012, acc@5 98.054 on ImageNet-1K. 83.6 M parameters, 46.7 GFLOPs, 319.5 MB. Trained as in
    https://github.com/facebookresearch/SWAG.
    """
    IMAGENET1K_SWAG_LINEAR_V1 = ...
    """acc@1 83.976, acc@5 97.244 on ImageNet-1K. 83.6 M parameters, 15.9 GFLOPs, 319.5 MB. Trained as in
    https://github.com/pytorch/vision/pull/5793.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_1_6GF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_1_6gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.95, acc@5 93.966 on ImageNet-1K. 11.2 M parameters, 1.6 GFLOPs, 43.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#small-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 80.876, acc@5 95.444 on ImageNet-1K. 11.2 M parameters, 1.6 GFLOPs, 43.2 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_32GF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_32gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 80.878, acc@5 95.34 on ImageNet-1K. 145.0 M parameters, 32.3 GFLOPs, 554.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#large-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 83.368, acc@5 96.498 on ImageNet-1K. 145.0 M parameters, 32.3 GFLOPs, 554.1 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    IMAGENET1K_SWAG_E2E_V1 = ...
    """acc@1 86.838, acc@5 98.362 on ImageNet-1K. 145.0 M parameters, 94.8 GFLOPs, 554.1 MB. Trained as in
    https://github.com/facebookresearch/SWAG.
    """
    IMAGENET1K_SWAG_LINEAR_V1 = ...
    """acc@1 84.622, acc@5 97.48 on ImageNet-1K. 145.0 M parameters, 32.3 GFLOPs, 554.1 MB. Trained as in
    https://github.com/pytorch/vision/pull/5793.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_3_2GF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_3_2gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 78.948, acc@5 94.576 on ImageNet-1K. 19.4 M parameters, 3.2 GFLOPs, 74.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#medium-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 81.982, acc@5 95.972 on ImageNet-1K. 19.4 M parameters, 3.2 GFLOPs, 74.6 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_400MF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_400mf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 74.046, acc@5 91.716 on ImageNet-1K. 4.3 M parameters, 0.4 GFLOPs, 16.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#small-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 75.804, acc@5 92.742 on ImageNet-1K. 4.3 M parameters, 0.4 GFLOPs, 16.8 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_800MF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_800mf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 76.42, acc@5 93.136 on ImageNet-1K. 6.4 M parameters, 0.8 GFLOPs, 24.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#small-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 78.828, acc@5 94.502 on ImageNet-1K. 6.4 M parameters, 0.8 GFLOPs, 24.8 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class RegNet_Y_8GF_Weights(WeightsEnum):
    """Weight sets of `regnet_y_8gf` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 80.032, acc@5 95.048 on ImageNet-1K. 39.4 M parameters, 8.5 GFLOPs, 150.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#medium-models.
    """
    IMAGENET1K_V2 = ...
    """acc@1 82.828, acc@5 96.33 on ImageNet-1K. 39.4 M parameters, 8.5 GFLOPs, 150.7 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class ResNeXt101_32X8D_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_resnext101_32x8d` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 78.986, acc@5 94.48 on ImageNet-1K. 88.8 M parameters, 16.4 GFLOPs, 86.0 MB. Made from
    `ResNeXt101_32X8D_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    IMAGENET1K_FBGEMM_V2 = ...
    """acc@1 82.574, acc@5 96.132 on ImageNet-1K. 88.8 M parameters, 16.4 GFLOPs, 86.6 MB. Made from
    `ResNeXt101_32X8D_Weights.IMAGENET1K_V2` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V2

class ResNeXt101_32X8D_Weights(WeightsEnum):
    """Weight sets of `resnext101_32x8d` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 79.312, acc@5 94.526 on ImageNet-1K. 88.8 M parameters, 16.4 GFLOPs, 339.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnext.
    """
    IMAGENET1K_V2 = ...
    """acc@1 82.834, acc@5 96.228 on ImageNet-1K. 88.8 M parameters, 16.4 GFLOPs, 339.7 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-fixres.
    """
    DEFAULT = IMAGENET1K_V2

class ResNeXt101_64X4D_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_resnext101_64x4d` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 82.898, acc@5 96.326 on ImageNet-1K. 83.5 M parameters, 15.5 GFLOPs, 81.6 MB. Made from
    `ResNeXt101_64X4D_Weights.IMAGENET1K_V1` for fbgemm. Trained as in https://github.com/pytorch/vision/pull/5935.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class ResNeXt101_64X4D_Weights(WeightsEnum):
    """Weight sets of `resnext101_64x4d` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.246, acc@5 96.454 on ImageNet-1K. 83.5 M parameters, 15.5 GFLOPs, 319.3 MB. Trained as in
    https://github.com/pytorch/vision/pull/5935.
    """
    DEFAULT = IMAGENET1K_V1

class ResNeXt50_32X4D_Weights(WeightsEnum):
    """Weight sets of `resnext50_32x4d` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.618, acc@5 93.698 on ImageNet-1K. 25.0 M parameters, 4.2 GFLOPs, 95.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnext.
    """
    IMAGENET1K_V2 = ...
    """acc@1 81.198, acc@5 95.34 on ImageNet-1K. 25.0 M parameters, 4.2 GFLOPs, 95.8 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class ResNet101_Weights(WeightsEnum):
    """Weight sets of `resnet101` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 77.374, acc@5 93.546 on ImageNet-1K. 44.5 M parameters, 7.8 GFLOPs, 170.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnet.
    """
    IMAGENET1K_V2 = ...
    """acc@1 81.886, acc@5 95.78 on ImageNet-1K. 44.5 M parameters, 7.8 GFLOPs, 170.5 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class ResNet152_Weights(WeightsEnum):
    """Weight sets of `resnet152` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 78.312, acc@5 94.046 on ImageNet-1K. 60.2 M parameters, 11.5 GFLOPs, 230.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnet.
    """
    IMAGENET1K_V2 = ...
    """acc@1 82.284, acc@5 96.002 on ImageNet-1K. 60.2 M parameters, 11.5 GFLOPs, 230.5 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class ResNet18_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_resnet18` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 69.494, acc@5 88.882 on ImageNet-1K. 11.7 M parameters, 1.8 GFLOPs, 11.2 MB. Made from
    `ResNet18_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class ResNet18_Weights(WeightsEnum):
    """Weight sets of `resnet18` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 69.758, acc@5 89.078 on ImageNet-1K. 11.7 M parameters, 1.8 GFLOPs, 44.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnet.
    """
    DEFAULT = IMAGENET1K_V1

class ResNet34_Weights(WeightsEnum):
    """Weight sets of `resnet34` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 73.314, acc@5 91.42 on ImageNet-1K. 21.8 M parameters, 3.7 GFLOPs, 83.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnet.
    """
    DEFAULT = IMAGENET1K_V1

class ResNet50_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_resnet50` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 75.92, acc@5 92.814 on ImageNet-1K. 25.6 M parameters, 4.1 GFLOPs, 24.8 MB. Made from
    `ResNet50_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    IMAGENET1K_FBGEMM_V2 = ...
    """acc@1 80.282, acc@5 94.976 on ImageNet-1K. 25.6 M parameters, 4.1 GFLOPs, 25.0 MB. Made from
    `ResNet50_Weights.IMAGENET1K_V2` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V2

class ResNet50_Weights(WeightsEnum):
    """Weight sets of `resnet50` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 76.13, acc@5 92.862 on ImageNet-1K. 25.6 M parameters, 4.1 GFLOPs, 97.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#resnet.
    """
    IMAGENET1K_V2 = ...
    """acc@1 80.858, acc@5 95.434 on ImageNet-1K. 25.6 M parameters, 4.1 GFLOPs, 97.8 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#issuecomment-1013906621.
    """
    DEFAULT = IMAGENET1K_V2

class RetinaNet_ResNet50_FPN_V2_Weights(WeightsEnum):
    """Weight sets of `retinanet_resnet50_fpn_v2` (detection)."""

    COCO_V1 = ...
    """box_map 41.5 on COCO-val2017. 38.2 M parameters, 152.2 GFLOPs, 146.0 MB. Trained as in
    https://github.com/pytorch/vision/pull/5756.
    """
    DEFAULT = COCO_V1

class RetinaNet_ResNet50_FPN_Weights(WeightsEnum):
    """Weight sets of `retinanet_resnet50_fpn` (detection)."""

    COCO_V1 = ...
    """box_map 36.4 on COCO-val2017. 34.0 M parameters, 151.5 GFLOPs, 130.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#retinanet.
    """
    DEFAULT = COCO_V1

class S3D_Weights(WeightsEnum):
    """Weight sets of `s3d` (video)."""

    KINETICS400_V1 = ...
    """acc@1 68.368, acc@5 88.05 on Kinetics-400. 8.3 M parameters, 18.0 GFLOPs, 32.0 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/video_classification#s3d.
    """
    DEFAULT = KINETICS400_V1

class SSD300_VGG16_Weights(WeightsEnum):
    """Weight sets of `ssd300_vgg16` (detection)."""

    COCO_V1 = ...
    """box_map 25.1 on COCO-val2017. 35.6 M parameters, 34.9 GFLOPs, 136.0 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#ssd300-vgg16.
    """
    DEFAULT = COCO_V1

class SSDLite320_MobileNet_V3_Large_Weights(WeightsEnum):
    """Weight sets of `ssdlite320_mobilenet_v3_large` (detection)."""

    COCO_V1 = ...
    """box_map 21.3 on COCO-val2017. 3.4 M parameters, 0.6 GFLOPs, 13.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/detection#ssdlite320-mobilenetv3-large.
    """
    SHAPES_V1 = ...
    """box_map 80.21 on Shapes. 2.3 M parameters, 0.4 GFLOPs, 4.5 MB. Trained as in
    demo/weights/ssdlite320_mobilenet_v3_large.md.
    """
    DEFAULT = COCO_V1

class ShuffleNet_V2_X0_5_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_shufflenet_v2_x0_5` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 57.972, acc@5 79.78 on ImageNet-1K. 1.4 M parameters, 0.0 GFLOPs, 1.5 MB. Made from
    `ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class ShuffleNet_V2_X0_5_Weights(WeightsEnum):
    """Weight sets of `shufflenet_v2_x0_5` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 60.552, acc@5 81.746 on ImageNet-1K. 1.4 M parameters, 0.0 GFLOPs, 5.3 MB. Trained as in
    https://github.com/ericsun99/Shufflenet-v2-Pytorch.
    """
    DEFAULT = IMAGENET1K_V1

class ShuffleNet_V2_X1_0_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_shufflenet_v2_x1_0` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 68.36, acc@5 87.582 on ImageNet-1K. 2.3 M parameters, 0.1 GFLOPs, 2.3 MB. Made from
    `ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1` for fbgemm. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#post-training-quantized-models.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class ShuffleNet_V2_X1_0_Weights(WeightsEnum):
    """Weight sets of `shufflenet_v2_x1_0` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 69.362, acc@5 88.316 on ImageNet-1K. 2.3 M parameters, 0.1 GFLOPs, 8.8 MB. Trained as in
    https://github.com/ericsun99/Shufflenet-v2-Pytorch.
    """
    DEFAULT = IMAGENET1K_V1

class ShuffleNet_V2_X1_5_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_shufflenet_v2_x1_5` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 72.052, acc@5 90.7 on ImageNet-1K. 3.5 M parameters, 0.3 GFLOPs, 3.7 MB. Made from
    `ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1` for fbgemm. Trained as in https://github.com/pytorch/vision/pull/5906.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class ShuffleNet_V2_X1_5_Weights(WeightsEnum):
    """Weight sets of `shufflenet_v2_x1_5` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 72.996, acc@5 91.086 on ImageNet-1K. 3.5 M parameters, 0.3 GFLOPs, 13.6 MB. Trained as in
    https://github.com/pytorch/vision/pull/5906.
    """
    DEFAULT = IMAGENET1K_V1

class ShuffleNet_V2_X2_0_QuantizedWeights(WeightsEnum):
    """Weight sets of `quantized_shufflenet_v2_x2_0` (quantization)."""

    IMAGENET1K_FBGEMM_V1 = ...
    """acc@1 75.354, acc@5 92.488 on ImageNet-1K. 7.4 M parameters, 0.6 GFLOPs, 7.5 MB. Made from
    `ShuffleNet_V2_X2_0_Weights.IMAGENET1K_V1` for fbgemm. Trained as in https://github.com/pytorch/vision/pull/5906.
    """
    DEFAULT = IMAGENET1K_FBGEMM_V1

class ShuffleNet_V2_X2_0_Weights(WeightsEnum):
    """Weight sets of `shufflenet_v2_x2_0` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 76.23, acc@5 93.006 on ImageNet-1K. 7.4 M parameters, 0.6 GFLOPs, 28.4 MB. Trained as in
    https://github.com/pytorch/vision/pull/5906.
    """
    DEFAULT = IMAGENET1K_V1

class SqueezeNet1_0_Weights(WeightsEnum):
    """Weight sets of `squeezenet1_0` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 58.092, acc@5 80.42 on ImageNet-1K. 1.2 M parameters, 0.8 GFLOPs, 4.8 MB. Trained as in
    https://github.com/pytorch/vision/pull/49#issuecomment-277560717.
    """
    DEFAULT = IMAGENET1K_V1

class SqueezeNet1_1_Weights(WeightsEnum):
    """Weight sets of `squeezenet1_1` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 58.178, acc@5 80.624 on ImageNet-1K. 1.2 M parameters, 0.3 GFLOPs, 4.7 MB. Trained as in
    https://github.com/pytorch/vision/pull/49#issuecomment-277560717.
    """
    DEFAULT = IMAGENET1K_V1

class Swin3D_B_Weights(WeightsEnum):
    """Weight sets of `swin3d_b` (video)."""

    KINETICS400_V1 = ...
    """acc@1 79.427, acc@5 94.386 on Kinetics-400. 88.0 M parameters, 140.7 GFLOPs, 364.1 MB. Trained as in
    https://github.com/SwinTransformer/Video-Swin-Transformer#kinetics-400.
    """
    KINETICS400_IMAGENET22K_V1 = ...
    """acc@1 81.643, acc@5 95.574 on Kinetics-400. 88.0 M parameters, 140.7 GFLOPs, 364.1 MB. Trained as in
    https://github.com/SwinTransformer/Video-Swin-Transformer#kinetics-400.
    """
    DEFAULT = KINETICS400_V1

class Swin3D_S_Weights(WeightsEnum):
    """Weight sets of `swin3d_s` (video)."""

    KINETICS400_V1 = ...
    """acc@1 79.521, acc@5 94.158 on Kinetics-400. 49.8 M parameters, 82.8 GFLOPs, 218.3 MB. Trained as in
    https://github.com/SwinTransformer/Video-Swin-Transformer#kinetics-400.
    """
    DEFAULT = KINETICS400_V1

class Swin3D_T_Weights(WeightsEnum):
    """Weight sets of `swin3d_t` (video)."""

    KINETICS400_V1 = ...
    """acc@1 77.715, acc@5 93.519 on Kinetics-400. 28.2 M parameters, 43.9 GFLOPs, 121.5 MB. Trained as in
    https://github.com/SwinTransformer/Video-Swin-Transformer#kinetics-400.
    """
    DEFAULT = KINETICS400_V1

class Swin_B_Weights(WeightsEnum):
    """Weight sets of `swin_b` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.582, acc@5 96.64 on ImageNet-1K. 87.8 M parameters, 15.4 GFLOPs, 335.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#swintransformer.
    """
    DEFAULT = IMAGENET1K_V1

class Swin_S_Weights(WeightsEnum):
    """Weight sets of `swin_s` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.196, acc@5 96.36 on ImageNet-1K. 49.6 M parameters, 8.7 GFLOPs, 189.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#swintransformer.
    """
    DEFAULT = IMAGENET1K_V1

class Swin_T_Weights(WeightsEnum):
    """Weight sets of `swin_t` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 81.474, acc@5 95.776 on ImageNet-1K. 28.3 M parameters, 4.5 GFLOPs, 108.2 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#swintransformer.
    """
    DEFAULT = IMAGENET1K_V1

class Swin_V2_B_Weights(WeightsEnum):
    """Weight sets of `swin_v2_b` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 84.112, acc@5 96.864 on ImageNet-1K. 87.9 M parameters, 20.3 GFLOPs, 336.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#swintransformer-v2.
    """
    DEFAULT = IMAGENET1K_V1

class Swin_V2_S_Weights(WeightsEnum):
    """Weight sets of `swin_v2_s` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 83.712, acc@5 96.816 on ImageNet-1K. 49.7 M parameters, 11.5 GFLOPs, 190.7 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#swintransformer-v2.
    """
    DEFAULT = IMAGENET1K_V1

class Swin_V2_T_Weights(WeightsEnum):
    """Weight sets of `swin_v2_t` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 82.072, acc@5 96.132 on ImageNet-1K. 28.4 M parameters, 5.9 GFLOPs, 108.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#swintransformer-v2.
    """
    DEFAULT = IMAGENET1K_V1

class VGG11_BN_Weights(WeightsEnum):
    """Weight sets of `vgg11_bn` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 70.37, acc@5 89.81 on ImageNet-1K. 132.9 M parameters, 7.6 GFLOPs, 506.9 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class VGG11_Weights(WeightsEnum):
    """Weight sets of `vgg11` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 69.02, acc@5 88.628 on ImageNet-1K. 132.9 M parameters, 7.6 GFLOPs, 506.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class VGG13_BN_Weights(WeightsEnum):
    """Weight sets of `vgg13_bn` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 71.586, acc@5 90.374 on ImageNet-1K. 133.1 M parameters, 11.3 GFLOPs, 507.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class VGG13_Weights(WeightsEnum):
    """Weight sets of `vgg13` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 69.928, acc@5 89.246 on ImageNet-1K. 133.0 M parameters, 11.3 GFLOPs, 507.5 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class VGG16_BN_Weights(WeightsEnum):
    """Weight sets of `vgg16_bn` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 73.36, acc@5 91.516 on ImageNet-1K. 138.4 M parameters, 15.5 GFLOPs, 527.9 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class VGG16_Weights(WeightsEnum):
    """Weight sets of `vgg16` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 71.592, acc@5 90.382 on ImageNet-1K. 138.4 M parameters, 15.5 GFLOPs, 527.8 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    IMAGENET1K_FEATURES = ...
    """acc@1 nan, acc@5 nan on ImageNet-1K. 138.4 M parameters, 15.5 GFLOPs, 527.8 MB. Trained as in
    https://github.com/amdegroot/ssd.pytorch#training-ssd.
    """
    DEFAULT = IMAGENET1K_V1

class VGG19_BN_Weights(WeightsEnum):
    """Weight sets of `vgg19_bn` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 74.218, acc@5 91.842 on ImageNet-1K. 143.7 M parameters, 19.6 GFLOPs, 548.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class VGG19_Weights(WeightsEnum):
    """Weight sets of `vgg19` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 72.376, acc@5 90.876 on ImageNet-1K. 143.7 M parameters, 19.6 GFLOPs, 548.1 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#alexnet-and-vgg.
    """
    DEFAULT = IMAGENET1K_V1

class ViT_B_16_Weights(WeightsEnum):
    """Weight sets of `vit_b_16` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 81.072, acc@5 95.318 on ImageNet-1K. 86.6 M parameters, 17.6 GFLOPs, 330.3 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#vit_b_16.
    """
    IMAGENET1K_SWAG_E2E_V1 = ...
    """acc@1 85.304, acc@5 97.65 on ImageNet-1K. 86.9 M parameters, 55.5 GFLOPs, 331.4 MB. Trained as in
    https://github.com/facebookresearch/SWAG.
    """
    IMAGENET1K_SWAG_LINEAR_V1 = ...
    """acc@1 81.886, acc@5 96.18 on ImageNet-1K. 86.6 M parameters, 17.6 GFLOPs, 330.3 MB. Trained as in
    https://github.com/pytorch/vision/pull/5793.
    """
    DEFAULT = IMAGENET1K_V1

class ViT_B_32_Weights(WeightsEnum):
    """Weight sets of `vit_b_32` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 75.912, acc@5 92.466 on ImageNet-1K. 88.2 M parameters, 4.4 GFLOPs, 336.6 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#vit_b_32.
    """
    DEFAULT = IMAGENET1K_V1

class ViT_H_14_Weights(WeightsEnum):
    """Weight sets of `vit_h_14` (classification)."""

    IMAGENET1K_SWAG_E2E_V1 = ...
    """acc@1 88.552, acc@5 98.694 on ImageNet-1K. 633.5 M parameters, 1016.7 GFLOPs, 2416.6 MB. Trained as in
    https://github.com/facebookresearch/SWAG.
    """
    IMAGENET1K_SWAG_LINEAR_V1 = ...
    """acc@1 85.708, acc@5 97.73 on ImageNet-1K. 632.0 M parameters, 167.3 GFLOPs, 2411.2 MB. Trained as in
    https://github.com/pytorch/vision/pull/5793.
    """
    DEFAULT = IMAGENET1K_SWAG_E2E_V1

class ViT_L_16_Weights(WeightsEnum):
    """Weight sets of `vit_l_16` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 79.662, acc@5 94.638 on ImageNet-1K. 304.3 M parameters, 61.6 GFLOPs, 1161.0 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#vit_l_16.
    """
    IMAGENET1K_SWAG_E2E_V1 = ...
    """acc@1 88.064, acc@5 98.512 on ImageNet-1K. 305.2 M parameters, 362.0 GFLOPs, 1164.3 MB. Trained as in
    https://github.com/facebookresearch/SWAG.
    """
    IMAGENET1K_SWAG_LINEAR_V1 = ...
    """acc@1 85.146, acc@5 97.422 on ImageNet-1K. 304.3 M parameters, 61.6 GFLOPs, 1161.0 MB. Trained as in
    https://github.com/pytorch/vision/pull/5793.
    """
    DEFAULT = IMAGENET1K_V1

class ViT_L_32_Weights(WeightsEnum):
    """Weight sets of `vit_l_32` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 76.972, acc@5 93.07 on ImageNet-1K. 306.5 M parameters, 15.4 GFLOPs, 1169.4 MB. Trained as in
    https://github.com/pytorch/vision/tree/main/references/classification#vit_l_32.
    """
    DEFAULT = IMAGENET1K_V1

class Wide_ResNet101_2_Weights(WeightsEnum):
    """Weight sets of `wide_resnet101_2` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 78.848, acc@5 94.284 on ImageNet-1K. 126.9 M parameters, 22.8 GFLOPs, 242.9 MB. Trained as in
    https://github.com/pytorch/vision/pull/912#issue-445437439.
    """
    IMAGENET1K_V2 = ...
    """acc@1 82.51, acc@5 96.02 on ImageNet-1K. 126.9 M parameters, 22.8 GFLOPs, 484.7 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe.
    """
    DEFAULT = IMAGENET1K_V2

class Wide_ResNet50_2_Weights(WeightsEnum):
    """Weight sets of `wide_resnet50_2` (classification)."""

    IMAGENET1K_V1 = ...
    """acc@1 78.468, acc@5 94.086 on ImageNet-1K. 68.9 M parameters, 11.4 GFLOPs, 131.8 MB. Trained as in
    https://github.com/pytorch/vision/pull/912#issue-445437439.
    """
    IMAGENET1K_V2 = ...
    """acc@1 81.602, acc@5 95.758 on ImageNet-1K. 68.9 M parameters, 11.4 GFLOPs, 263.1 MB. Trained as in
    https://github.com/pytorch/vision/issues/3995#new-recipe-with-fixres.
    """
    DEFAULT = IMAGENET1K_V2
