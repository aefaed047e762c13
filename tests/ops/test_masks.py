"""`paste_masks_to_rle` against loops, float images and pycocotools."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from zoofleet._media import rle
from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection import paste_masks
from zoofleet.models.ops import _reference, paste_masks_to_rle
from zoofleet.models.ops._masks import compress_runs

INF, NAN = math.inf, math.nan


def coco_encode(masks: Tensor) -> list[bytes]:
    """What pycocotools makes of masks (N, H, W)."""
    return [coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"] for mask in masks]


def pasted_in_floats(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[bytes]:
    return coco_encode(paste_masks(masks[:, None], boxes, size)[:, 0] > threshold)


def random_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Some reach beyond the image."""
    sides = torch.tensor([size[1], size[0]])
    corner = (torch.rand(count, 2, generator=generator) * 1.4 - 0.3) * sides
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 0.7 * sides], dim=1)


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> object:
    """Runs the test with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (60, 41), (97, 240), (480, 640)])
@pytest.mark.parametrize("side", [1, 2, 3, 14, 28])
def test_pasted_equals_floats_and_pycocotools(side: int, size: tuple[int, int], generator: torch.Generator) -> None:
    masks = torch.rand(20, side, side, generator=generator)
    boxes = random_boxes(20, size, generator)
    pasted = paste_masks(masks[:, None], boxes, size)[:, 0]
    for threshold in (0.0, 0.3, 0.5, 1.0):
        assert paste_masks_to_rle(masks, boxes, size, threshold) == coco_encode(pasted > threshold)
    smooth = torch.nn.functional.avg_pool2d(masks[:, None], 3, 1, 1)[:, 0]
    assert paste_masks_to_rle(smooth, boxes, size) == pasted_in_floats(smooth, boxes, size)


@pytest.mark.parametrize("size", [(9, 13), (30, 17)])
@pytest.mark.parametrize("side", [1, 5, 28])
def test_pasted_equals_reference(side: int, size: tuple[int, int], generator: torch.Generator) -> None:
    masks = torch.rand(6, side, side, generator=generator)
    boxes = random_boxes(6, size, generator)
    assert paste_masks_to_rle(masks, boxes, size) == _reference.paste_masks_to_rle(masks, boxes, size)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("size", [(5, 7), (63, 200), (480, 640)])
def test_pixels_on_the_threshold(value: float, size: tuple[int, int], generator: torch.Generator) -> None:
    # Weights rarely add up to 1 in float32, so that each pixel lies a rounding above or below.
    masks = torch.full((8, 28, 28), value)
    boxes = random_boxes(8, size, generator)
    encoded = paste_masks_to_rle(masks, boxes, size, value)
    assert encoded == pasted_in_floats(masks, boxes, size, value)
    if size == (5, 7):
        assert encoded == _reference.paste_masks_to_rle(masks, boxes, size, value)


BOXES: dict[str, list[list[float]]] = {
    "no boxes": [],
    "one": [[3, 4, 20, 17]],
    "identical": [[3.3, 4.4, 20.1, 17.9]] * 5,
    "no size": [[5, 5, 5, 5], [5, 5, 5, 15], [0, 0, 0, 0], [31, 23, 31, 23]],
    "corners swapped": [[20, 17, 3, 4], [20, 4, 3, 17]],
    "outside": [[-50, -50, -20, -20], [40, 3, 60, 20], [3, 30, 20, 60], [-9, -9, -1, -1], [32, 24, 40, 40]],
    "over each edge": [[-9, -9, 50, 50], [-5, 3, 5, 9], [28, 3, 40, 9], [3, -5, 9, 5], [3, 20, 9, 30], [0, 0, 32, 24]],
    "touching columns": [[3, -40, 20, 60], [0, 0, 32, 24], [-3, -3, 35, 27]],
    "NaN": [[NAN, 0, 9, 9], [0, 0, 9, NAN], [NAN] * 4, [1, 1, 9, 9]],
    "infinite": [[0, 0, INF, 9], [-INF, 0, 9, 9], [-INF, -INF, INF, INF], [INF] * 4, [-INF] * 4],
    "huge": [[-1e12, -1e12, 1e12, 1e12], [0, 0, 1e30, 1e30], [-1e30, -1e30, 1e30, 1e30], [-9e18, 0, 9e18, 9]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BOXES)
def test_adversarial_boxes(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    size = (24, 32)
    boxes = torch.tensor(BOXES[name], dtype=dtype).reshape(-1, 4)
    for masks in (torch.rand(len(boxes), 7, 7, generator=generator), torch.ones(len(boxes), 7, 7)):
        encoded = paste_masks_to_rle(masks, boxes, size)
        assert encoded == pasted_in_floats(masks, boxes, size)
        assert encoded == _reference.paste_masks_to_rle(masks, boxes, size)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_mask_that_is_not_finite_is_empty(value: float) -> None:
    masks = torch.ones(2, 7, 7)
    masks[1, 2, 3] = value
    boxes = torch.tensor([[3.0, 4, 20, 17]] * 2)
    full, empty = (rle.decode(counts, 24, 32) for counts in paste_masks_to_rle(masks, boxes, (24, 32)))
    assert full.any() and not empty.any()
    if math.isnan(value):
        assert not (paste_masks(masks[1:, None], boxes[1:], (24, 32)) > 0.5).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_masks_are_taken_as_float32(dtype: torch.dtype, generator: torch.Generator) -> None:
    masks = torch.rand(5, 9, 9, generator=generator).to(dtype)
    boxes = random_boxes(5, (40, 50), generator)
    assert paste_masks_to_rle(masks, boxes, (40, 50)) == pasted_in_floats(masks.float(), boxes, (40, 50))


def test_odd_strides(generator: torch.Generator) -> None:
    masks = torch.rand(10, 9, 9, generator=generator)
    boxes = random_boxes(10, (40, 50), generator)
    expected = paste_masks_to_rle(masks[::2].mT.contiguous(), boxes[::2].clone(), (40, 50))
    assert paste_masks_to_rle(masks[::2].mT, boxes[::2], (40, 50)) == expected


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_images_without_pixels(size: tuple[int, int]) -> None:
    empty = rle.encode(np.zeros(size, dtype=np.bool_))
    assert paste_masks_to_rle(torch.ones(2, 3, 3), torch.tensor([[0, 0, 4.0, 4]] * 2), size) == [empty] * 2


def run_ends(mask: npt.NDArray[np.bool_]) -> Tensor:
    flat = np.concatenate([[False], mask.ravel(order="F")])
    return torch.tensor([*np.flatnonzero(flat[1:] != flat[:-1]).tolist(), mask.size])


@pytest.mark.usefixtures("threads")
def test_compress_runs(generator: torch.Generator) -> None:
    masks = [np.asarray(torch.rand(40, 31, generator=generator) > limit) for limit in (0.1, 0.5, 0.9, -1, 2)]
    masks += [np.zeros((0, 3), dtype=np.bool_), np.pad(np.ones((1, 1), dtype=np.bool_), ((900, 900), (500, 0)))]
    masks += [np.pad(np.ones((3, 1), dtype=np.bool_), ((2999, 0), (1500, 1500)))]  # runs of millions of pixels
    ends = [run_ends(mask) for mask in masks]
    counts, offsets = compress_runs(torch.cat(ends), torch.tensor([len(each) for each in ends]))
    data = counts.numpy().tobytes()
    assert [data[a:b] for a, b in itertools.pairwise(offsets)] == [rle.encode(m) for m in masks]


MASKS, BOX = torch.zeros(2, 3, 3), torch.zeros(2, 4)
BAD: list[tuple[str, Callable[[], object]]] = [
    (r"masks are \(2, 3, 4\)", lambda: paste_masks_to_rle(torch.zeros(2, 3, 4), BOX, (4, 4))),
    (r"masks are \(2, 1, 3, 3\)", lambda: paste_masks_to_rle(MASKS[:, None], BOX, (4, 4))),
    (r"masks are \(2, 0, 0\)", lambda: paste_masks_to_rle(MASKS[:, :0, :0], BOX, (4, 4))),
    (r"masks are \(2, 3, 3\) torch.uint8", lambda: paste_masks_to_rle(MASKS.byte(), BOX, (4, 4))),
    (r"boxes are \(1, 4\)", lambda: paste_masks_to_rle(MASKS, BOX[:1], (4, 4))),
    (r"boxes are \(2, 4\) torch.int64", lambda: paste_masks_to_rle(MASKS, BOX.long(), (4, 4))),
    (r"size is \(-1, 4\)", lambda: paste_masks_to_rle(MASKS, BOX, (-1, 4))),
    (r"size is \(65536, 65536\)", lambda: paste_masks_to_rle(MASKS, BOX, (65536, 65536))),
    (r"threshold is -0.5", lambda: paste_masks_to_rle(MASKS, BOX, (4, 4), -0.5)),
    (r"threshold is nan", lambda: paste_masks_to_rle(MASKS, BOX, (4, 4), NAN)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_arguments(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_opcheck(generator: torch.Generator) -> None:
    masks, boxes = torch.rand(4, 7, 7, generator=generator), random_boxes(4, (20, 30), generator)
    paste = torch.ops.zoofleet.paste_masks_to_rle.default
    torch.library.opcheck(paste, (masks, boxes, 20, 30, 0.5))
    torch.library.opcheck(paste, (masks[:0].half(), boxes[:0], 20, 30, 0.5))
