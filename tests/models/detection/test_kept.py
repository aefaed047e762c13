"""What detectors keep from one batch to the next."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from zoofleet.models.detection import AnchorGenerator, DefaultBoxGenerator, ssdlite320_mobilenet_v3_large
from zoofleet.models.detection._kept import Kept, constant
from zoofleet.models.detection.anchor_utils import _Generator
from zoofleet.models.detection.image_list import ImageList


def batch(height: int, width: int) -> ImageList:
    return ImageList(torch.zeros(1, 3, height, width), [(height, width)])


@pytest.mark.parametrize("generator", [AnchorGenerator(((32,),)), DefaultBoxGenerator([[2]])])
def test_anchors_are_laid_once_for_each_size(generator: _Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[tuple[int, int]] = []
    lay = type(generator)._lay

    def counted(self: _Generator, index: int, cells: tuple[int, int], size: tuple[int, int], device: Any) -> Tensor:
        laid.append(size)
        return lay(self, index, cells, size, device)

    monkeypatch.setattr(type(generator), "_lay", counted)
    maps = [torch.zeros(1, 8, 7, 11)]
    for size in [(119, 187), (119, 187), (126, 198), (119, 187)]:
        (boxes,) = generator(batch(*size), maps)
        assert torch.equal(boxes, lay(generator, 0, (7, 11), size, torch.device("cpu")).reshape(-1, 4))
    assert laid == [(119, 187), (126, 198)]


def test_another_definition_has_other_anchors() -> None:
    generator = AnchorGenerator(((32,),))
    maps = [torch.zeros(1, 8, 3, 5)]
    before = generator(batch(24, 40), maps)[0]
    generator.sizes = [(64,)]
    assert not torch.equal(generator(batch(24, 40), maps)[0], before)
    assert not generator.state_dict()


def test_training_may_follow_inference_mode() -> None:
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 70)]
    targets = [{"boxes": torch.tensor([[4.0, 5, 40, 45]]), "labels": torch.tensor([1])}] * 2
    with torch.inference_mode():
        model.eval()(images)
    sum(model.train()(images, targets).values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_fake_tensors_are_not_kept() -> None:
    with FakeTensorMode():
        fake = constant((1.5, 2.5), torch.zeros(2))
    assert type(fake) is not Tensor
    real = constant((1.5, 2.5), torch.zeros(2))
    assert type(real) is Tensor and real.tolist() == [1.5, 2.5]
    with FakeTensorMode():
        assert type(constant((1.5, 2.5), torch.zeros(2))) is not Tensor


def test_the_last_tensors_used_are_kept_from_any_thread() -> None:
    kept, like, made = Kept(2), torch.zeros(1), []

    def get(key: int) -> Tensor:
        def make() -> Tensor:
            made.append(key)
            return torch.tensor([key])

        return kept.get(key, like, make)

    for key in (1, 2, 1, 3, 1, 2):
        assert get(key) == key
    assert made == [1, 2, 3, 2]

    wrong: list[int] = []

    def use() -> None:
        wrong.extend(key for key in [*range(5)] * 50 if get(key) != key)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(kept._tensors) == 2


def test_dtypes_have_constants_of_their_own() -> None:
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert constant((0.1, 0.2), torch.zeros(1, dtype=dtype)).dtype == dtype
