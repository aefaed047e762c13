"""Backbones of detectors: classifiers cut open, with a feature pyramid, and frozen as far as asked."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._legacy import by_name, resolve
from zoofleet.models._registry import get_model, get_model_builder, get_model_weights
from zoofleet.models._utils import IntermediateLayerGetter
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.mobilenetv2 import MobileNetV2
from zoofleet.models.mobilenetv3 import MobileNetV3, mobilenet_v3_large
from zoofleet.models.ops import ExtraFPNBlock, FeaturePyramidNetwork, FrozenBatchNorm2d, LastLevelMaxPool
from zoofleet.models.resnet import ResNet, resnet50

__all__ = [
    "BackboneWithFPN",
    "drop_norm_eps",
    "freeze_first",
    "mobilenet_backbone",
    "mobilenet_fpn",
    "mobilenet_parts",
    "mobilenet_v3_large_fpn",
    "num_trainable_layers",
    "resnet50_fpn",
    "resnet_fpn",
    "resnet_fpn_backbone",
]

NormLayer = Callable[..., nn.Module]


class BackboneWithFPN(nn.Module):
    """A network with a feature pyramid over several of its results, and further maps above it.

    Args:
        backbone: the network; its children are shared, not copied.
        return_layers: its children's names to the names of their maps, finest first.
        in_channels_list: channels of these maps.
        out_channels: channels of every map of the pyramid.
        extra_blocks: adds maps; None for a pooled one.
        norm_layer: of the pyramid; None for none.
    """

    def __init__(
        self,
        backbone: nn.Module,
        return_layers: Mapping[str, str],
        in_channels_list: Sequence[int],
        out_channels: int,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(backbone, return_layers)
        self.fpn = FeaturePyramidNetwork(in_channels_list, out_channels, extra_blocks or LastLevelMaxPool(), norm_layer)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to the pyramid's maps (N, out_channels, Hi, Wi) by name, finest first."""
        maps: dict[str, Tensor] = self.fpn(self.body(x))
        return maps


def resnet_fpn(
    resnet: ResNet,
    trainable_layers: int,
    *,
    returned_layers: Sequence[int] = (1, 2, 3, 4),
    extra_blocks: ExtraFPNBlock | None = None,
    norm_layer: NormLayer | None = None,
) -> BackboneWithFPN:
    """A ResNet with a pyramid over its stages: maps `0`..`3` at strides 4 to 32, and those of `extra_blocks`.

    Args:
        resnet: taken apart, and frozen as follows.
        trainable_layers: how many of its five parts, counted from the last stage, are trained; 0 to 5.
        returned_layers: the stages, 1 to 4, that the pyramid stands on; fewer of them are fewer maps.
        extra_blocks: as for `BackboneWithFPN`.
        norm_layer: as for `BackboneWithFPN`.

    Raises:
        InvalidArgumentError: a number of parts or a stage that there is not.
    """
    _check_parts(trainable_layers, 5)
    if not returned_layers or not set(returned_layers) <= {1, 2, 3, 4}:
        raise InvalidArgumentError(f"returned_layers must be some of the stages 1 to 4, got {returned_layers!r}")
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, child in resnet.named_children():
        if name not in trained:
            child.requires_grad_(False)
    return BackboneWithFPN(
        resnet,
        return_layers={f"layer{stage}": str(i) for i, stage in enumerate(returned_layers)},
        in_channels_list=[resnet.fc.in_features // 2 ** (4 - stage) for stage in returned_layers],
        out_channels=256,
        extra_blocks=extra_blocks,
        norm_layer=norm_layer,
    )


def mobilenet_fpn(
    features: nn.Sequential,
    trainable_layers: int,
    *,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: ExtraFPNBlock | None = None,
    norm_layer: NormLayer | None = None,
) -> BackboneWithFPN:
    """A MobileNet's features with a pyramid over some of its parts.

    Args:
        features: taken apart, and frozen as follows.
        trainable_layers: how many of its parts, counted from the last, are trained.
        returned_layers: the parts, from 0, that the pyramid stands on; None for the last two.
        extra_blocks: as for `BackboneWithFPN`.
        norm_layer: as for `BackboneWithFPN`.

    Raises:
        InvalidArgumentError: a number of parts or a part that there is not.
    """
    layers = list(features)
    parts = mobilenet_parts(layers)
    _check_parts(trainable_layers, len(parts))
    freeze_first(layers, parts, trainable_layers)
    returned = [len(parts) - 2, len(parts) - 1] if returned_layers is None else returned_layers
    if not returned or not set(returned) <= set(range(len(parts))):
        raise InvalidArgumentError(f"returned_layers must be some of the parts 0 to {len(parts) - 1}, got {returned!r}")
    return BackboneWithFPN(
        features,
        return_layers={str(parts[part]): str(i) for i, part in enumerate(returned)},
        in_channels_list=[layers[parts[part]].out_channels for part in returned],  # type: ignore[misc]
        out_channels=256,
        extra_blocks=extra_blocks,
        norm_layer=norm_layer,
    )


def _check_parts(trainable_layers: int, most: int) -> None:
    if trainable_layers not in range(most + 1):
        raise InvalidArgumentError(f"trainable_layers must be in [0, {most}], got {trainable_layers!r}")


def _network(name: str, classes: tuple[type[nn.Module], ...], **options: Any) -> Any:
    """The model of that builder, which must be one of those in the classes' modules."""
    if get_model_builder(name).__module__ not in {cls.__module__ for cls in classes}:
        wanted = " or ".join(cls.__name__ for cls in classes)
        raise InvalidArgumentError(f"backbone_name must be that of a builder of {wanted}, got {name!r}")
    return get_model(name, **options)


def _with_old_arguments(fn: Callable[..., nn.Module]) -> Callable[..., Any]:
    """Take positional arguments and `pretrained` as well, as registered builders do."""
    names = list(inspect.signature(fn).parameters)

    @functools.wraps(fn)
    def build(*args: Any, **kwargs: Any) -> nn.Module:
        kwargs |= by_name(fn.__name__, names, args, kwargs)
        if "backbone_name" in kwargs:
            resolve(kwargs, "weights", "pretrained", get_model_weights(kwargs["backbone_name"]))
        return fn(**kwargs)

    return build


@_with_old_arguments
def resnet_fpn_backbone(
    *,
    backbone_name: str,
    weights: WeightsEnum | None,
    norm_layer: NormLayer = FrozenBatchNorm2d,
    trainable_layers: int = 3,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: ExtraFPNBlock | None = None,
) -> BackboneWithFPN:
    """A ResNet with a pyramid over its stages, for detectors.

    Args:
        backbone_name: of a ResNet's builder, such as `resnet50`.
        weights: its weights; None for random ones.
        norm_layer: of the ResNet.
        trainable_layers: how many of its five parts, counted from the last stage, are trained; 0 to 5.
        returned_layers: the stages, 1 to 4, that the pyramid stands on; None for all.
        extra_blocks: adds maps; None for a pooled one.

    Raises:
        InvalidArgumentError: another network, or a number of parts or a stage that there is not.
        UnknownModelError: no builder of that name.
    """
    network = _network(backbone_name, (ResNet,), weights=weights, norm_layer=norm_layer)
    stages = (1, 2, 3, 4) if returned_layers is None else returned_layers
    return resnet_fpn(network, trainable_layers, returned_layers=stages, extra_blocks=extra_blocks)


@_with_old_arguments
def mobilenet_backbone(
    *,
    backbone_name: str,
    weights: WeightsEnum | None,
    fpn: bool,
    norm_layer: NormLayer = FrozenBatchNorm2d,
    trainable_layers: int = 2,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: ExtraFPNBlock | None = None,
) -> nn.Module:
    """A MobileNet as a detector's backbone.

    Args:
        backbone_name: of a MobileNet's builder, such as `mobilenet_v3_large`.
        weights: its weights; None for random ones.
        fpn: with a pyramid over several of its parts; else one map of 256 channels.
        norm_layer: of the MobileNet.
        trainable_layers: how many of its parts, counted from the last, are trained.
        returned_layers: the parts, from 0, that the pyramid stands on; None for the last two.
        extra_blocks: adds maps to the pyramid; None for a pooled one.

    Raises:
        InvalidArgumentError: another network, or a number of parts or a part that there is not.
        UnknownModelError: no builder of that name.
    """
    network = _network(backbone_name, (MobileNetV2, MobileNetV3), weights=weights, norm_layer=norm_layer)
    if fpn:
        return mobilenet_fpn(
            network.features, trainable_layers, returned_layers=returned_layers, extra_blocks=extra_blocks
        )
    layers = list(network.features)
    parts = mobilenet_parts(layers)
    _check_parts(trainable_layers, len(parts))
    freeze_first(layers, parts, trainable_layers)
    last: int = layers[-1].out_channels
    backbone = nn.Sequential(network.features, nn.Conv2d(last, 256, 1))
    backbone.out_channels = 256  # type: ignore[assignment]
    return backbone


def resnet50_fpn(
    weights: WeightsEnum | None,
    weights_backbone: WeightsEnum | None,
    trainable_layers: int | None,
    *,
    progress: bool,
    freeze_norms: bool = True,
    returned_layers: Sequence[int] = (1, 2, 3, 4),
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
        returned_layers: as for `resnet_fpn`.
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
    return resnet_fpn(
        resnet, trainable, returned_layers=returned_layers, extra_blocks=extra_blocks(), norm_layer=norm_layer
    )


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
    return mobilenet_fpn(features, trainable)


def mobilenet_parts(layers: Sequence[nn.Module]) -> list[int]:
    """Where the parts of a MobileNet begin: its first layer, each that begins a new resolution, and the last."""
    strided = [i for i, layer in enumerate(layers) if getattr(layer, "strided", False)]
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
