"""Backbones of detectors: classifiers cut open, with a feature pyramid, and frozen as far as asked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._features import FeatureExtractor
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, LastLevelMaxPool
from zoofleet.models.resnet import ResNet, resnet50

__all__ = ["BackboneWithFPN", "drop_norm_eps", "num_trainable_layers", "resnet50_fpn", "resnet_fpn"]


class BackboneWithFPN(nn.Module):
    """A network with a feature pyramid over several of its results, and a pooled map above it.

    Args:
        backbone: the network; its children are shared, not copied.
        return_layers: its children's names to the names of their maps, finest first.
        in_channels: channels of these maps.
        out_channels: channels of every map of the pyramid.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        return_layers: Mapping[str, str],
        in_channels: Sequence[int],
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        self.body = FeatureExtractor(backbone, return_layers)
        self.fpn = FeaturePyramidNetwork(in_channels, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to the pyramid's maps (N, out_channels, Hi, Wi) by name, finest first."""
        maps: dict[str, Tensor] = self.fpn(self.body(x))
        return maps


def resnet_fpn(resnet: ResNet, trainable_layers: int) -> BackboneWithFPN:
    """A ResNet with a pyramid over its four stages: maps `0`..`3` at strides 4 to 32, and `pool` at 64.

    Args:
        resnet: taken apart, and frozen as follows.
        trainable_layers: how many of its five parts, counted from the last stage, are trained; 0 to 5.
    """
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, child in resnet.named_children():
        if name not in trained:
            child.requires_grad_(False)
    width = resnet.fc.in_features // 8
    return BackboneWithFPN(
        resnet,
        return_layers={f"layer{stage + 1}": str(stage) for stage in range(4)},
        in_channels=[width * 2**stage for stage in range(4)],
    )


def resnet50_fpn(
    weights: WeightsEnum | None,
    weights_backbone: WeightsEnum | None,
    trainable_layers: int | None,
    *,
    progress: bool,
) -> BackboneWithFPN:
    """The backbone of a detector that takes `weights` later, or `weights_backbone` now, or neither.

    Batch norm keeps its statistics where there are trained ones: detection batches are too small to renew them.

    Raises:
        InvalidArgumentError: `trainable_layers` is not in [0, 5].
    """
    if weights is not None:
        weights_backbone = None
    is_trained = weights is not None or weights_backbone is not None
    trainable = num_trainable_layers(trainable_layers, is_trained=is_trained, most=5, default=3)
    resnet = resnet50(
        weights=weights_backbone,
        progress=progress,
        norm_layer=FrozenBatchNorm2d if is_trained else nn.BatchNorm2d,
    )
    return resnet_fpn(resnet, trainable)


def drop_norm_eps(model: nn.Module) -> None:
    """Set the epsilon of frozen batch norms to 0, which is what the first COCO weights were trained with."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0


def num_trainable_layers(requested: int | None, *, is_trained: bool, most: int, default: int) -> int:
    """How many parts of the backbone to train.

    Args:
        requested: None for the default.
        is_trained: whether the backbone has trained weights; parts of a random one are never frozen.
        most: how many parts it has.
        default: for a trained backbone.

    Raises:
        InvalidArgumentError: not in [0, most].
    """
    if requested is not None and requested not in range(most + 1):
        raise InvalidArgumentError(f"trainable_backbone_layers must be in [0, {most}], got {requested!r}")
    if is_trained:
        return default if requested is None else requested
    if requested is not None:
        warnings.warn(
            f"trainable_backbone_layers={requested} has no effect without weights or weights_backbone: all {most} "
            "parts of a random backbone are trained",
            UserWarning,
            stacklevel=2,
        )
    return most
