"""Convolutional classifiers beyond what equals the reference: training, options, and refusals."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoofleet import models
from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import StochasticDepth
from zoofleet.models.convnext import ConvNeXt
from zoofleet.models.efficientnet import EfficientNet
from zoofleet.models.regnet import RegNet
from zoofleet.models.shufflenetv2 import InvertedResidual, ShuffleNetV2
from zoofleet.models.squeezenet import SqueezeNet

# A small model of each family, and the side of the images it is trained on here.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "mnasnet0_5": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "vgg11_bn": 32,
}


def _images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "side"), FAMILIES.items())
def test_a_training_step_reaches_every_parameter(name: str, side: int) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, num_classes=5).train()
    logits = model(_images(4, side))
    assert logits.shape == (4, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("alexnet", {}),
        ("densenet121", {"drop_rate": 0.5}),
        ("efficientnet_b0", {}),
        ("convnext_tiny", {"layer_scale": 1.0}),
        ("mnasnet0_5", {}),
        ("mobilenet_v3_small", {}),
        ("squeezenet1_0", {}),
        ("vgg11", {}),
    ],
)
def test_chance_enters_in_training_alone(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, **options)
    # Batch norm too differs between training and evaluation, but not from one call to the next.
    x = _images(2, 64)
    with torch.no_grad():
        trained = [model.train()(x) for _ in range(2)]
        evaluated = [model.eval()(x) for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*evaluated)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_b0", {"dropout": 0.0, "stochastic_depth_prob": 0.0}),
        ("efficientnet_v2_s", {"dropout": 0.0, "stochastic_depth_prob": 0.0}),
        ("convnext_tiny", {"stochastic_depth_prob": 0.0}),
        ("alexnet", {"dropout": 0.0}),
        ("mnasnet0_5", {"dropout": 0.0}),
        ("mobilenet_v3_small", {"dropout": 0.0}),
        ("squeezenet1_0", {"dropout": 0.0}),
        ("vgg11", {"dropout": 0.0}),
    ],
)
def test_options_take_chance_out_of_training(name: str, options: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, **options).train()
    x = _images(2, 64)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))


def _drops(model: nn.Module) -> list[float]:
    return [m.p for m in model.modules() if isinstance(m, StochasticDepth)]


def test_blocks_are_dropped_more_often_the_later_they_come() -> None:
    drops = _drops(models.efficientnet_b0(stochastic_depth_prob=0.4))
    assert drops == pytest.approx([0.4 * i / 16 for i in range(16)])
    drops = _drops(models.convnext_tiny(stochastic_depth_prob=0.4))
    assert drops == pytest.approx([0.4 * i / 17 for i in range(18)])


@pytest.mark.parametrize(
    ("name", "epsilon"), [("efficientnet_b4", 1e-5), ("efficientnet_b5", 1e-3), ("efficientnet_v2_s", 1e-3)]
)
def test_sizes_of_efficientnet_differ_in_their_norms(name: str, epsilon: float) -> None:
    assert {m.eps for m in models.get_model(name).modules() if isinstance(m, nn.BatchNorm2d)} == {epsilon}


@pytest.mark.parametrize("name", ["efficientnet_b5", "efficientnet_v2_s", "regnet_x_400mf", "mobilenet_v3_small"])
def test_norm_layer_replaces_every_norm(name: str) -> None:
    model = models.get_model(name, norm_layer=functools.partial(nn.GroupNorm, 1))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert norms
    assert {type(m) for m in norms} == {nn.GroupNorm}
    assert model.eval()(_images(1, 32)).shape == (1, 1000)


def test_convnext_takes_a_norm_for_between_its_stages() -> None:
    model = models.convnext_tiny(norm_layer=nn.BatchNorm2d)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 5
    assert model.eval()(_images(1, 32)).shape == (1, 1000)


def test_regnet_takes_an_activation_and_a_stem() -> None:
    model = models.regnet_y_400mf(activation=nn.SiLU, stem_width=16)
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert model.eval()(_images(1, 32)).shape == (1, 1000)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_mobilenet_v3_can_be_dilated_reduced_and_narrowed(name: str) -> None:
    plain = models.get_model(name).eval()
    dilated = models.get_model(name, dilated=True).eval()
    dilated.load_state_dict(plain.state_dict())
    x = _images(1, 64)
    small, large = plain.get_submodule("features")(x), dilated.get_submodule("features")(x)
    assert [2 * side for side in small.shape[2:]] == list(large.shape[2:])
    size, *smaller = (
        sum(p.numel() for p in models.get_model(name, **options).parameters())
        for options in ({}, {"reduced_tail": True}, {"width_mult": 0.5})
    )
    assert max(smaller) < size


@pytest.mark.parametrize("name", ["vgg11", "googlenet", "inception_v3"])
def test_initialisation_can_be_left_to_torch(name: str) -> None:
    model = models.get_model(name, init_weights=False)
    for module in model.modules():
        if isinstance(module, nn.Linear):  # torch draws from a uniform distribution with this bound
            assert module.weight.abs().max() <= module.in_features**-0.5


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: SqueezeNet("1_2"), "'1_2'"),
        (lambda: ShuffleNetV2((4, 8), (24, 48, 96, 192, 1024)), r"\(4, 8\)"),
        (lambda: ShuffleNetV2((4, 8, 4), (24, 48)), r"\(24, 48\)"),
        (lambda: InvertedResidual(24, 48, 1), "inp=24, oup=48, stride=1"),
        (lambda: InvertedResidual(24, 48, 4), "stride=4"),
        (lambda: InvertedResidual(24, 49, 2), "oup=49"),
        (lambda: EfficientNet([], 0.2), "none"),
        (lambda: RegNet((1, 2), (32,), 16), r"depths=\(1, 2\), widths=\(32,\)"),
        (lambda: RegNet((1, 2), (32, 56), 16), r"widths=\(32, 56\), group_width=16"),
        (lambda: RegNet((1,), (32,), 0), "group_width=0"),
        (lambda: RegNet((), (), 16), r"depths=\(\), widths"),
        (lambda: ConvNeXt((3, 3), (96,)), r"depths=\(3, 3\), dims=\(96,\)"),
        (lambda: ConvNeXt((), ()), r"depths=\(\)"),
        (lambda: StochasticDepth(1.5), "1.5"),
        (lambda: StochasticDepth(-0.1), "-0.1"),
        (lambda: StochasticDepth(float("nan")), "nan"),
    ],
)
def test_impossible_configurations_are_refused_by_value(build: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(InvalidArgumentError, match=named):
        build()


def test_stochastic_depth_drops_samples_whole_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    y = layer(x)
    first = y[:, :1, :1]
    assert torch.equal(y, first.expand_as(y))
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert first.mean().item() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x
    assert not StochasticDepth(1)(x).any()
    assert StochasticDepth(0)(x) is x
