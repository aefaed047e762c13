"""The CUDA kernels against the CPU's: on a CUDA device, or emulated where `tests/ops/test_emulation.py` runs this."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from tests.ops import emulated
from torch import Tensor

from zoofleet.models.ops import (
    batched_nms,
    correlation_lookup,
    nms,
    paste_masks_to_rle,
    resize_normalize,
    roi_align,
    upsampled_argmax,
)

EMULATED = os.environ.get(emulated.LIBRARY)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() and not EMULATED and "ZOOFLEET_REQUIRE_CUDA" not in os.environ,
        reason="no CUDA device",
    ),
]


class Device:
    """Where the kernels under test run."""

    def __init__(self, order: str) -> None:
        self._kernels = emulated.load(Path(EMULATED), falling=order == "falling") if EMULATED else None

    def put(self, tensor: Tensor) -> Tensor:
        return tensor.cuda() if self._kernels is None else tensor

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        with contextlib.nullcontext() if self._kernels is None else emulated.installed(self._kernels):
            yield


@pytest.fixture(params=["rising", "falling"] if EMULATED else ["cuda"])
def device(request: pytest.FixtureRequest) -> Device:
    return Device(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 64, 2049] if EMULATED else [0, 1, 64, 2048, 2049, 20_000])
def test_nms(count: int, dtype: torch.dtype, device: Device, generator: torch.Generator) -> None:
    corner = torch.rand(count, 2, generator=generator) * 900
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 90], dim=1).to(dtype)
    boxes[::97] = float("nan")
    scores = torch.rand(count, generator=generator)
    idxs = torch.randint(0, 5, (count,), generator=generator)
    for threshold in (0.0, 0.3, 0.7):
        of_all, by_class = nms(boxes, scores, threshold), batched_nms(boxes, scores, idxs, threshold)
        with device.active():
            at, scored, classes = (device.put(tensor) for tensor in (boxes, scores, idxs))
            assert torch.equal(nms(at, scored, threshold).cpu(), of_all)
            assert torch.equal(batched_nms(at, scored, classes, threshold).cpu(), by_class)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_roi_align(sampling_ratio: int, aligned: bool, device: Device, generator: torch.Generator) -> None:
    features = torch.randn(2, 5, 40, 30, generator=generator, dtype=torch.float64, requires_grad=True)
    corner = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 60 - 10
    size = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 40 - 5
    image = torch.randint(0, 2, (50, 1), generator=generator)
    boxes = torch.cat([image, corner, corner + size], dim=1)
    boxes[0, 3] = 1e30
    boxes[1, 3] = float("nan")
    on_cpu = roi_align(features, boxes, (7, 5), 0.5, sampling_ratio, aligned)
    weights = torch.randn(on_cpu.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(on_cpu, features, weights)
    with device.active():
        there = roi_align(device.put(features), device.put(boxes), (7, 5), 0.5, sampling_ratio, aligned)
        (gradient,) = torch.autograd.grad(there, features, device.put(weights))
    torch.testing.assert_close(there.cpu(), on_cpu)
    torch.testing.assert_close(gradient, expected)


def test_invalid_batch_index_is_nan(device: Device) -> None:
    boxes = torch.tensor([[3, 0.0, 0, 1, 1]])
    with device.active():
        assert roi_align(device.put(torch.zeros(1, 1, 4, 4)), device.put(boxes), 2).isnan().all()


def test_masks(device: Device, generator: torch.Generator) -> None:
    masks = torch.rand(40, 28, 28, generator=generator)
    masks[3, 4, 5] = float("nan")
    corner = torch.rand(40, 2, generator=generator) * 400 - 50
    boxes = torch.cat([corner, corner + torch.rand(40, 2, generator=generator) * 300], dim=1)
    boxes[0, 2] = float("inf")
    on_threshold = torch.full_like(masks, 0.7)
    calls = [(masks, boxes, size, 0.5) for size in ((240, 320), (1, 1), (0, 5), (5, 0))]
    calls += [(masks[:0], boxes[:0], (24, 32), 0.5), (on_threshold, boxes, (240, 320), 0.7)]
    for each, at, size, threshold in calls:
        expected = paste_masks_to_rle(each, at, size, threshold)
        with device.active():
            assert paste_masks_to_rle(device.put(each), device.put(at), size, threshold) == expected


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resize_normalize(
    dtype: torch.dtype, mode: Literal["bilinear", "bicubic"], device: Device, generator: torch.Generator
) -> None:
    pixels = torch.randint(0, 256, (97, 251, 3), generator=generator, dtype=torch.uint8)
    for size, crop in [((40, 71), (3, 4, 30, 31)), ((301, 7), (-2, -3, 310, 11)), ((5, 5), (0, 0, 0, 5))]:
        arguments = (size, crop, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), mode, dtype)
        expected = resize_normalize(pixels, *arguments)
        with device.active():
            assert torch.equal(resize_normalize(device.put(pixels), *arguments).cpu(), expected)


@pytest.mark.parametrize("size", [(375, 500), (37, 53), (1, 1), (0, 5)])
def test_upsampled_argmax(size: tuple[int, int], device: Device, generator: torch.Generator) -> None:
    logits = torch.randn(21, 65, 98, generator=generator)
    logits[5, 3, 4], logits[6:8, 9] = float("nan"), 7
    for each in (logits, logits.permute(1, 2, 0).contiguous().permute(2, 0, 1), logits.half()):
        expected = upsampled_argmax(each, size)
        with device.active():
            assert torch.equal(upsampled_argmax(device.put(each), size).cpu(), expected)


@pytest.mark.parametrize("radius", [0, 4])
def test_correlation_lookup(radius: int, device: Device, generator: torch.Generator) -> None:
    features1 = torch.randn(2, 9, 11, 70, generator=generator, dtype=torch.float64)
    features2 = torch.randn(2, 7, 13, 70, generator=generator, dtype=torch.float64)
    coords = torch.rand(2, 2, 9, 11, generator=generator, dtype=torch.float64) * 20 - 4
    coords[0, 0, 1, 1] = float("nan")
    inputs = [tensor.requires_grad_() for tensor in (features1, features2, coords)]
    on_cpu = correlation_lookup(features1, features2, coords, radius)
    weights = torch.randn(on_cpu.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(on_cpu, inputs, weights)
    with device.active():
        there = correlation_lookup(device.put(features1), device.put(features2), device.put(coords), radius)
        gradients = torch.autograd.grad(there, inputs, device.put(weights))
    torch.testing.assert_close(there.cpu(), on_cpu)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.skipif(EMULATED is not None, reason="of the dispatcher, which the emulation does not change")
def test_opcheck() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 0, 30, 9]], device="cuda")
    scores = torch.tensor([0.5, 0.7, 0.6], device="cuda")
    torch.library.opcheck(torch.ops.zoofleet.nms.default, (boxes, scores, 0.5))
    features = torch.ones(1, 2, 8, 8, device="cuda", requires_grad=True)
    rois = torch.nn.functional.pad(boxes, (1, 0))
    torch.library.opcheck(torch.ops.zoofleet.roi_align.default, (features, rois, 0.5, 2, 2, 2, False))
