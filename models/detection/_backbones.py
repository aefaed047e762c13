"""Backbones of detectors: classifiers cut open, with a feature pyramid, and frozen as far as asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._features import FeatureExtractor
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.mobilenet_v3 import InvertedResidual, mobilenet_v3_large
from zoofleet.models.ops import ExtraFPNBlock, FeaturePyramidNetwork, FrozenBatchNorm2d, LastLevelMaxPool
from zoofleet.models.resnet import ResNet, resnet50

__all__ = [
    "BackboneWithFPN",
    "drop_norm_eps",
    "freeze_first",
    "mobilenet_parts",
    "mobilenet_v3_large_fpn",
    "num_trainable_layers",
    "resnet50_fpn",
    "resnet_fpn",
]

NormLayer = Callable[..., nn.Module]


class BackboneWithFPN(nn.Module):
    """A network with a feature pyramid over several of its results, and further maps above it.

    Args:
        backbone: the network; its children are shared, not copied.
        return_layers: its children's names to the names of their maps, finest first.
        in_channels: channels of these maps.
        out_channels: channels of every map of the pyramid.
        extra_blocks: adds maps; None for a pooled one.
        norm_layer: of the pyramid; None for none.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        return_layers: Mapping[str, str],
        in_channels: Sequence[int],
        out_channels: int = 256,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        self.body = FeatureExtractor(backbone, return_layers)
        self.fpn = FeaturePyramidNetwork(in_channels, out_channels, extra_blocks or LastLevelMaxPool(), norm_layer)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to the pyramid's maps (N, out_channels, Hi, Wi) by name, finest first."""
        maps: dict[str, Tensor] = self.fpn(self.body(x))
        return maps


def resnet_fpn(
    resnet: ResNet,
    trainable_layers: int,
    *,
    first_stage: int = 1,
    extra_blocks: ExtraFPNBlock | None = None,
    norm_layer: NormLayer | None = None,
) -> BackboneWithFPN:
    """A ResNet with a pyramid over its stages: maps `0`..`3` at strides 4 to 32, and those of `extra_blocks`.

    Args:
        resnet: taken apart, and frozen as follows.
        trainable_layers: how many of its five parts, counted from the last stage, are trained; 0 to 5.
        first_stage: the first of the four stages that the pyramid stands on; from 2 on there are fewer maps.
        extra_blocks: as for `BackboneWithFPN`.
        norm_layer: as for `BackboneWithFPN`.
    """
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, child in resnet.named_children():
        if name not in trained:
            child.requires_grad_(False)
    stages = range(first_stage, 5)
    return BackboneWithFPN(
        resnet,
        return_layers={f"layer{stage}": str(i) for i, stage in enumerate(stages)},
        in_channels=[resnet.fc.in_features // 2 ** (4 - stage) for stage in stages],
        extra_blocks=extra_blocks,
        norm_layer=norm_layer,
    )


def resnet50_fpn(
    weights: WeightsEnum | None,
    weights_backbone: WeightsEnum | None,
    trainable_layers: int | None,
    *,
    progress: bool,
    freeze_norms: bool = True,
    first_stage: int = 1,
    extra_blocks: Callable[[], ExtraFPNBlock] = LastLevelMaxPool,
    norm_layer: NormLayer | None = None,
) -> BackboneWithFPN:
    """The backbone of a detector that takes `weights` later, or `weights_backbone` now, or neither.

    Args:
        weights: of the whole detector.
        weights_backbone: of the ResNet, unless there are `weights`.
        trainable_layers: as for `num_trainable_layers`, of five parts; 3 if left out.
        progress: write a progress line to stderr while downloading.
        freeze_norms: keep the statistics of trained batch norms, as detection batches are too small to renew them.
        first_stage: as for `resnet_fpn`.
        extra_blocks: makes those of `resnet_fpn`.
        norm_layer: as for `resnet_fpn`.

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
        norm_layer=FrozenBatchNorm2d if is_trained and freeze_norms else nn.BatchNorm2d,
    )
    return resnet_fpn(resnet, trainable, first_stage=first_stage, extra_blocks=extra_blocks(), norm_layer=norm_layer)


def mobilenet_v3_large_fpn(
    weights: WeightsEnum | None,
    weights_backbone: WeightsEnum | None,
    trainable_layers: int | None,
    *,
    progress: bool,
) -> BackboneWithFPN:
    """MobileNetV3-Large with a pyramid over its last two parts: maps `0` and `1` at stride 32, and `pool` at 64.

    Args are those of `resnet50_fpn`, but for six parts.

    Raises:
        InvalidArgumentError: `trainable_layers` is not in [0, 6].
    """
    if weights is not None:
        weights_backbone = None
    is_trained = weights is not None or weights_backbone is not None
    trainable = num_trainable_layers(trainable_layers, is_trained=is_trained, most=6, default=3)
    features = mobilenet_v3_large(
        weights=weights_backbone,
        progress=progress,
        norm_layer=FrozenBatchNorm2d if is_trained else nn.BatchNorm2d,
    ).features
    layers = list(features)
    parts = mobilenet_parts(layers)
    freeze_first(layers, parts, trainable)
    return BackboneWithFPN(
        features,
        return_layers={str(part): str(i) for i, part in enumerate(parts[-2:])},
        in_channels=[layers[part].out_channels for part in parts[-2:]],  # type: ignore[misc]
    )


def mobilenet_parts(layers: Sequence[nn.Module]) -> list[int]:
    """Where the parts of a MobileNetV3 begin: its first layer, each that begins a new resolution, and the last."""
    strided = [i for i, layer in enumerate(layers) if isinstance(layer, InvertedResidual) and layer.strided]
    return [0, *strided, len(layers) - 1]


def freeze_first(layers: Sequence[nn.Module], parts: Sequence[int], trainable_layers: int) -> None:
    """Freeze all but the last parts of a network.

    Args:
        layers: of the network, in order.
        parts: indices of the layers at which its parts begin.
        trainable_layers: how many parts are left to train; 0 to `len(parts)`.
    """
    end = len(layers) if trainable_layers == 0 else parts[-trainable_layers]
    for layer in layers[:end]:
        layer.requires_grad_(False)


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
