"""The run-length codec against pycocotools, bit for bit, and on malformed counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco

from zoofleet._media import rle
from zoofleet.errors import InvalidArgumentError

Mask = npt.NDArray[np.bool_]


def _random_masks() -> list[Mask]:
    """Noise of every density, and blobs, over shapes that include single rows, columns and nothing."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(150):
        height, width = (int(n) for n in rng.integers(1, 80, 2))
        masks.append(rng.random((height, width)) < rng.random())
        y, x = np.mgrid[:height, :width]
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, 60)
        masks.append((y - cy) ** 2 + (x - cx) ** 2 < r * r)
    masks += [rng.random((1, 1000)) < 0.1, rng.random((1000, 1)) < 0.1, rng.random((1, 1)) < 2]
    for shape in [(0, 0), (0, 7), (7, 0), (1, 1), (7, 5), (720, 1280)]:
        masks += [np.zeros(shape, bool), np.ones(shape, bool)]
    one = np.zeros((720, 1280), bool)
    one[300, 700] = True
    return [*masks, one, ~one, rng.random((720, 1280)) < 0.5]


@pytest.fixture(scope="module", params=["bool", "uint8"])
def masks(request: pytest.FixtureRequest) -> list[Mask] | list[npt.NDArray[np.uint8]]:
    if request.param == "bool":
        return _random_masks()
    return [m * np.uint8(255) for m in _random_masks()]


def test_encode_writes_what_pycocotools_writes(masks: list[Mask]) -> None:
    for mask in masks:
        assert rle.encode(mask) == coco.encode(np.asfortranarray(mask != 0).view(np.uint8))["counts"]


def test_decode_returns_what_was_encoded(masks: list[Mask]) -> None:
    for mask in masks:
        counts = rle.encode(mask)
        decoded = rle.decode(counts, *mask.shape)
        assert decoded.dtype == np.bool_ and decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, mask != 0)
        assert rle.area(counts) == np.count_nonzero(mask)


def test_encode_does_not_depend_on_memory_layout() -> None:
    mask = np.random.default_rng(1).random((40, 60)) < 0.3
    assert rle.encode(np.asfortranarray(mask)) == rle.encode(mask) == rle.encode(mask[::-1][::-1])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_decode_reads_zero_runs_as_pycocotools_does() -> None:
    counts = b"30040"  # 3 zeros, no ones, no zeros, 4 ones, no zeros
    expected = coco.decode({"size": [1, 7], "counts": counts})
    np.testing.assert_array_equal(rle.decode(counts, 1, 7), expected.astype(bool))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"", "end inside a number"),
        (b"P", "end inside a number"),
        (b"5P", "end inside a number"),
        (b"5/", "at 1"),
        (b"5p", "at 1"),
        (b"5\xff", "at 1"),
        (b"5\n", "at 1"),
        (b"6", "describe 6 pixels"),
        (b"8", "describe 8 pixels"),
        (b"<", "describe 12 pixels"),
        (b"O", "run of -1"),
        (b"43A", "run of -15"),
        (b"44O", "run of -1"),
        (b"6O3", "run of -1"),
        (b"22O3O", "run of -2"),
        (b"PPPPPPP0", "8 characters"),
        (b"PPPPPPP1", "8 characters"),
        (b"ooooooo", "end inside a number"),
        (b"oooooo?", "2\\*\\*32"),
        (b"0" * 17, "too long"),
    ],
)
def test_malformed_counts_are_refused(counts: bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        rle.decode(counts, 1, 7)


def test_random_bytes_decode_or_are_refused() -> None:
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(3000):
        counts = bytes(rng.integers(48, 112, rng.integers(0, 12), dtype=np.uint8))
        try:
            assert rle.decode(counts, 4, 6).shape == (4, 6)
        except InvalidArgumentError:
            refused += 1
    assert refused > 2000


def test_every_single_character_change_decodes_or_is_refused() -> None:
    mask = np.random.default_rng(3).random((9, 11)) < 0.4
    counts = rle.encode(mask)
    for at in range(len(counts)):
        for value in range(256):
            changed = counts[:at] + bytes([value]) + counts[at + 1 :]
            try:
                decoded = rle.decode(changed, 9, 11)
            except InvalidArgumentError:
                continue
            assert (decoded.sum(), decoded.shape) == (rle.area(changed), (9, 11))


def test_wrong_masks_and_sizes_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(2, 2, 2\)"):
        rle.encode(np.zeros((2, 2, 2), np.bool_))
    with pytest.raises(InvalidArgumentError, match="float32"):
        rle.encode(np.zeros((2, 2), np.float32))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="-2x-3"):
        rle.decode(b"6", -2, -3)
