"""GoogLeNet and Inception v3: auxiliary heads, and what published weights change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoofleet import models
from zoofleet.models import GoogLeNet_Weights, GoogLeNetOutputs, Inception_V3_Weights, InceptionOutputs, WeightsEnum

HEADS = {"googlenet": {"aux1", "aux2"}, "inception_v3": {"AuxLogits"}}
WEIGHTS = {"googlenet": GoogLeNet_Weights.IMAGENET1K_V1, "inception_v3": Inception_V3_Weights.IMAGENET1K_V1}

families = pytest.mark.parametrize("name", list(HEADS))


def _small(name: str, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    return models.get_model(name, num_classes=5, init_weights=False, **options)


def _images(name: str) -> Tensor:
    side = 299 if name == "inception_v3" else 64
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))


def _heads(model: nn.Module) -> set[str]:
    return {key.partition(".")[0] for key in model.state_dict()} & {"aux1", "aux2", "AuxLogits"}


@families
def test_training_returns_the_heads_logits_and_reaches_every_parameter(name: str) -> None:
    model = _small(name).train()
    outputs = model(_images(name))
    if name == "googlenet":
        assert isinstance(outputs, GoogLeNetOutputs)
        assert outputs._fields == ("logits", "aux_logits2", "aux_logits1")
    else:
        assert isinstance(outputs, InceptionOutputs)
        assert outputs._fields == ("logits", "aux_logits")
    assert {tuple(logits.shape) for logits in outputs} == {(2, 5)}
    loss = sum((nn.functional.cross_entropy(logits, torch.tensor([0, 1])) for logits in outputs), torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_googlenet_names_its_heads_by_their_place() -> None:
    model = _small("googlenet").train()
    nn.init.zeros_(model.get_parameter("aux1.fc2.weight"))
    nn.init.ones_(model.get_parameter("aux1.fc2.bias"))
    outputs = model(_images("googlenet"))
    assert (outputs.aux_logits1 == 1).all()
    assert (outputs.aux_logits2 != 1).any()


@families
def test_without_heads_training_returns_logits_alone(name: str) -> None:
    model = _small(name, aux_logits=False).train()
    assert _heads(model) == set()
    assert model(_images(name)).shape == (2, 5)


@families
def test_evaluation_is_the_same_with_and_without_heads(name: str) -> None:
    model, bare = _small(name).eval(), _small(name, aux_logits=False).eval()
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if k.partition(".")[0] not in HEADS[name]})
    with torch.inference_mode():
        assert torch.equal(model(_images(name)), bare(_images(name)))


@families
def test_transform_input_turns_imagenet_scale_into_minus_one_to_one(name: str) -> None:
    model = _small(name, transform_input=True).eval()
    plain = _small(name).eval()
    pixels = _images(name).sigmoid()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(model((pixels - mean) / std), plain(2 * pixels - 1), rtol=1e-4, atol=1e-5)


@families
def test_published_weights_bring_their_input_and_no_untrained_heads(
    name: str, publish: Callable[[WeightsEnum, dict[str, Any]], None]
) -> None:
    original = models.get_model(name, init_weights=False, transform_input=True).eval()
    publish(WEIGHTS[name], original.state_dict())
    kept = {"googlenet": set[str](), "inception_v3": {"AuxLogits"}}[name]
    for options, heads in (({}, kept), ({"aux_logits": True}, HEADS[name]), ({"aux_logits": False}, set[str]())):
        model = models.get_model(name, weights=WEIGHTS[name], progress=False, **options).eval()
        assert _heads(model) == heads
        with torch.inference_mode():
            assert torch.equal(model(_images(name)), original(_images(name)))
