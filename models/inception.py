"""Inception v3.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, arXiv:1512.00567.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._registry import load_published, register_model
from zoofleet.models._weight_sets import Inception_V3_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.googlenet import BasicConv2d, Concat, following, from_imagenet_scale

__all__ = ["Inception3", "InceptionAux", "InceptionOutputs", "Inception_V3_Weights", "inception_v3"]


class InceptionOutputs(NamedTuple):
    """What `Inception3` returns in training.

    Attributes:
        logits: (N, num_classes).
        aux_logits: (N, num_classes) of the auxiliary head.
    """

    logits: Tensor
    aux_logits: Tensor


def _mean3x3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)


class _InceptionA(nn.Module):
    """Figure 5 of the paper: 5x5 filters as two of 3x3. Gives 224 + pool_features channels."""

    def __init__(self, in_channels: int, pool_features: int, concat: Callable[[], Any]) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(in_channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features, 1)
        self.myop = concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 224 + pool_features, H, W)."""
        out: Tensor = self.myop.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(_mean3x3(x)),
            ],
            1,
        )
        return out


class _InceptionB(nn.Module):
    """Figure 10: halve the sides beside a pooling. Adds 480 channels."""

    def __init__(self, in_channels: int, concat: Callable[[], Any]) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)
        self.myop = concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 480 + in_channels, H/2, W/2)."""
        out: Tensor = self.myop.cat(
            [
                self.branch3x3(x),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                F.max_pool2d(x, kernel_size=3, stride=2),
            ],
            1,
        )
        return out


class _InceptionC(nn.Module):
    """Figure 6: 7x7 filters as 1x7 and 7x1. Gives 768 channels."""

    def __init__(self, in_channels: int, channels_7x7: int, concat: Callable[[], Any]) -> None:
        super().__init__()
        c7 = channels_7x7
        self.branch1x1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(in_channels, c7, 1)
        self.branch7x7_2 = BasicConv2d(c7, c7, (1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c7, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(in_channels, c7, 1)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c7, c7, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv2d(c7, c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv2d(c7, 192, (1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)
        self.myop = concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 768, H, W)."""
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))  # (N, channels_7x7, H, W)
        out: Tensor = self.myop.cat(
            [
                self.branch1x1(x),
                self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
                self.branch_pool(_mean3x3(x)),
            ],
            1,
        )
        return out


class _InceptionD(nn.Module):
    """Halve the sides once more. Adds 512 channels."""

    def __init__(self, in_channels: int, concat: Callable[[], Any]) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)
        self.myop = concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 512 + in_channels, H/2, W/2)."""
        out: Tensor = self.myop.cat(
            [
                self.branch3x3_2(self.branch3x3_1(x)),
                self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))),
                F.max_pool2d(x, kernel_size=3, stride=2),
            ],
            1,
        )
        return out


class _InceptionE(nn.Module):
    """Figure 7: 1x3 and 3x1 filters side by side. Gives 2048 channels."""

    def __init__(self, in_channels: int, concat: Callable[[], Any]) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(in_channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)
        self.myop1 = concat()
        self.myop2 = concat()
        self.myop3 = concat()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 2048, H, W)."""
        single = self.branch3x3_1(x)  # (N, 384, H, W)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))  # (N, 384, H, W)
        single = self.myop1.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1)  # (N, 768, H, W)
        double = self.myop2.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)  # (N, 768, H, W)
        out: Tensor = self.myop3.cat([self.branch1x1(x), single, double, self.branch_pool(_mean3x3(x))], 1)
        return out


class InceptionAux(nn.Module):
    """A classifier on an intermediate result, which feeds gradients to the early layers in training.

    Args:
        in_channels: channels of the result.
        num_classes: length of the output.
        conv_block: makes a convolution as `BasicConv2d`, which is what None means.
    """

    def __init__(self, in_channels: int, num_classes: int, conv_block: Callable[..., nn.Module] | None = None) -> None:
        super().__init__()
        block = BasicConv2d if conv_block is None else conv_block
        self.conv0 = block(in_channels, 128, kernel_size=1)
        self.conv1 = block(128, 768, kernel_size=5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W), at least 17 a side, to logits (N, num_classes)."""
        x = self.conv1(self.conv0(F.avg_pool2d(x, kernel_size=5, stride=3)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)  # (N, 768)
        logits: Tensor = self.fc(x)
        return logits


class Inception3(nn.Module):
    """Inception blocks of total stride about 32, for images of 299x299, and a linear classifier over the mean.

    Args:
        num_classes: length of the output.
        aux_logits: have an auxiliary head, whose logits are returned in training.
        transform_input: take images normalised by ImageNet's mean and std, though trained on pixels from -1 to 1.
        init_weights: draw weights from a normal distribution cut at two; False leaves torch's own initialisation, which
            is much faster.
        dropout: probability before the classifier.
        concat: makes what joins the branches of a block: has the method of `Concat`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        init_weights: bool = True,
        dropout: float = 0.5,
        concat: Callable[[], Any] = Concat,
    ) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = _InceptionA(192, pool_features=32, concat=concat)
        self.Mixed_5c = _InceptionA(256, pool_features=64, concat=concat)
        self.Mixed_5d = _InceptionA(288, pool_features=64, concat=concat)
        self.Mixed_6a = _InceptionB(288, concat=concat)
        self.Mixed_6b = _InceptionC(768, channels_7x7=128, concat=concat)
        self.Mixed_6c = _InceptionC(768, channels_7x7=160, concat=concat)
        self.Mixed_6d = _InceptionC(768, channels_7x7=160, concat=concat)
        self.Mixed_6e = _InceptionC(768, channels_7x7=192, concat=concat)
        self.AuxLogits = InceptionAux(768, num_classes) if aux_logits else None
        self.Mixed_7a = _InceptionD(768, concat=concat)
        self.Mixed_7b = _InceptionE(1280, concat=concat)
        self.Mixed_7c = _InceptionE(2048, concat=concat)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        if init_weights:
            self._init_weights()

    def _init_weights(self) -> None:
        aux = None if self.AuxLogits is None else self.AuxLogits.fc
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, mean=0, std=0.001 if module is aux else 0.1, a=-2, b=2)

    def rescale(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), as `forward` takes it, to the scale of the weights."""
        return from_imagenet_scale(x) if self.transform_input else x

    def forward(self, x: Tensor) -> Tensor | InceptionOutputs:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 75 pixels a side, normalised as the weights' transforms do. Shapes in the
                comments are those of 299x299 images.

        Returns:
            float (N, num_classes); in training with the auxiliary head, its logits too.
        """
        x = self.rescale(x)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (N, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))  # (N, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))  # (N, 288, 35, 35)
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  # (N, 768, 17, 17)
        x = self.Mixed_6e(self.Mixed_6d(x))  # (N, 768, 17, 17)
        aux = self.AuxLogits(x) if self.training and self.AuxLogits is not None else None
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (N, 2048, 8, 8)
        x = torch.flatten(self.dropout(self.avgpool(x)), 1)  # (N, 2048)
        logits: Tensor = self.fc(x)
        return logits if aux is None else InceptionOutputs(logits, aux)


def drop_head(model: Inception3, *, weights: WeightsEnum | None = None, aux_logits: bool | None = None) -> None:
    """Take the auxiliary head away that a published file has and the caller did not ask for."""
    if weights is not None and not aux_logits:
        model.AuxLogits = None


@register_model(weights=Inception_V3_Weights, finish=(load_published, drop_head))
def inception_v3(
    *,
    weights: WeightsEnum | None = None,
    aux_logits: bool = True,
    transform_input: bool | None = None,
    **kwargs: Any,
) -> Inception3:
    """Build Inception v3 (27.2 M parameters, of which the auxiliary head has 3.3 M).

    Args:
        aux_logits: whether the model has the auxiliary head.
        transform_input: rescale images from ImageNet's mean and standard deviation to -1..1; None for doing so with
            published weights, which need it.
        **kwargs: options of `Inception3`: `num_classes`, `init_weights` and `dropout`.
    """
    # The published file has the head, so it must be there to load it.
    heads = weights is not None or aux_logits
    return Inception3(aux_logits=heads, **(kwargs | following(weights, transform_input)))
