"""`upsampled_argmax` against torch's own operators, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _reference, upsampled_argmax


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> object:
    """Runs the test with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


SHAPES = [(21, 65, 98), (1, 5, 7), (2, 1, 1), (3, 1, 40), (3, 40, 1), (256, 9, 11)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(427, 640), (375, 500), (37, 53), (1, 1), (3, 1), (98, 65), (9, 11)])
def test_equals_torch(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    # Two categories whose logits differ by less than roundings do: any other order of them shows.
    logits = torch.randn(shape)
    close = logits[:1] * (1 + torch.randint(-1, 2, logits.shape) * 2.0**-23)
    for each in (logits, close, torch.randint(0, 2, shape).float()):
        expected = _reference.upsampled_argmax(each, size)
        assert torch.equal(upsampled_argmax(each, size), expected)
        interleaved = each.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        assert torch.equal(upsampled_argmax(interleaved, size), expected)


def test_logits_of_a_channels_last_batch_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.randn(2, 21, 30, 40).to(memory_format=torch.channels_last)
    expected = _reference.upsampled_argmax(batch[1], (50, 60))

    def copied(*arguments: object, **options: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(Tensor, "contiguous", copied)
    assert torch.equal(upsampled_argmax(batch[1], (50, 60)), expected)


def test_other_strides_and_dtypes() -> None:
    logits = torch.randn(9, 40, 30)
    for each in (logits[::2], logits.transpose(1, 2), logits[:, 1:, :-3], logits.bfloat16(), logits.double()):
        expected = _reference.upsampled_argmax(each.float().contiguous(), (50, 60))
        assert torch.equal(upsampled_argmax(each, (50, 60)), expected)


def test_nan_is_the_highest_and_of_equals_the_first_counts() -> None:
    logits = torch.zeros(4, 2, 2)
    assert upsampled_argmax(logits, (2, 2)).tolist() == [[0, 0], [0, 0]]
    logits[1:, 0, 0], logits[2:, 1, 1] = float("nan"), float("inf")
    expected = _reference.upsampled_argmax(logits, (5, 5))
    assert expected[0, 0] == 1 and expected[4, 4] == 2
    assert torch.equal(upsampled_argmax(logits, (5, 5)), expected)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_empty_size(size: tuple[int, int]) -> None:
    assert upsampled_argmax(torch.zeros(3, 4, 4), size).shape == size


LOGITS = torch.zeros(3, 4, 4)
BAD: list[tuple[str, Callable[[], Tensor]]] = [
    (r"logits are \(4, 4\)", lambda: upsampled_argmax(LOGITS[0], (2, 2))),
    (r"logits are \(0, 4, 4\)", lambda: upsampled_argmax(LOGITS[:0], (2, 2))),
    (r"logits are \(3, 4, 4\) torch.int64", lambda: upsampled_argmax(LOGITS.long(), (2, 2))),
    (r"257 categories; accepted: at most 256", lambda: upsampled_argmax(torch.zeros(257, 1, 1), (2, 2))),
    (r"size is \(-1, 2\)", lambda: upsampled_argmax(LOGITS, (-1, 2))),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_arguments(message: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.zoofleet.upsampled_argmax.default, (torch.randn(3, 4, 5), 7, 6))
