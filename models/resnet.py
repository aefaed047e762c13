"""ResNet and its relatives with wider or grouped bottlenecks.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385; the stride of a
bottleneck sits in its 3x3 convolution as in Goyal et al., arXiv:1706.02677. Grouped and wide bottlenecks follow
arXiv:1611.05431 and arXiv:1605.07146.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Layer
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    ResNet152_Weights,
    ResNeXt50_32X4D_Weights,
    ResNeXt101_32X8D_Weights,
    ResNeXt101_64X4D_Weights,
    Wide_ResNet50_2_Weights,
    Wide_ResNet101_2_Weights,
)

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNeXt50_32X4D_Weights",
    "ResNeXt101_32X8D_Weights",
    "ResNeXt101_64X4D_Weights",
    "ResNet",
    "ResNet18_Weights",
    "ResNet34_Weights",
    "ResNet50_Weights",
    "ResNet101_Weights",
    "ResNet152_Weights",
    "Wide_ResNet50_2_Weights",
    "Wide_ResNet101_2_Weights",
    "conv1x1",
    "conv3x3",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size but for its stride."""
    return nn.Conv2d(
        in_planes,
        out_planes,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        groups=groups,
        bias=False,
        dilation=dilation,
    )


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (N, inplanes, H, W) to (N, planes, H/stride, W/stride).

    Args:
        inplanes: channels of the input.
        planes: channels of the output.
        stride: stride of the first convolution.
        downsample: the shortcut, where input and output differ in shape.
        groups: must be 1; only `Bottleneck` has groups.
        base_width: must be 64; only `Bottleneck` can be wider.
        dilation: must be 1; only `Bottleneck` can be dilated.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.

    Raises:
        InvalidArgumentError: groups, base_width or dilation other than that.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        if (groups, base_width, dilation) != (1, 64, 1):
            raise InvalidArgumentError(
                f"BasicBlock has groups=1, base_width=64, dilation=1; got {groups}, {base_width}, {dilation}"
            )
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, planes, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut.

    Args:
        inplanes: channels of the input.
        planes: a quarter of the output's channels; the 3x3 convolution has `planes * base_width / 64 * groups`.
        stride: stride of the 3x3 convolution.
        downsample: the shortcut, where input and output differ in shape.
        groups: number of groups of the 3x3 convolution.
        base_width: channels of each group in the first stage.
        dilation: dilation of the 3x3 convolution.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        width = int(planes * (base_width / 64)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, 4 * planes, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + shortcut)
        return out


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """A stem of stride 4, four stages of residual blocks, and a linear classifier over the mean.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        layers: number of blocks in each of the four stages.
        num_classes: length of the output.
        zero_init_residual: start each block as the identity, with zero as the scale of its last normalisation.
        groups: number of groups of each bottleneck's 3x3 convolution.
        width_per_group: channels of each of these groups in the first stage.
        replace_stride_with_dilation: for stages 2, 3 and 4, whether to dilate the convolutions rather than stride; None
            for none of them.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.

    Raises:
        InvalidArgumentError: not four stages, or not three choices between stride and dilation.
    """

    def __init__(
        self,
        block: Block,
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        dilated = (False,) * 3 if replace_stride_with_dilation is None else replace_stride_with_dilation
        norm = nn.BatchNorm2d if norm_layer is None else norm_layer
        if len(layers) != 4 or len(dilated) != 3:
            raise InvalidArgumentError(
                "ResNet takes 4 stages and 3 choices between stride and dilation, got "
                f"layers={layers!r}, replace_stride_with_dilation={replace_stride_with_dilation!r}"
            )

        def build(in_channels: int, planes: int, stride: int, downsample: nn.Module | None, dilation: int) -> nn.Module:
            return block(in_channels, planes, stride, downsample, groups, width_per_group, dilation, norm)

        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages: list[nn.Sequential] = []
        channels, dilation = 64, 1
        for number, (blocks, dilate) in enumerate(zip(layers, (False, *dilated), strict=True), start=1):
            planes = 32 << number
            stride = 1 if number == 1 or dilate else 2
            # The first block of a dilated stage still sees the resolution and dilation of the stage before.
            first, dilation = dilation, dilation * 2 if dilate else dilation
            out = planes * block.expansion
            downsample = None
            if stride != 1 or channels != out:
                downsample = nn.Sequential(conv1x1(channels, out, stride), norm(out))
            stage = [build(channels, planes, stride, downsample, first)]
            stage += [build(out, planes, 1, None, dilation) for _ in range(1, blocks)]
            stages.append(nn.Sequential(*stage))
            channels = out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        self._init_weights(zero_init_residual)

    def _init_weights(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    if isinstance(last.weight, Tensor):
                        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        x = self.layer2(self.layer1(x))  # (N, 128 * expansion, H/8, W/8)
        x = self.layer4(self.layer3(x))  # (N, 512 * expansion, H/32, W/32)
        x = torch.flatten(self.avgpool(x), 1)  # (N, C)
        logits: Tensor = self.fc(x)
        return logits


@register_model(weights=ResNet18_Weights)
def resnet18(**kwargs: Any) -> ResNet:
    """Build ResNet-18 (11.7 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), **kwargs)


@register_model(weights=ResNet34_Weights)
def resnet34(**kwargs: Any) -> ResNet:
    """Build ResNet-34 (21.8 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(BasicBlock, (3, 4, 6, 3), **kwargs)


@register_model(weights=ResNet50_Weights)
def resnet50(**kwargs: Any) -> ResNet:
    """Build ResNet-50 (25.6 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), **kwargs)


@register_model(weights=ResNet101_Weights)
def resnet101(**kwargs: Any) -> ResNet:
    """Build ResNet-101 (44.5 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), **kwargs)


@register_model(weights=ResNet152_Weights)
def resnet152(**kwargs: Any) -> ResNet:
    """Build ResNet-152 (60.2 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 8, 36, 3), **kwargs)


@register_model(weights=ResNeXt50_32X4D_Weights)
def resnext50_32x4d(**kwargs: Any) -> ResNet:
    """Build ResNeXt-50 32x4d (25.0 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4, **kwargs)


@register_model(weights=ResNeXt101_32X8D_Weights)
def resnext101_32x8d(**kwargs: Any) -> ResNet:
    """Build ResNeXt-101 32x8d (88.8 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8, **kwargs)


@register_model(weights=ResNeXt101_64X4D_Weights)
def resnext101_64x4d(**kwargs: Any) -> ResNet:
    """Build ResNeXt-101 64x4d (83.5 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4, **kwargs)


@register_model(weights=Wide_ResNet50_2_Weights)
def wide_resnet50_2(**kwargs: Any) -> ResNet:
    """Build Wide ResNet-50-2 (68.9 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), width_per_group=128, **kwargs)


@register_model(weights=Wide_ResNet101_2_Weights)
def wide_resnet101_2(**kwargs: Any) -> ResNet:
    """Build Wide ResNet-101-2 (126.9 M parameters).

    Args:
        **kwargs: options of `ResNet`: `num_classes`, `zero_init_residual`, `replace_stride_with_dilation` and
            `norm_layer`.
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), width_per_group=128, **kwargs)
