"""Options, errors and behaviour of video ResNets; one test compares all models with the reference."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError, UnknownWeightsError
from zoofleet.models.video import VideoResNet, mc3_18, r2plus1d_18, r3d_18


def _clips(n: int = 1, frames: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> VideoResNet:
    torch.manual_seed(0)
    return r3d_18(num_classes=7).eval()


@pytest.mark.parametrize(("n", "frames", "size"), [(1, 16, 32), (2, 1, 32), (1, 5, 17), (3, 2, 1)])
@torch.inference_mode()
def test_clips_of_any_length_and_size_give_logits(model: VideoResNet, n: int, frames: int, size: int) -> None:
    logits = model(_clips(n, frames, size))
    assert logits.shape == (n, 7) and logits.isfinite().all()


@torch.inference_mode()
def test_the_order_of_frames_matters(model: VideoResNet) -> None:
    clips = _clips(frames=8)
    assert not torch.allclose(model(clips), model(clips.flip(2)))


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (1, 4, 3, 32, 32), (1, 1, 4, 32, 32)])
def test_wrong_shapes_are_refused(model: VideoResNet, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(N, 3, T, H, W\)"):
        model(torch.zeros(shape))


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(UnknownWeightsError, match="KINETICS400_V1"):
        r3d_18(weights="IMAGENET1K_V1")


@pytest.mark.parametrize(("builder", "frames"), [(r3d_18, 2), (r2plus1d_18, 2), (mc3_18, 16)])
@torch.inference_mode()
def test_all_but_mc3_shrink_time(builder: Callable[..., VideoResNet], frames: int) -> None:
    model = builder().eval()
    maps = model.layer4(model.layer3(model.layer2(model.layer1(model.stem(_clips(frames=16))))))
    assert maps.shape == (1, 512, frames, 2, 2)


@pytest.mark.parametrize("builder", [r3d_18, r2plus1d_18, mc3_18])
def test_gradients_reach_every_parameter_in_training(builder: Callable[..., VideoResNet]) -> None:
    model = builder(num_classes=3).train()
    model(_clips(2)).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_concurrent_calls_equal_calls_one_by_one(model: VideoResNet) -> None:
    clips = [_clips(1, 2 + i % 3, seed=i) for i in range(6)]

    def run(clip: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(clip)
            return logits

    expected = [run(clip) for clip in clips]
    with ThreadPoolExecutor(2) as pool:
        actual = list(pool.map(run, clips))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
