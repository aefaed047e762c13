"""MobileNetV2 whose float form can be quantized to INT8.

It has ReLU where the float model has ReLU6: the quantized range cuts off above anyway, and ReLU can be fused.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MobileNet_V2_QuantizedWeights
from zoofleet.models.mobilenetv2 import InvertedResidual, MobileNet_V2_Weights, MobileNetV2
from zoofleet.models.quantization._convert import quantized
from zoofleet.models.quantization._quantizable import Quantizable

__all__ = ["MobileNet_V2_QuantizedWeights", "QuantizableMobileNetV2", "mobilenet_v2"]


class QuantizableInvertedResidual(InvertedResidual):
    """An inverted residual block whose sum has a scale of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_add = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return self.skip_add.add(x, y) if self.use_shortcut else y


class QuantizableMobileNetV2(Quantizable, MobileNetV2):
    """MobileNetV2 with the marks between which activations are INT8.

    Args:
        **kwargs: options of `MobileNetV2`: `num_classes`, `width_mult`, `inverted_residual_setting`, `round_nearest`,
            `block`, `norm_layer`, `dropout` and `activation_layer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(block=QuantizableInvertedResidual, activation_layer=nn.ReLU, **kwargs)


@register_model(
    name="quantized_mobilenet_v2",
    weights=MobileNet_V2_QuantizedWeights,
    unquantized=MobileNet_V2_Weights,
    finish=(quantized("qnnpack"),),
)
def mobilenet_v2(**kwargs: Any) -> QuantizableMobileNetV2:
    """Build MobileNetV2 (3.5 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: options of `QuantizableMobileNetV2`: `num_classes`, `width_mult`, `inverted_residual_setting`,
            `round_nearest`, `norm_layer` and `dropout`.
    """
    return QuantizableMobileNetV2(**kwargs)
