"""MobileNetV3-Large whose float form can be quantized to INT8.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map. A prime marks sizes of the output.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

from zoofleet.models._layers import Layer, SqueezeExcitation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MobileNet_V3_Large_QuantizedWeights
from zoofleet.models.mobilenetv3 import (
    InvertedResidual,
    InvertedResidualConfig,
    MobileNet_V3_Large_Weights,
    MobileNetV3,
    large_config,
)
from zoofleet.models.quantization._convert import quantized
from zoofleet.models.quantization._quantizable import Quantizable

__all__ = ["MobileNet_V3_Large_QuantizedWeights", "QuantizableMobileNetV3", "mobilenet_v3_large"]


class QuantizableSqueezeExcitation(SqueezeExcitation):
    """Squeeze and excitation whose product has a scale of its own."""

    fused = (("fc1", "activation"),)

    def __init__(self, input_channels: int, squeeze_channels: int) -> None:
        super().__init__(input_channels, squeeze_channels, scale_activation=nn.Hardsigmoid)
        self.skip_mul = FloatFunctional()
        self.register_load_state_dict_pre_hook(_complete_older_gate)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.skip_mul.mul(self.gate(x), x)


def _complete_older_gate(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give a file of training with rounding what it lacks if it is older than the observers of fixed ranges."""
    for key, value in module.state_dict(prefix=prefix).items():
        if key.startswith(f"{prefix}scale_activation."):
            state.setdefault(key, value)


class QuantizableInvertedResidual(InvertedResidual):
    """An inverted residual block whose sum has a scale of its own."""

    def __init__(self, cnf: InvertedResidualConfig, norm_layer: Layer) -> None:
        super().__init__(cnf, norm_layer, QuantizableSqueezeExcitation)
        self.skip_add = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        y: Tensor = self.block(x)
        return self.skip_add.add(x, y) if self.use_shortcut else y


class QuantizableMobileNetV3(Quantizable, MobileNetV3):
    """MobileNetV3 with the marks between which activations are INT8.

    Args:
        *args: passed to `MobileNetV3`.
        **kwargs: options of `MobileNetV3`: `num_classes`, `block`, `norm_layer` and `dropout`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, block=QuantizableInvertedResidual, **kwargs)


@register_model(
    name="quantized_mobilenet_v3_large",
    weights=MobileNet_V3_Large_QuantizedWeights,
    unquantized=MobileNet_V3_Large_Weights,
    finish=(quantized("qnnpack", trained_rounding=True),),
)
def mobilenet_v3_large(
    *,
    width_mult: float = 1.0,
    dilated: bool = False,
    reduced_tail: bool = False,
    **kwargs: Any,
) -> QuantizableMobileNetV3:
    """Build MobileNetV3-Large (5.5 M parameters), in float ready for quantization or in INT8.

    Args:
        quantize: convert to INT8. With random weights all scales are 1, as in the reference: only training with
            rounding, which the published weights have had, measures them. `convert` measures them on images.
        width_mult: scales all channels; published weights fit 1.
        dilated: dilate the last stage rather than stride; takes the same weights.
        reduced_tail: halve the channels of the last stage; no published weights fit.
        **kwargs: options of `QuantizableMobileNetV3`: `num_classes`, `norm_layer` and `dropout`.
    """
    configs, last_channel = large_config(width_mult=width_mult, dilated=dilated, reduced_tail=reduced_tail)
    return QuantizableMobileNetV3(configs, last_channel, **kwargs)
