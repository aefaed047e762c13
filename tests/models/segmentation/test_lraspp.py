"""LR-ASPP's options, errors and behaviour; equality with the reference is checked for all models in one place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError, UnknownWeightsError
from zoofleet.models.segmentation import LRASPP, lraspp_mobilenet_v3_large


def _images(n: int = 1, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> LRASPP:
    torch.manual_seed(0)
    return lraspp_mobilenet_v3_large(weights_backbone=None).eval()


@pytest.mark.parametrize(("n", "height", "width"), [(1, 64, 96), (2, 37, 51), (1, 1, 1), (1, 1, 200)])
@torch.inference_mode()
def test_logits_have_the_size_of_the_input(model: LRASPP, n: int, height: int, width: int) -> None:
    results = model(_images(n, height, width))
    assert list(results) == ["out"]
    assert results["out"].shape == (n, 21, height, width) and results["out"].isfinite().all()


@torch.inference_mode()
def test_backbone_features_have_strides_8_and_16(model: LRASPP) -> None:
    features = model.backbone(_images())
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {"low": (40, 8, 12), "high": (960, 4, 6)}


def test_number_and_width_of_classes_can_be_chosen() -> None:
    model = lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3, inter_channels=16).eval()
    with torch.inference_mode():
        assert model(_images())["out"].shape == (1, 3, 64, 96)
    assert model.classifier.high_classifier.in_channels == 16


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_wrong_shapes_are_refused(model: LRASPP, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(N, 3, H, W\)"):
        model(torch.zeros(shape))


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(UnknownWeightsError, match="COCO_WITH_VOC_LABELS_V1"):
        lraspp_mobilenet_v3_large(weights="IMAGENET1K_V1")
    with pytest.raises(UnknownWeightsError, match="IMAGENET1K_V1"):
        lraspp_mobilenet_v3_large(weights_backbone="COCO_WITH_VOC_LABELS_V1")


def test_gradients_reach_every_parameter_in_training() -> None:
    model = lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3).train()
    model(_images(2))["out"].square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    first = next(model.backbone.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_concurrent_calls_equal_calls_one_by_one(model: LRASPP) -> None:
    images = [_images(1, 48 + 8 * i, 64, seed=i) for i in range(6)]

    def run(image: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(image)["out"]
            return logits

    expected = [run(image) for image in images]
    with ThreadPoolExecutor(2) as pool:
        actual = list(pool.map(run, images))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
