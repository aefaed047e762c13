"""Constructors take what code written for the reference passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from zoofleet import models
from zoofleet.errors import InvalidArgumentError
from zoofleet.models.mobilenetv3 import InvertedResidualConfig

BLOCK = InvertedResidualConfig(8, 3, 16, 8, False, "RE", 2, 1, 1.0)

NONE_MEANS_DEFAULT: list[tuple[Callable[..., nn.Module], list[str]]] = [
    (models.resnet18, ["norm_layer", "replace_stride_with_dilation"]),
    (models.mobilenet_v2, ["norm_layer", "block", "inverted_residual_setting"]),
    (models.mobilenet_v3_small, ["norm_layer", "block"]),
    (models.efficientnet_b0, ["norm_layer", "last_channel"]),
    (models.regnet_y_400mf, ["norm_layer", "activation"]),
    (models.convnext_tiny, ["norm_layer"]),
    (models.swin_t, ["norm_layer", "block"]),
]


@pytest.mark.parametrize(("builder", "options"), NONE_MEANS_DEFAULT, ids=lambda v: getattr(v, "__name__", ""))
def test_none_is_the_default(builder: Callable[..., nn.Module], options: list[str]) -> None:
    with torch.device("meta"):
        assert repr(builder(**dict.fromkeys(options))) == repr(builder())


def test_classes_take_their_options_by_position() -> None:
    with torch.device("meta"):
        assert models.MobileNetV2(10, 0.5, [[1, 16, 1, 1], [6, 24, 2, 2]], 4).classifier[1].out_features == 10
        assert models.MobileNetV3([BLOCK], 32, 10).classifier[-1].out_features == 10
        resnet = models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 10, True, 1, 64, [False, True, True])
    assert resnet.layer4[0].conv2.stride == (1, 1) and resnet.layer4[0].conv2.dilation == (2, 2)


@torch.inference_mode()
def test_mobilenets_stages_may_be_given() -> None:
    model = models.mobilenet_v2(inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]], num_classes=3).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert model.features(torch.zeros(1, 3, 64, 64)).shape[-2:] == (16, 16)
    for wrong in ([], [[1, 16, 1]]):
        with pytest.raises(InvalidArgumentError, match="stages of expansion, channels, blocks, stride"):
            models.mobilenet_v2(inverted_residual_setting=wrong)
