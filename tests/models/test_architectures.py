"""Options of the shared layers and classifiers that no published builder sets by default."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models import mobilenet_v2, mobilenet_v3_large, resnet50
from zoofleet.models._layers import Conv2dNormActivation, Conv3dNormActivation, make_divisible
from zoofleet.models._utils import IntermediateLayerGetter
from zoofleet.models.resnet import BasicBlock, Bottleneck, ResNet

LAYERS = {"layer1": "1", "layer2": "2", "layer3": "3", "layer4": "4"}


def _sides(model: ResNet) -> list[int]:
    with torch.inference_mode():
        return [x.shape[-1] for x in IntermediateLayerGetter(model.eval(), LAYERS)(torch.zeros(1, 3, 64, 64)).values()]


@pytest.mark.parametrize(
    ("dilate", "sides"),
    [
        ((False, False, False), [16, 8, 4, 2]),
        ((False, True, True), [16, 8, 8, 8]),
        ((False, False, True), [16, 8, 4, 4]),
    ],
)
def test_dilation_stands_in_for_strides(dilate: tuple[bool, ...], sides: list[int]) -> None:
    assert _sides(resnet50(replace_stride_with_dilation=dilate)) == sides


def test_the_first_block_of_a_dilated_stage_keeps_the_dilation_before() -> None:
    model = resnet50(replace_stride_with_dilation=(False, True, True))
    used = [
        [m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for stage in (model.layer2, model.layer3, model.layer4)
    ]
    assert used == [[1] * 4, [1, 2, 2, 2, 2, 2], [2, 4, 4]]


@torch.inference_mode()
def test_blocks_may_start_as_the_identity() -> None:
    block = ResNet(Bottleneck, (2, 1, 1, 1), zero_init_residual=True).layer1[1].eval()
    x = torch.rand(1, 256, 4, 4)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("options", [{"groups": 2}, {"base_width": 128}, {"dilation": 2}])
def test_basic_blocks_are_plain(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="BasicBlock has groups=1"):
        BasicBlock(8, 8, **options)


@pytest.mark.parametrize(("layers", "dilate"), [((1, 1, 1), (False,) * 3), ((1,) * 4, (True,))])
def test_resnets_have_four_stages(layers: tuple[int, ...], dilate: tuple[bool, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="4 stages and 3 choices"):
        ResNet(BasicBlock, layers, replace_stride_with_dilation=dilate)


def test_other_normalisations_reach_every_block() -> None:
    for build in (resnet50, mobilenet_v2, mobilenet_v3_large):
        model = build(norm_layer=lambda channels: nn.GroupNorm(1, channels))
        assert any(isinstance(m, nn.GroupNorm) for m in model.modules())
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@torch.inference_mode()
def test_mobilenet_v3_dilates_its_last_stage_for_segmentation() -> None:
    x = torch.zeros(1, 3, 64, 64)
    assert mobilenet_v3_large().eval().features(x).shape == (1, 960, 2, 2)
    assert mobilenet_v3_large(dilated=True).eval().features(x).shape == (1, 960, 4, 4)


@torch.inference_mode()
def test_mobilenet_v3_halves_its_last_stage_for_detection() -> None:
    model = mobilenet_v3_large(reduced_tail=True, num_classes=5).eval()
    assert model.features(torch.zeros(1, 3, 64, 64)).shape == (1, 480, 2, 2)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_features_keep_their_names_and_end_with_the_last_one_needed() -> None:
    model = resnet50()
    body = IntermediateLayerGetter(model, {"layer3": "high", "layer1": "low"})
    assert list(body) == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    assert body["layer1"] is model.layer1
    assert set(body.state_dict()) < set(model.state_dict())
    with torch.inference_mode():
        found = body.eval()(torch.zeros(1, 3, 64, 64))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"low": (1, 256, 16, 16), "high": (1, 1024, 4, 4)}


def test_features_that_do_not_exist_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no layers \['layer5'\]"):
        IntermediateLayerGetter(resnet50(), {"layer1": "a", "layer5": "b"})


@torch.inference_mode()
def test_convolutions_keep_the_size_unless_they_stride() -> None:
    assert Conv2dNormActivation(3, 4, kernel_size=(1, 5), dilation=2)(torch.zeros(1, 3, 9, 9)).shape == (1, 4, 9, 9)
    conv = Conv3dNormActivation(3, 4, kernel_size=(3, 1, 1), stride=(2, 1, 1), norm_layer=nn.BatchNorm3d)
    assert conv(torch.zeros(1, 3, 8, 5, 5)).shape == (1, 4, 4, 5, 5)
    assert "0.bias" not in conv.state_dict()
    assert "0.bias" in Conv2dNormActivation(3, 4, norm_layer=None).state_dict()


@pytest.mark.parametrize(("value", "expected"), [(1, 8), (12, 16), (18, 24), (32 * 0.35, 16), (1280, 1280)])
def test_channels_are_multiples_of_8_and_hardly_fewer(value: float, expected: int) -> None:
    assert make_divisible(value) == expected
