"""ShuffleNets V2 whose float form can be quantized to INT8.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor
from torch.ao.nn.quantized import FloatFunctional

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    ShuffleNet_V2_X0_5_QuantizedWeights,
    ShuffleNet_V2_X1_0_QuantizedWeights,
    ShuffleNet_V2_X1_5_QuantizedWeights,
    ShuffleNet_V2_X2_0_QuantizedWeights,
)
from zoofleet.models.quantization._convert import quantized
from zoofleet.models.quantization._quantizable import Quantizable
from zoofleet.models.shufflenetv2 import (
    InvertedResidual,
    ShuffleNet_V2_X0_5_Weights,
    ShuffleNet_V2_X1_0_Weights,
    ShuffleNet_V2_X1_5_Weights,
    ShuffleNet_V2_X2_0_Weights,
    ShuffleNetV2,
    channel_shuffle,
)

__all__ = [
    "QuantizableShuffleNetV2",
    "ShuffleNet_V2_X0_5_QuantizedWeights",
    "ShuffleNet_V2_X1_0_QuantizedWeights",
    "ShuffleNet_V2_X1_5_QuantizedWeights",
    "ShuffleNet_V2_X2_0_QuantizedWeights",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]


class QuantizableInvertedResidual(InvertedResidual):
    """A block whose two halves are joined at a scale of their own."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__(inp, oup, stride)
        self.cat = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) to (N, oup, H/stride, W/stride)."""
        first, second = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        return channel_shuffle(self.cat.cat([self.branch1(first), self.branch2(second)], dim=1), 2)


class QuantizableShuffleNetV2(Quantizable, ShuffleNetV2):
    """ShuffleNet V2 with the marks between which activations are INT8.

    Args:
        *args: passed to `ShuffleNetV2`.
        **kwargs: options of `ShuffleNetV2`: `num_classes` and `inverted_residual`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, inverted_residual=QuantizableInvertedResidual, **kwargs)


_INT8: Final = (quantized("fbgemm"),)


@register_model(
    name="quantized_shufflenet_v2_x0_5",
    weights=ShuffleNet_V2_X0_5_QuantizedWeights,
    unquantized=ShuffleNet_V2_X0_5_Weights,
    finish=_INT8,
)
def shufflenet_v2_x0_5(**kwargs: Any) -> QuantizableShuffleNetV2:
    """Build ShuffleNet V2 0.5x (1.4 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: `num_classes`, the option of `QuantizableShuffleNetV2`.
    """
    return QuantizableShuffleNetV2((4, 8, 4), (24, 48, 96, 192, 1024), **kwargs)


@register_model(
    name="quantized_shufflenet_v2_x1_0",
    weights=ShuffleNet_V2_X1_0_QuantizedWeights,
    unquantized=ShuffleNet_V2_X1_0_Weights,
    finish=_INT8,
)
def shufflenet_v2_x1_0(**kwargs: Any) -> QuantizableShuffleNetV2:
    """Build ShuffleNet V2 1.0x (2.3 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: `num_classes`, the option of `QuantizableShuffleNetV2`.
    """
    return QuantizableShuffleNetV2((4, 8, 4), (24, 116, 232, 464, 1024), **kwargs)


@register_model(
    name="quantized_shufflenet_v2_x1_5",
    weights=ShuffleNet_V2_X1_5_QuantizedWeights,
    unquantized=ShuffleNet_V2_X1_5_Weights,
    finish=_INT8,
)
def shufflenet_v2_x1_5(**kwargs: Any) -> QuantizableShuffleNetV2:
    """Build ShuffleNet V2 1.5x (3.5 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: `num_classes`, the option of `QuantizableShuffleNetV2`.
    """
    return QuantizableShuffleNetV2((4, 8, 4), (24, 176, 352, 704, 1024), **kwargs)


@register_model(
    name="quantized_shufflenet_v2_x2_0",
    weights=ShuffleNet_V2_X2_0_QuantizedWeights,
    unquantized=ShuffleNet_V2_X2_0_Weights,
    finish=_INT8,
)
def shufflenet_v2_x2_0(**kwargs: Any) -> QuantizableShuffleNetV2:
    """Build ShuffleNet V2 2.0x (7.4 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: `num_classes`, the option of `QuantizableShuffleNetV2`.
    """
    return QuantizableShuffleNetV2((4, 8, 4), (24, 244, 488, 976, 2048), **kwargs)
