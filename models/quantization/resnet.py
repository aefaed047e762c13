"""ResNets whose float form can be quantized to INT8.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    ResNet18_QuantizedWeights,
    ResNet50_QuantizedWeights,
    ResNeXt101_32X8D_QuantizedWeights,
    ResNeXt101_64X4D_QuantizedWeights,
)
from zoofleet.models.quantization._convert import quantized
from zoofleet.models.quantization._quantizable import Quantizable
from zoofleet.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    ResNet18_Weights,
    ResNet50_Weights,
    ResNeXt101_32X8D_Weights,
    ResNeXt101_64X4D_Weights,
)

__all__ = [
    "QuantizableResNet",
    "ResNeXt101_32X8D_QuantizedWeights",
    "ResNeXt101_64X4D_QuantizedWeights",
    "ResNet18_QuantizedWeights",
    "ResNet50_QuantizedWeights",
    "resnet18",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
]


class QuantizableBasicBlock(BasicBlock):
    """Two 3x3 convolutions with a shortcut, whose sum has a scale of its own."""

    fused = (("conv1", "bn1", "relu"), ("conv2", "bn2"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_relu = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, planes, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.add_relu.add_relu(self.bn2(self.conv2(y)), shortcut)


class QuantizableBottleneck(Bottleneck):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, whose sum has a scale of its own."""

    fused = (("conv1", "bn1", "relu"), ("conv2", "bn2", "relu2"), ("conv3", "bn3"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.relu2 = nn.ReLU(inplace=True)
        self.skip_add_relu = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 * planes, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        return self.skip_add_relu.add_relu(self.bn3(self.conv3(y)), shortcut)


class QuantizableResNet(Quantizable, ResNet):
    """ResNet with the marks between which activations are INT8.

    Args:
        block: `QuantizableBasicBlock` or `QuantizableBottleneck`.
        layers: number of blocks in each of the four stages.
        **kwargs: options of `ResNet`, such as `num_classes`.
    """

    fused = (("conv1", "bn1", "relu"),)


_INT8: Final = (quantized("fbgemm"),)


@register_model(
    name="quantized_resnet18",
    weights=ResNet18_QuantizedWeights,
    unquantized=ResNet18_Weights,
    finish=_INT8,
)
def resnet18(**kwargs: Any) -> QuantizableResNet:
    """Build ResNet-18 (11.7 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: options of `QuantizableResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation`
            and `norm_layer`.
    """
    return QuantizableResNet(QuantizableBasicBlock, (2, 2, 2, 2), **kwargs)


@register_model(
    name="quantized_resnet50",
    weights=ResNet50_QuantizedWeights,
    unquantized=ResNet50_Weights,
    finish=_INT8,
)
def resnet50(**kwargs: Any) -> QuantizableResNet:
    """Build ResNet-50 (25.6 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: options of `QuantizableResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation`
            and `norm_layer`.
    """
    return QuantizableResNet(QuantizableBottleneck, (3, 4, 6, 3), **kwargs)


@register_model(
    name="quantized_resnext101_32x8d",
    weights=ResNeXt101_32X8D_QuantizedWeights,
    unquantized=ResNeXt101_32X8D_Weights,
    finish=_INT8,
)
def resnext101_32x8d(**kwargs: Any) -> QuantizableResNet:
    """Build ResNeXt-101 32x8d (88.8 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: options of `QuantizableResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation`
            and `norm_layer`.
    """
    return QuantizableResNet(QuantizableBottleneck, (3, 4, 23, 3), groups=32, width_per_group=8, **kwargs)


@register_model(
    name="quantized_resnext101_64x4d",
    weights=ResNeXt101_64X4D_QuantizedWeights,
    unquantized=ResNeXt101_64X4D_Weights,
    finish=_INT8,
)
def resnext101_64x4d(**kwargs: Any) -> QuantizableResNet:
    """Build ResNeXt-101 64x4d (83.5 M parameters), in float ready for quantization or in INT8.

    Args:
        **kwargs: options of `QuantizableResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation`
            and `norm_layer`.
    """
    return QuantizableResNet(QuantizableBottleneck, (3, 4, 23, 3), groups=64, width_per_group=4, **kwargs)
