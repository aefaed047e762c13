"""`roi_align` and its gradient against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _reference, roi_align

INF, NAN = math.inf, math.nan

BOXES = torch.tensor(
    [
        [0, 1.3, 2.1, 9.7, 8.2],
        [1, 0, 0, 13, 11],
        [1, -6.5, -3.2, 4.4, 5.9],  # partly outside
        [0, 10, 8, 40, 35],
        [0, 50, 50, 60, 60],  # outside
        [1, 4, 4, 4, 4],  # no size
        [0, 8, 7, 3, 2],  # corners swapped
        [1, -1, -1, 0, 0],  # samples between -1 and 0
        [0, 12.5, 10.5, 13.5, 11.5],  # on the far border
    ],
    dtype=torch.float64,
)


@pytest.fixture
def features(generator: torch.Generator) -> Tensor:
    """(2, 3, 11, 13)."""
    return torch.randn(2, 3, 11, 13, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize(("scale", "size"), [(1.0, (3, 2)), (0.5, (7, 7)), (0.25, (1, 4)), (2.0, (2, 5))])
def test_equals_reference(
    scale: float, size: tuple[int, int], sampling_ratio: int, aligned: bool, features: Tensor
) -> None:
    features.requires_grad_()
    expected = _reference.roi_align(features, BOXES, scale, *size, sampling_ratio, aligned)
    pooled = roi_align(features, BOXES, size, scale, sampling_ratio, aligned)
    torch.testing.assert_close(pooled, expected)
    single = roi_align(features.float(), BOXES.float(), size, scale, sampling_ratio, aligned)
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-5)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(pooled, features, weights)
    (expected_gradient,) = torch.autograd.grad(expected, features, weights)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_gradcheck(sampling_ratio: int, aligned: bool, features: Tensor) -> None:
    def pool(x: Tensor) -> Tensor:
        return roi_align(x, BOXES, (2, 3), 0.7, sampling_ratio, aligned)

    features.requires_grad_()
    assert torch.autograd.gradcheck(pool, (features,))
    assert torch.autograd.gradgradcheck(pool, (features,))


def test_threads_change_nothing(generator: torch.Generator) -> None:
    features = torch.randn(2, 37, 25, 19, generator=generator, requires_grad=True)
    boxes = torch.rand(23, 4, generator=generator).mul(20)
    rois = torch.cat([torch.randint(0, 2, (23, 1), generator=generator), boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        pooled = roi_align(features, rois, 7)
        (gradient,) = torch.autograd.grad(pooled, features, torch.ones_like(pooled))
        results.append((pooled, gradient))
    torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_more_boxes_than_a_block(generator: torch.Generator) -> None:
    features = torch.randn(2, 2, 9, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    corner = torch.rand(2500, 2, generator=generator, dtype=torch.float64) * 6
    rois = torch.cat([torch.arange(2500)[:, None] % 2, corner, corner + 3], dim=1)
    weights = torch.randn(2500, 2, 2, 2, generator=generator, dtype=torch.float64)
    pooled = roi_align(features, rois, 2)
    parts = torch.cat([roi_align(features, part, 2) for part in torch.split(rois, 500)])
    assert torch.equal(pooled, parts)
    (gradient,) = torch.autograd.grad(pooled, features, weights)
    torch.testing.assert_close(gradient, torch.autograd.grad(parts, features, weights)[0])


def test_boxes_of_each_image(features: Tensor) -> None:
    boxes = [BOXES[BOXES[:, 0] == image, 1:] for image in range(2)]
    rows = torch.cat([BOXES[BOXES[:, 0] == image] for image in range(2)])
    assert torch.equal(roi_align(features, boxes, 3), roi_align(features, rows, (3, 3)))
    assert roi_align(features, [boxes[0][:0], boxes[1][:0]], 3).shape == (0, 3, 3, 3)


def test_batch_index_beyond_what_a_half_holds() -> None:
    features = torch.arange(3000).float()[:, None, None, None].expand(3000, 1, 2, 2)
    boxes = [torch.zeros(0, 4, dtype=torch.float16)] * 2999 + [torch.tensor([[0, 0, 1, 1]], dtype=torch.float16)]
    assert roi_align(features, boxes, 1).item() == 2999


@pytest.mark.parametrize("row", [[0, NAN, 0, 1, 1], [0, 0, 0, INF, 1], [0, -INF, 0, INF, 1], [0, 0, -3e38, 1, 3e38]])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_box_that_is_not_finite_gives_zeros(row: list[float], sampling_ratio: int) -> None:
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    pooled = roi_align(features, torch.tensor([row]), 2, 1.0, sampling_ratio)
    assert not pooled.any()
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert not gradient.any()


@pytest.mark.parametrize("side", [1e4, 1e6, 1e9, 1e12, 1e30])
@pytest.mark.parametrize("aligned", [False, True])
def test_huge_box_costs_and_weighs_what_lies_inside(side: float, aligned: bool) -> None:
    pooled = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0, 0, 0, side, side]]), 2, aligned=aligned)
    assert pooled.isfinite().all()
    if side <= 1e6:  # exact while positions are finer than a pixel
        assert pooled[0, 0, 0, 0].item() == pytest.approx((8.5 / (side / 2)) ** 2, rel=0.15)
    assert pooled[0, 0].flatten()[1:].tolist() == [0, 0, 0]


def test_huge_box_around_the_image() -> None:
    box = torch.tensor([[0, -5000.0, -5000, 5008, 5008]], dtype=torch.float64)
    features = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    pooled = roi_align(features, box, 1)
    # One sample a pixel: rows 0..7 once each, and the border once more for the sample up to a pixel outside.
    padded = torch.nn.functional.pad(features, (1, 1, 1, 1), mode="replicate")
    middle = torch.nn.functional.avg_pool2d(padded, 2, 1) * 1.0  # samples at half pixels
    assert pooled.item() == pytest.approx(middle.sum().item() / 10008**2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(dtype: torch.dtype, features: Tensor) -> None:
    half = features.to(dtype).requires_grad_()
    pooled = roi_align(half, BOXES.to(dtype), 3)
    assert pooled.dtype == dtype
    exact = half.detach().float().requires_grad_()
    expected = roi_align(exact, BOXES.to(dtype).float(), 3)
    assert torch.equal(pooled, expected.to(dtype))
    (gradient,) = torch.autograd.grad(pooled, half, torch.ones_like(pooled))
    (expected_gradient,) = torch.autograd.grad(expected, exact, torch.ones_like(expected))
    assert torch.equal(gradient, expected_gradient.to(dtype))


def test_non_contiguous(features: Tensor) -> None:
    expected = roi_align(features, BOXES, 3)
    strided = BOXES.repeat_interleave(2, dim=0)[::2]
    assert torch.equal(roi_align(features.contiguous(memory_format=torch.channels_last), strided, 3), expected)


@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (1, 2, 0, 4), (1, 2, 4, 0), (1, 0, 0, 0)])
def test_empty_features(shape: tuple[int, ...]) -> None:
    pooled = roi_align(torch.zeros(shape), torch.tensor([[0, 0.0, 0, 2, 2]]), 2)
    assert pooled.shape == (1, shape[1], 2, 2)
    assert not pooled.any()


ROW = torch.tensor([[0, 0.0, 0, 1, 1]])
MAP = torch.zeros(1, 1, 4, 4)
BAD: list[tuple[str, Callable[[], Tensor]]] = [
    (r"input is \(4, 4\)", lambda: roi_align(torch.zeros(4, 4), ROW, 2)),
    (r"input is \(1, 1, 4, 4\) torch.uint8", lambda: roi_align(MAP.byte(), ROW, 2)),
    (r"boxes are \(1, 4\)", lambda: roi_align(MAP, ROW[:, :4], 2)),
    (r"boxes are \(1, 5\) torch.int64", lambda: roi_align(MAP, ROW.long(), 2)),
    (r"boxes\[0\] has shape \(1, 5\)", lambda: roi_align(MAP, [ROW], 2)),
    (r"empty list", lambda: roi_align(MAP, [], 2)),
    (r"output_size is \(0, 2\)", lambda: roi_align(MAP, ROW, (0, 2))),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_arguments(message: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


@pytest.mark.parametrize("index", [-1.0, 1.0, 1e30, NAN, INF])
def test_batch_index_that_names_no_image(index: float) -> None:
    row = torch.tensor([[index, 0, 0, 1, 1]])
    with pytest.raises(InvalidArgumentError, match="not the index of an image"):
        roi_align(MAP, row, 2)
    with pytest.raises(InvalidArgumentError, match="not the index of an image"):
        torch.ops.zoofleet.roi_align_backward(torch.ones(1, 1, 2, 2), row, [1, 1, 4, 4], 1.0, 2, False)


def test_opcheck(features: Tensor) -> None:
    pool, spread = torch.ops.zoofleet.roi_align.default, torch.ops.zoofleet.roi_align_backward.default
    for dtype in (torch.float64, torch.float32, torch.float16):
        x = features.detach().to(dtype).requires_grad_()
        torch.library.opcheck(pool, (x, BOXES, 0.5, 3, 2, -1, True))
        torch.library.opcheck(pool, (x, BOXES[:0], 0.5, 3, 2, 2, False))
        grad = torch.ones(len(BOXES), 3, 3, 2, dtype=dtype, requires_grad=True)
        torch.library.opcheck(spread, (grad, BOXES, list(x.shape), 0.5, -1, True))
