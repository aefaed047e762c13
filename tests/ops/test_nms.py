"""`nms` and `batched_nms` against the greedy loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _reference, batched_nms, nms

INF, NAN = math.inf, math.nan


def random_boxes(count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 100
    size = torch.rand(count, 2, generator=generator, dtype=dtype) * 60
    return torch.cat([corner, corner + size], dim=1)


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> object:
    """Runs the test with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 2.0, INF])
def test_equals_reference(threshold: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    boxes = random_boxes(600, generator, dtype)
    scores = torch.rand(600, generator=generator).mul(40).round()  # many ties
    assert torch.equal(nms(boxes, scores, threshold), _reference.nms(boxes, scores, threshold))


@pytest.mark.usefixtures("threads")
def test_more_boxes_than_blocks(generator: torch.Generator) -> None:
    boxes = random_boxes(6000, generator)
    boxes[:, :2] *= 30
    boxes[:, 2:] = boxes[:, :2] + 40
    scores = torch.rand(6000, generator=generator)
    kept = nms(boxes, scores, 0.4)
    assert 2048 < len(kept) < 6000
    assert torch.equal(kept, _reference.nms(boxes, scores, 0.4))


def test_hundred_thousand_boxes(generator: torch.Generator) -> None:
    corner = torch.arange(100_000).float()[:, None] * torch.tensor([10.0, 0.0])
    boxes = torch.cat([corner, corner + 9], dim=1)
    boxes[1::2] = boxes[::2] + 1
    scores = torch.rand(100_000, generator=generator)
    best = torch.where(scores[::2] >= scores[1::2], 0, 1) + torch.arange(0, 100_000, 2)
    assert torch.equal(nms(boxes, scores, 0.5).sort().values, best)


def test_iou_on_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 3, 1], [0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1]])
    scores = torch.tensor([4.0, 3, 2, 1])
    assert nms(boxes, scores, 0.5).tolist() == [0, 2]
    # 2/3 rounds up to float32: above 2/3 in double, not above the float32 itself.
    assert nms(boxes[:2], scores[:2], 2 / 3).tolist() == [0]
    assert nms(boxes[:2], scores[:2], float(torch.tensor(2 / 3))).tolist() == [0, 1]
    assert nms(boxes[:2].double(), scores[:2], 2 / 3).tolist() == [0, 1]


ADVERSARIAL: dict[str, tuple[list[list[float]], list[float]]] = {
    "empty": ([], []),
    "one": ([[0, 0, 1, 1]], [0.5]),
    "identical": ([[1, 2, 3, 4]] * 300, [0.5] * 300),
    "no area": ([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2], [1, 0, 1, 2]] * 2, [8, 7, 6, 5, 4, 3, 2, 1]),
    "corners swapped": ([[5, 5, 1, 1], [5, 5, 1, 1], [5, 1, 1, 5], [0, 0, 6, 6], [5, 1, 1, 5]], [5, 4, 3, 2, 1]),
    "scores not finite": ([[0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 8, 9], [20, 20, 30, 30]], [1, NAN, INF, -INF]),
    "NaN coordinates": ([[0, 0, 9, 9], [NAN, 0, 9, 9], [0, 0, 9, NAN], [0, 0, 9, 9], [NAN] * 4], [3, 5, 4, 2, 9]),
    "infinite": (
        [[-INF, -INF, INF, INF], [0, 0, INF, INF], [0, 0, 1, 1], [-INF, 0, INF, 1], [INF] * 4],
        [5, 4, 3, 2, 1],
    ),
    "overflowing area": ([[-3e38, -3e38, 3e38, 3e38], [-3e38, -3e38, 3e38, 3e38], [0, 0, 1, 1]], [3, 2, 1]),
    "underflowing area": (
        [[0, 0, 1e-20, 1e-20], [0, 0, 1e-20, 1e-20], [0, 0, 3e-23, 4e-23], [0, 0, 3e-23, 3e-23]],
        [4, 3, 2, 1],
    ),
    "negative": ([[-9, -9, -1, -1], [-9, -9, -1, -2], [-4, -4, 4, 4]], [1, 2, 3]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial(name: str, threshold: float, dtype: torch.dtype) -> None:
    rows, values = ADVERSARIAL[name]
    boxes = torch.tensor(rows, dtype=dtype).reshape(-1, 4)
    scores = torch.tensor(values, dtype=dtype)
    kept = nms(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, _reference.nms(boxes, scores, threshold))


def test_nan_score_counts_as_highest() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 3)
    assert nms(boxes, torch.tensor([1.0, INF, NAN]), 0.5).tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(dtype: torch.dtype, generator: torch.Generator) -> None:
    boxes = random_boxes(300, generator).mul(200).to(dtype)  # areas beyond the largest half
    scores = torch.rand(300, generator=generator).to(dtype)
    assert torch.equal(nms(boxes, scores, 0.5), _reference.nms(boxes.float(), scores.float(), 0.5))


def test_non_contiguous(generator: torch.Generator) -> None:
    boxes, scores = random_boxes(400, generator), torch.rand(400, generator=generator)
    expected = _reference.nms(boxes[::2], scores[::2], 0.5)
    assert torch.equal(nms(boxes[::2], scores[::2], 0.5), expected)
    assert torch.equal(nms(boxes[::2].t().contiguous().t(), scores[::2], 0.5), expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("idx_dtype", [torch.int64, torch.int32, torch.uint8])
def test_batched_equals_each_class(idx_dtype: torch.dtype, generator: torch.Generator) -> None:
    boxes, scores = random_boxes(900, generator), torch.rand(900, generator=generator)
    idxs = torch.randint(0, 7, (900,), generator=generator).to(idx_dtype)
    kept = batched_nms(boxes, scores, idxs, 0.3)
    each = [
        members[nms(boxes[members], scores[members], 0.3)]
        for c in range(7)
        for members in [(idxs == c).nonzero()[:, 0]]
    ]
    union = torch.cat(each)
    assert torch.equal(kept, union[scores[union].argsort(descending=True)])
    assert torch.equal(kept, _reference.nms(boxes, scores, 0.3, idxs))


def test_batched_keeps_precision_for_distant_classes_and_coordinates() -> None:
    # IoU 0.5 apart by a pixel at 1e6: adding a large offset for each class would round these corners away.
    boxes = torch.tensor([[1e6, 0, 1e6 + 3, 1], [1e6 + 1, 0, 1e6 + 4, 1]] * 2)
    idxs = torch.tensor([-(2**62), -(2**62), 2**62, 2**62])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert batched_nms(boxes, scores, idxs, 0.5).tolist() == [0, 1, 2, 3]
    assert batched_nms(boxes, scores, idxs, 0.49).tolist() == [0, 2]


BAD: list[tuple[str, Callable[[], Tensor]]] = [
    (r"boxes are \(3, 5\)", lambda: nms(torch.zeros(3, 5), torch.zeros(3), 0.5)),
    (r"boxes are \(4,\)", lambda: nms(torch.zeros(4), torch.zeros(1), 0.5)),
    (r"boxes are \(3, 4\) torch.int64", lambda: nms(torch.zeros(3, 4).long(), torch.zeros(3), 0.5)),
    (r"scores are \(2,\)", lambda: nms(torch.zeros(3, 4), torch.zeros(2), 0.5)),
    (r"scores are \(3,\) torch.int64", lambda: nms(torch.zeros(3, 4), torch.zeros(3).long(), 0.5)),
    (r"iou_threshold is -0.1", lambda: nms(torch.zeros(3, 4), torch.zeros(3), -0.1)),
    (r"iou_threshold is nan", lambda: nms(torch.zeros(3, 4), torch.zeros(3), NAN)),
    (r"idxs are \(2,\)", lambda: batched_nms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(2).long(), 0.5)),
    (r"idxs are \(3,\) torch.float32", lambda: batched_nms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3), 0.5)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_arguments(message: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_opcheck(generator: torch.Generator) -> None:
    boxes, scores = random_boxes(50, generator), torch.rand(50, generator=generator)
    idxs = torch.randint(0, 3, (50,), generator=generator)
    for arguments in [(boxes, scores, 0.5), (boxes, scores, 0.5, idxs), (boxes[:0], scores[:0], 0.5)]:
        torch.library.opcheck(torch.ops.zoofleet.nms.default, arguments)
    torch.library.opcheck(torch.ops.zoofleet.nms.default, (boxes.half(), scores.double(), 0.5))
