"""GoogLeNet, also known as Inception v1.

Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv:1409.4842, with batch normalisation after
each convolution (arXiv:1502.03167). The published weights were trained with 3x3 convolutions where the paper has 5x5.

In shapes, N is the number of images, and H and W are the height and width of an image or a map. A prime marks sizes of
the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._registry import load_published, register_model
from zoofleet.models._weight_sets import GoogLeNet_Weights
from zoofleet.models._weights import WeightsEnum

__all__ = ["BasicConv2d", "Concat", "GoogLeNet", "GoogLeNetOutputs", "GoogLeNet_Weights", "googlenet"]


class GoogLeNetOutputs(NamedTuple):
    """What `GoogLeNet` returns in training.

    Attributes:
        logits: (N, num_classes).
        aux_logits2: (N, num_classes) of the later auxiliary head.
        aux_logits1: (N, num_classes) of the earlier one.
    """

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the convolution.
        **kwargs: passed to the convolution.
    """

    fused = (("conv", "bn", "relu"),)
    """The runs of children that quantization joins to one INT8 layer, see `Quantizable.fuse_model`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class Concat(nn.Module):
    """`torch.cat` as a module, in the place of which quantizable models have one with a scale."""

    def cat(self, tensors: list[Tensor], dim: int) -> Tensor:
        """Tensors of equal shape but for `dim` to one."""
        return torch.cat(tensors, dim)


def from_imagenet_scale(x: Tensor) -> Tensor:
    """(N, 3, H, W) normalised by ImageNet's mean and std, to pixels from -1 to 1 as these weights' origins had them."""
    red, green, blue = x.unbind(1)  # (N, H, W) each
    return torch.stack(
        [
            red * (0.229 / 0.5) + (0.485 - 0.5) / 0.5,
            green * (0.224 / 0.5) + (0.456 - 0.5) / 0.5,
            blue * (0.225 / 0.5) + (0.406 - 0.5) / 0.5,
        ],
        1,
    )


class Inception(nn.Module):
    """Figure 2b of the paper: four branches side by side.

    Args:
        in_channels: channels of the input.
        ch1x1: channels of the 1x1 branch.
        ch3x3red: channels that the second branch's 1x1 convolution leaves.
        ch3x3: channels of the second branch.
        ch5x5red: channels that the third branch's 1x1 convolution leaves.
        ch5x5: channels of the third branch.
        pool_proj: channels of the pooling branch.
        concat: makes what joins the branches.
    """

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        concat: Callable[[], Any],
    ) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(in_channels, ch1x1, 1)
        self.branch2 = nn.Sequential(BasicConv2d(in_channels, ch3x3red, 1), BasicConv2d(ch3x3red, ch3x3, 3, padding=1))
        self.branch3 = nn.Sequential(BasicConv2d(in_channels, ch5x5red, 1), BasicConv2d(ch5x5red, ch5x5, 3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True), BasicConv2d(in_channels, pool_proj, 1)
        )
        self.cat = concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, ch1x1 + ch3x3 + ch5x5 + pool_proj, H, W)."""
        out: Tensor = self.cat.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)
        return out


class InceptionAux(nn.Module):
    """A classifier on an intermediate result, which feeds gradients to the early layers in training.

    Args:
        in_channels: channels of the result.
        num_classes: length of the output.
        conv_block: makes a convolution as `BasicConv2d`, which is what None means.
        dropout: probability before the last layer.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        conv_block: Callable[..., nn.Module] | None = None,
        dropout: float = 0.7,
    ) -> None:
        super().__init__()
        self.conv = (conv_block or BasicConv2d)(in_channels, 128, kernel_size=1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to logits (N, num_classes)."""
        x = torch.flatten(self.conv(F.adaptive_avg_pool2d(x, (4, 4))), 1)  # (N, 2048)
        logits: Tensor = self.fc2(self.dropout(F.relu(self.fc1(x), inplace=True)))
        return logits


class GoogLeNet(nn.Module):
    """Nine inception blocks of total stride 32 and a linear classifier over the mean.

    Args:
        num_classes: length of the output.
        aux_logits: have two auxiliary heads, whose logits are returned in training.
        transform_input: take images normalised by ImageNet's mean and std, though trained on pixels from -1 to 1.
        init_weights: draw weights from a normal distribution cut at two; False leaves torch's own initialisation, which
            is much faster.
        dropout: probability before the classifier.
        dropout_aux: probability before an auxiliary head's last layer.
        concat: makes what joins the branches of a block: has the method of `Concat`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        init_weights: bool = True,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        concat: Callable[[], Any] = Concat,
    ) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.conv1 = BasicConv2d(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32, concat)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64, concat)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64, concat)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64, concat)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64, concat)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64, concat)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128, concat)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128, concat)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128, concat)
        self.aux1 = InceptionAux(512, num_classes, dropout=dropout_aux) if aux_logits else None
        self.aux2 = InceptionAux(528, num_classes, dropout=dropout_aux) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        if init_weights:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.trunc_normal_(module.weight, mean=0, std=0.01, a=-2, b=2)

    def rescale(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), as `forward` takes it, to the scale of the weights."""
        return from_imagenet_scale(x) if self.transform_input else x

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 15 pixels a side, normalised as the weights' transforms do.

        Returns:
            float (N, num_classes); in training with auxiliary heads, theirs too.
        """
        x = self.rescale(x)
        x = self.conv3(self.conv2(self.maxpool1(self.conv1(x))))  # (N, 192, H/4, W/4)
        x = self.inception3b(self.inception3a(self.maxpool2(x)))  # (N, 480, H/8, W/8)
        x = self.inception4a(self.maxpool3(x))  # (N, 512, H/16, W/16)
        aux1 = self.aux1(x) if self.training and self.aux1 is not None else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))  # (N, 528, H/16, W/16)
        aux2 = self.aux2(x) if self.training and self.aux2 is not None else None
        x = self.maxpool4(self.inception4e(x))  # (N, 832, H/32, W/32)
        x = self.inception5b(self.inception5a(x))  # (N, 1024, H/32, W/32)
        x = self.dropout(torch.flatten(self.avgpool(x), 1))  # (N, 1024)
        logits: Tensor = self.fc(x)
        return logits if aux1 is None or aux2 is None else GoogLeNetOutputs(logits, aux2, aux1)


def drop_heads(model: GoogLeNet, *, weights: WeightsEnum | None = None, aux_logits: bool | None = None) -> None:
    """Take the auxiliary heads away that a published file has and the caller did not ask for."""
    if weights is not None and not aux_logits:
        model.aux1 = model.aux2 = None


def following(weights: WeightsEnum | None, transform_input: bool | None) -> dict[str, bool]:
    """Options of `GoogLeNet` and `Inception3` that follow the weights.

    Args:
        weights: what will be loaded; its random predecessors, which take seconds to draw, are then not drawn.
        transform_input: None for what the weights need.
    """
    published = weights is not None
    options = {"transform_input": published if transform_input is None else transform_input}
    return options | {"init_weights": False} if published else options


@register_model(weights=GoogLeNet_Weights, finish=(load_published, drop_heads))
def googlenet(
    *,
    weights: WeightsEnum | None = None,
    aux_logits: bool | None = None,
    transform_input: bool | None = None,
    **kwargs: Any,
) -> GoogLeNet:
    """Build GoogLeNet (13.0 M parameters, of which the auxiliary heads have 6.4 M).

    Args:
        aux_logits: whether the model has auxiliary heads, which were not trained in the published weights; None for
            those alone that have random weights.
        transform_input: rescale images from ImageNet's mean and standard deviation to -1..1; None for doing so with
            published weights, which need it.
        **kwargs: options of `GoogLeNet`: `num_classes`, `init_weights`, `dropout` and `dropout_aux`.
    """
    # The published file has the heads, so they must be there to load it.
    heads = weights is not None or aux_logits is not False
    return GoogLeNet(aux_logits=heads, **(kwargs | following(weights, transform_input)))
