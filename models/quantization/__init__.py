"""Classifiers with INT8 weights and activations, for the CPU."""

from zoofleet.models.quantization.mobilenet_v2 import (
    MobileNet_V2_QuantizedWeights,
    QuantizableMobileNetV2,
    mobilenet_v2,
)

__all__ = ["MobileNet_V2_QuantizedWeights", "QuantizableMobileNetV2", "mobilenet_v2"]
