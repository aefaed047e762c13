"""FCN's and DeepLabV3's options, auxiliary heads and errors; equality with the reference is checked in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import reference
from torch import Tensor, nn

from zoofleet import _catalog, models
from zoofleet.errors import InvalidArgumentError, UnknownWeightsError
from zoofleet.models.segmentation import deeplabv3_mobilenet_v3_large, fcn_resnet50
from zoofleet.models.segmentation.deeplabv3 import ASPP

# Builder, children of its backbone, channels of the auxiliary features and height of all features of a 64x96 image.
BUILDERS = {
    "fcn_resnet50": (["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"], 1024, 8, 8),
    "deeplabv3_resnet50": (["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"], 1024, 8, 8),
    "deeplabv3_mobilenet_v3_large": ([str(i) for i in range(17)], 40, 8, 4),
}


def _images(n: int = 1, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def _build(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.get_model(name, weights_backbone=None, **options)


@pytest.mark.parametrize("name", BUILDERS)
def test_an_auxiliary_head_reads_earlier_features(name: str) -> None:
    children, channels, aux_height, out_height = BUILDERS[name]
    model = _build(name, num_classes=3, aux_loss=True).eval()
    assert list(model.get_submodule("backbone")._modules) == children
    with torch.inference_mode():
        features = model.get_submodule("backbone")(_images())
        results = model(_images())
    assert [features[key].shape[2] for key in ("aux", "out")] == [aux_height, out_height]
    assert features["aux"].shape[1] == channels
    assert {key: tuple(logits.shape) for key, logits in results.items()} == dict.fromkeys(
        ["out", "aux"], (1, 3, 64, 96)
    )
    assert not torch.allclose(results["out"], results["aux"])


@pytest.mark.parametrize("name", [n for n, b in _catalog.builders().items() if b.task == "segmentation"])
def test_published_weights_have_auxiliary_heads(name: str) -> None:
    published = models.get_model_weights(name).DEFAULT.meta["num_params"]
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    assert sum(p.numel() for p in _build(name, **options).parameters()) == published


@pytest.mark.parametrize("name", BUILDERS)
def test_auxiliary_head_follows_the_state_dict_without_it(name: str) -> None:
    without = reference.load(f"state_dicts/{name}.json")
    state = reference.describe(_build(name, aux_loss=True).state_dict())
    assert state[: len(without)] == without
    assert {key.split(".")[0] for key, *_ in state[len(without) :]} == {"aux_classifier"}


@pytest.mark.parametrize("name", BUILDERS)
def test_both_losses_train_what_they_see(name: str) -> None:
    model = _build(name, num_classes=3, aux_loss=True).train()
    results = model(_images(2, 32, 32))

    model.zero_grad()
    results["aux"].square().sum().backward(retain_graph=True)
    heads = {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None}
    assert heads == {"backbone", "aux_classifier"}

    results["out"].square().sum().backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    first = next(model.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


@pytest.mark.parametrize(("height", "width"), [(37, 51), (1, 1), (1, 200)])
@torch.inference_mode()
def test_logits_have_the_size_of_the_input(height: int, width: int) -> None:
    results = _build("deeplabv3_mobilenet_v3_large").eval()(_images(2, height, width))
    assert list(results) == ["out"]
    assert results["out"].shape == (2, 21, height, width) and results["out"].isfinite().all()


def test_weights_bring_their_head_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = deeplabv3_mobilenet_v3_large(weights_backbone=None, aux_loss=True).state_dict()
    weights = models.get_weight("DeepLabV3_MobileNet_V3_Large_Weights.DEFAULT")
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: expected)
    loaded = deeplabv3_mobilenet_v3_large(weights=weights).state_dict()
    assert list(loaded) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)


def test_weights_do_not_go_without_their_head_or_classes() -> None:
    with pytest.raises(InvalidArgumentError, match="has aux_loss=True, got False"):
        fcn_resnet50(weights="DEFAULT", aux_loss=False)
    with pytest.raises(InvalidArgumentError, match="has num_classes=21, got 3"):
        deeplabv3_mobilenet_v3_large(weights="DEFAULT", num_classes=3)
    with pytest.raises(UnknownWeightsError, match="COCO_WITH_VOC_LABELS_V1"):
        fcn_resnet50(weights="IMAGENET1K_V1")
    with pytest.raises(UnknownWeightsError, match="IMAGENET1K_V2"):
        fcn_resnet50(weights_backbone="COCO_WITH_VOC_LABELS_V1")


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(N, 3, H, W\)"):
        deeplabv3_mobilenet_v3_large(weights_backbone=None)(torch.zeros(shape))


@torch.inference_mode()
def test_pyramid_branches_see_one_pixel_its_surroundings_and_the_image() -> None:
    torch.manual_seed(0)
    aspp = ASPP(2, atrous_rates=(3,), out_channels=4).eval()
    x = torch.randn(1, 2, 9, 9)
    changed = x.clone()
    changed[0, :, 4, 4] += 1
    touched = [(branch(x) != branch(changed)).any(dim=1)[0] for branch in aspp.convs]
    assert {tuple(i) for i in touched[0].nonzero().tolist()} <= {(4, 4)}
    assert {tuple(i) for i in touched[1].nonzero().tolist()} <= {(r, c) for r in (1, 4, 7) for c in (1, 4, 7)}
    assert touched[1].sum() > touched[0].sum() >= 1
    assert touched[2].all()
    assert aspp(x).shape == (1, 4, 9, 9)
