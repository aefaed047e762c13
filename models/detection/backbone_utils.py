"""Backbones of detectors: classifiers cut open, with a feature pyramid, and frozen as far as asked.

Letters in shapes: N images, C channels, H and W pixels, Hi and Wi cells of feature map i.
"""

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
    "freeze_mobilenet",
    "mobilenet_backbone",
    "mobilenet_fpn",
    "mobilenet_v3_large_fpn",
    "num_trainable_layers",
    "resnet50_fpn",
    "resnet_fpn",
    "resnet_fpn_backbone",
]

NormLayer = Callable[..., nn.Module]


class BackboneWithFPN(nn.Module):
    """A network with a feature pyramid over the results of several of its children.

    Args:
        backbone: the network; its children are shared, not copied.
        return_layers: names of the children that the pyramid stands on, each with the name of its map, the finest
            first.
        in_channels_list: channels of these children's results.
        out_channels: channels of every map of the pyramid.
        extra_blocks: adds maps above the pyramid; None for one pooled from the coarsest map.
        norm_layer: makes the layer after each of the pyramid's convolutions from its number of channels; None for no
            such layer.
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
        """Turn images (N, 3, H, W) into maps (N, out_channels, Hi, Wi) by name, the finest first."""
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
    """Build a feature pyramid over the stages of a ResNet: maps `0`, `1`, `2` and `3` at strides 4, 8, 16 and 32.

    Args:
        resnet: the network; it is taken apart, and its first parts are frozen.
        trainable_layers: how many of its five parts, counted from the last stage, are left to train; 0 to 5.
        returned_layers: the stages, 1 to 4, that the pyramid stands on; the maps are numbered from 0 whichever they
            are.
        extra_blocks: adds maps above the pyramid; None for one pooled from the coarsest map.
        norm_layer: makes the layer after each of the pyramid's convolutions from its number of channels; None for no
            such layer.

    Raises:
        InvalidArgumentError: there are not so many parts, or no such stage.
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
    """Build a feature pyramid over some parts of a MobileNet's features.

    A part begins with the first layer, with each that halves the resolution, and with the last.

    Args:
        features: the network's layers; they are taken apart, and the first parts frozen.
        trainable_layers: how many parts, counted from the last, are left to train.
        returned_layers: the parts, from 0, whose first layers the pyramid stands on; None for the last two.
        extra_blocks: adds maps above the pyramid; None for one pooled from the coarsest map.
        norm_layer: makes the layer after each of the pyramid's convolutions from its number of channels; None for no
            such layer.

    Raises:
        InvalidArgumentError: there are not so many parts, or no such part.
    """
    layers = list(features)
    parts = freeze_mobilenet(layers, trainable_layers)
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
    """Build the model of that name, whose builder must be in the module of one of the classes."""
    if get_model_builder(name).__module__ not in {cls.__module__ for cls in classes}:
        wanted = " or ".join(cls.__name__ for cls in classes)
        raise InvalidArgumentError(f"backbone_name must be that of a builder of {wanted}, got {name!r}")
    return get_model(name, **options)


def _with_old_arguments(fn: Callable[..., nn.Module]) -> Callable[..., Any]:
    """Let a function take positional arguments and `pretrained` too, as registered builders do."""
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
    """Build a ResNet with a feature pyramid over its stages, for a detector.

    Args:
        backbone_name: name of a ResNet's builder, such as `resnet50`.
        weights: weights of the ResNet, as a member of its enum, the name of one, or None for random ones.
        norm_layer: makes the normalisation after each of the ResNet's convolutions from its number of channels.
        trainable_layers: how many of its five parts, counted from the last stage, are left to train; 0 to 5.
        returned_layers: the stages, 1 to 4, that the pyramid stands on; None for all.
        extra_blocks: adds maps above the pyramid; None for one pooled from the coarsest map.

    Raises:
        InvalidArgumentError: the builder is one of another network, there are not so many parts, or no such stage.
        UnknownModelError: there is no builder of that name.
        UnknownWeightsError: there are no weights of that name.
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
    """Build a MobileNet as a detector's backbone.

    A part begins with the first layer, with each that halves the resolution, and with the last.

    Args:
        backbone_name: name of a MobileNet's builder, such as `mobilenet_v3_large`.
        weights: weights of the MobileNet, as a member of its enum, the name of one, or None for random ones.
        fpn: whether to build a feature pyramid over several of its parts; else there is one map of 256 channels.
        norm_layer: makes the normalisation after each of the MobileNet's convolutions from its number of channels.
        trainable_layers: how many of its parts, counted from the last, are left to train.
        returned_layers: the parts, from 0, whose first layers the pyramid stands on; None for the last two.
        extra_blocks: adds maps above the pyramid; None for one pooled from the coarsest map.

    Raises:
        InvalidArgumentError: the builder is one of another network, there are not so many parts, or no such part.
        UnknownModelError: there is no builder of that name.
        UnknownWeightsError: there are no weights of that name.
    """
    network = _network(backbone_name, (MobileNetV2, MobileNetV3), weights=weights, norm_layer=norm_layer)
    if fpn:
        return mobilenet_fpn(
            network.features, trainable_layers, returned_layers=returned_layers, extra_blocks=extra_blocks
        )
    freeze_mobilenet(list(network.features), trainable_layers)
    backbone = nn.Sequential(network.features, nn.Conv2d(network.features[-1].out_channels, 256, 1))
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
    """Build ResNet-50 with a feature pyramid for a detector's builder, whose weights are loaded later.

    Args:
        weights: weights of the whole detector, which are not loaded here; None for none.
        weights_backbone: weights of the ResNet; None for random ones.
        trainable_layers: how many of its five parts, counted from the last stage, are left to train where there are
            weights; None for 3.
        progress: whether to write a progress line to stderr while the weights are downloaded.
        freeze_norms: whether to keep the statistics of trained batch norms, as detection batches are too small to renew
            them.
        returned_layers: the stages, 1 to 4, that the pyramid stands on.
        extra_blocks: makes what adds maps above the pyramid.
        norm_layer: makes the layer after each of the pyramid's convolutions from its number of channels; None for no
            such layer.

    Raises:
        InvalidArgumentError: `trainable_layers` is not in [0, 5].
    """
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
    """Build MobileNetV3-Large with a feature pyramid for a detector's builder, whose weights are loaded later.

    The pyramid stands on the last two parts: its maps are `0` and `1` at stride 32, and `pool` at 64.

    Args:
        weights: weights of the whole detector, which are not loaded here; None for none.
        weights_backbone: weights of the MobileNet; None for random ones.
        trainable_layers: how many of its six parts, counted from the last, are left to train where there are weights;
            None for 3.
        progress: whether to write a progress line to stderr while the weights are downloaded.

    Raises:
        InvalidArgumentError: `trainable_layers` is not in [0, 6].
    """
    is_trained = weights is not None or weights_backbone is not None
    trainable = num_trainable_layers(trainable_layers, is_trained=is_trained, most=6, default=3)
    features = mobilenet_v3_large(
        weights=weights_backbone,
        progress=progress,
        norm_layer=FrozenBatchNorm2d if is_trained else nn.BatchNorm2d,
    ).features
    return mobilenet_fpn(features, trainable)


def freeze_mobilenet(layers: Sequence[nn.Module], trainable_layers: int) -> list[int]:
    """Freeze all but the last parts of a MobileNet's features.

    Args:
        layers: the layers, in order.
        trainable_layers: how many parts, counted from the last, are left to train.

    Returns:
        The indices of the layers at which the parts begin: the first layer, each that halves the resolution, and the
        last.

    Raises:
        InvalidArgumentError: there are not so many parts.
    """
    strided = [i for i, layer in enumerate(layers) if getattr(layer, "strided", False)]
    parts = [0, *strided, len(layers) - 1]
    _check_parts(trainable_layers, len(parts))
    freeze_first(layers, parts, trainable_layers)
    return parts


def freeze_first(layers: Sequence[nn.Module], parts: Sequence[int], trainable_layers: int) -> None:
    """Freeze all but the last parts of a network.

    Args:
        layers: the network's layers, in order.
        parts: indices of the layers at which its parts begin.
        trainable_layers: how many parts are left to train; 0 to `len(parts)`.
    """
    end = len(layers) if trainable_layers == 0 else parts[-trainable_layers]
    for layer in layers[:end]:
        layer.requires_grad_(False)


def drop_norm_eps(model: nn.Module, *, weights: WeightsEnum | None = None) -> None:
    """Set the epsilon of frozen batch norms to 0 where a model has the weights COCO_V1, which were trained so.

    A step that detectors' builders take after their weights are loaded.

    Args:
        model: the detector.
        weights: its weights; None for random ones.
    """
    if weights is not None and weights.name == "COCO_V1":
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0


def num_trainable_layers(requested: int | None, *, is_trained: bool, most: int, default: int) -> int:
    """Return how many parts of a backbone to train, counted from the last.

    Args:
        requested: how many its user asks for; None for the default.
        is_trained: whether the backbone has trained weights; all parts of a random one are trained, with a warning
            where something else is requested.
        most: how many parts it has.
        default: how many are trained where it has trained weights and nothing is requested.

    Raises:
        InvalidArgumentError: `requested` is not in [0, most].
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
