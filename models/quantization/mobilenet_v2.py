"""MobileNetV2 whose float form can be quantized to INT8.

It has ReLU where the float model has ReLU6: the quantized range cuts off above anyway, and ReLU can be fused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub

from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.mobilenet_v2 import InvertedResidual, MobileNet_V2_Weights, MobileNetV2
from zoofleet.models.quantization._convert import finish, fuse

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

    def fuse_model(self) -> None:
        """Join the last convolution with its batch norm; the others are joined where they stand together."""
        last = len(self.conv) - 2
        fuse(self.conv, (str(last), str(last + 1)))


class QuantizableMobileNetV2(MobileNetV2):
    """MobileNetV2 with the marks between which activations are INT8.

    Args:
        **kwargs: passed to `MobileNetV2`, such as `num_classes`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(block=QuantizableInvertedResidual, activation_layer=nn.ReLU, **kwargs)
        self.quant = QuantStub()
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images: float (N, 3, H, W) to float (N, num_classes)."""
        logits: Tensor = self.dequant(super().forward(self.quant(x)))
        return logits

    def fuse_model(self) -> None:
        """Join each convolution with the batch norm and ReLU after it, in place."""
        for module in list(self.modules()):
            if isinstance(module, Conv2dNormActivation):
                fuse(module, ("0", "1", "2"))
            elif isinstance(module, QuantizableInvertedResidual):
                module.fuse_model()


MobileNet_V2_QuantizedWeights = define_weights("MobileNet_V2_QuantizedWeights")


@register_model(
    name="quantized_mobilenet_v2",
    weights=MobileNet_V2_QuantizedWeights,
    unquantized=MobileNet_V2_Weights,
)
def mobilenet_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    quantize: bool = False,
    **kwargs: Any,
) -> QuantizableMobileNetV2:
    """Build MobileNetV2 (3.5 M parameters), in float ready for quantization or in INT8 for qnnpack.

    Args:
        weights: `MobileNet_V2_QuantizedWeights` with `quantize`, `MobileNet_V2_Weights` without, None for random ones.
        progress: show a progress line while downloading.
        quantize: convert to INT8.
        **kwargs: passed to `QuantizableMobileNetV2`, such as `num_classes`.

    Raises:
        FailedPreconditionError: INT8 is asked for and this build of PyTorch lacks qnnpack.
    """
    model = QuantizableMobileNetV2(**kwargs)
    finish(model, weights, progress, quantize=quantize, backend="qnnpack")
    return model
