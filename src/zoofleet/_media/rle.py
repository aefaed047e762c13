"""COCO's compressed run-length encoding of masks, in numpy: the `counts` that pycocotools reads and writes.

A mask is read column by column. Its runs of equal pixels alternate between 0 and 1, beginning with 0; the first run has
length 0 where the first pixel is 1. From the fourth run on, the stored number is the difference to the run two before.
Each number is written in groups of 5 bits, the lowest first, as the ASCII character 48 + group, plus 32 while more
groups follow. Bit 4 of the last group is the sign (rleToString in cocoapi's maskApi.c).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoofleet.errors import InvalidArgumentError

__all__ = ["area", "decode", "encode", "runs_of"]

_MAX_GROUPS = 7
"""Characters that a number may take: 35 bits hold every 32-bit run length and every difference of two."""


def encode(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> bytes:
    """Encode a mask as pycocotools' `counts`.

    Args:
        mask: bool (H, W), or uint8 (H, W), in which every value but 0 counts as 1.

    Raises:
        InvalidArgumentError: the mask has another shape or type.
    """
    if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8):
        raise InvalidArgumentError(
            f"a mask of shape {mask.shape} and type {mask.dtype}; it must be (H, W) of bool or uint8"
        )
    flat = (mask != 0).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if flat[:1].any() else [0]
    edges: npt.NDArray[np.int64] = np.concatenate([first, changes, [flat.size]])
    numbers = edges[1:] - edges[:-1]
    numbers[3:] -= numbers[1:-2].copy()

    shifts = 5 * np.arange(_MAX_GROUPS)
    groups = (numbers[:, None] >> shifts) & 31  # (runs, _MAX_GROUPS)
    # `length` groups hold a number if nothing but its sign is left above their 5 * length - 1 value bits.
    above = numbers[:, None] >> (shifts[1:] - 1)
    lengths = 1 + ((above != 0) & (above != -1)).sum(axis=1)[:, None]
    position = np.arange(_MAX_GROUPS)
    characters: npt.NDArray[np.int64] = 48 + groups + 32 * (position < lengths - 1)
    return bytes(characters[position < lengths].astype(np.uint8))


def decode(counts: bytes, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode pycocotools' `counts` to a mask.

    The memory that this takes is bounded by the number of pixels, whatever `counts` has.

    Args:
        counts: the compressed run lengths.
        height: the mask's height in pixels.
        width: the mask's width in pixels.

    Returns:
        bool (height, width).

    Raises:
        InvalidArgumentError: `counts` is malformed, or does not describe exactly height * width pixels.
    """
    if height < 0 or width < 0:
        raise InvalidArgumentError(f"a mask of {height}x{width} pixels; neither side may be negative")
    pixels = height * width
    # Runs and differences add up to at most twice the pixels each, so no encoder needs more characters than this.
    if len(counts) > 2 * (pixels + 1):
        raise InvalidArgumentError(f"counts of {len(counts)} bytes are too long for a mask of {height}x{width} pixels")
    runs = runs_of(counts)
    # All runs are within 0..2**35 here and there are few of them, so that the sum cannot overflow.
    if (total := int(runs.sum())) != pixels:
        raise InvalidArgumentError(f"counts describe {total} pixels; a mask of {height}x{width} has {pixels}")
    flat = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(height, width, order="F"))


def area(counts: bytes) -> int:
    """Return the number of pixels that are 1.

    Raises:
        InvalidArgumentError: `counts` is malformed.
    """
    return int(runs_of(counts)[1::2].sum())


def runs_of(counts: bytes) -> npt.NDArray[np.int64]:
    """Return the lengths of the runs of zeros and ones in turn, int64 (runs,); their sum is the number of pixels.

    Raises:
        InvalidArgumentError: `counts` is malformed.
    """
    values = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    bad = np.flatnonzero((values < 0) | (values > 63))
    if bad.size:
        at = int(bad[0])
        raise InvalidArgumentError(f"counts have {counts[at : at + 1]!r} at {at}; characters are '0' (48) to 'o' (111)")
    ends = np.flatnonzero(values < 32)
    if not ends.size or ends[-1] != values.size - 1:
        raise InvalidArgumentError(f"counts of {len(counts)} bytes end inside a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise InvalidArgumentError(
            f"counts have a number of {lengths.max()} characters; at most {_MAX_GROUPS} are accepted"
        )
    position = np.arange(values.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((values & 31) << (5 * position), starts)
    numbers -= np.where(values[ends] & 16, np.int64(1) << (5 * lengths), 0)

    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    if runs.min() < 0 or runs.max() >= 1 << 32:
        raise InvalidArgumentError(
            f"counts have a run of {runs.min()} to {runs.max()} pixels; 0 to 2**32 - 1 are accepted"
        )
    return runs
