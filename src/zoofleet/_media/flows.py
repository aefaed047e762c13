"""Optical flow between arrays and bytes: 16-bit floating point, Middlebury's `.flo` files, and KITTI's 16-bit PNGs.

Shapes: a flow is float32 (2, H, W), the horizontal, then the vertical displacement in pixels, for H x W pixels.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from zoofleet.errors import InvalidMediaError

__all__ = [
    "FLO_MAGIC",
    "PNG_MAGIC",
    "UNKNOWN",
    "decode_flo",
    "decode_float16",
    "decode_kitti_png",
    "encode_flo",
    "encode_float16",
    "encode_kitti_png",
    "from_kitti",
]

Float32: TypeAlias = npt.NDArray[np.float32]

FLO_MAGIC: Final = b"PIEH"
"""The first four bytes of a `.flo` file; as a little-endian float32 they read 202021.25 (Middlebury's flow code)."""

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"

UNKNOWN: Final = 1e9
"""Middlebury's mark: where a component is larger than this, the flow is not known (Middlebury's flow code)."""

# KITTI 2015's devkit stores a component u as the 16-bit number 64 u + 2^15.
_KITTI_STEPS: Final = 64.0
_KITTI_OFFSET: Final = 32768.0
_KITTI_MAX: Final = 65535.0


def encode_float16(flow: Float32) -> bytes:
    """Encode a flow as little-endian halves (H, W, 2). Values beyond what a half holds, 65504, are clipped."""
    half = np.finfo(np.float16)
    return flow.transpose(1, 2, 0).clip(half.min, half.max).astype("<f2").tobytes()


def decode_float16(data: bytes, width: int, height: int) -> Float32:
    """Decode little-endian halves (H, W, 2).

    Raises:
        InvalidMediaError: the data have another length than such a flow.
    """
    if len(data) != 4 * height * width:
        raise InvalidMediaError(f"a flow of {len(data)} bytes is not {width} x {height} pixels")
    return _planes(np.frombuffer(data, "<f2").reshape(height, width, 2))


def encode_flo(flow: Float32) -> bytes:
    """Encode a flow as a `.flo` file, exactly."""
    _, height, width = flow.shape
    return FLO_MAGIC + struct.pack("<ii", width, height) + flow.transpose(1, 2, 0).astype("<f4").tobytes()


def decode_flo(data: bytes) -> Float32:
    """Decode a `.flo` file: `PIEH`, width and height as int32, then float32 (H, W, 2), all of it little-endian.

    Raises:
        InvalidMediaError: the data are no such file, or a truncated one.
    """
    width, height = struct.unpack_from("<ii", data, 4) if len(data) >= 12 else (0, 0)
    if not data.startswith(FLO_MAGIC) or width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise InvalidMediaError(f"{len(data)} bytes, which is no .flo file of {width} x {height} pixels")
    return _planes(np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2))


def encode_kitti_png(flow: Float32) -> bytes:
    """Encode a flow as KITTI's 16-bit RGB PNG, valid everywhere.

    Values are rounded to 1/64 pixel, and clipped to -512 to 511.98 pixels. The PNG is written here since
    Pillow has no RGB of 16 bits.
    """
    _, height, width = flow.shape
    field = np.ones((height, width, 3), dtype=">u2")  # the third channel is 1 where the flow is valid
    field[..., :2] = np.rint(flow.transpose(1, 2, 0) * _KITTI_STEPS + _KITTI_OFFSET).clip(0, _KITTI_MAX)
    rows = np.zeros((height, 1 + 6 * width), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = field.reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return PNG_MAGIC + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def decode_kitti_png(data: bytes, width: int, height: int) -> Float32:
    """Decode a PNG that `encode_kitti_png` has written: one IDAT chunk, rows without filters.

    PNGs of other programs need a full decoder, which the client does not have without PyAV.

    Raises:
        InvalidMediaError: the data are no such PNG of this size.
    """
    row_bytes = 1 + 6 * width
    start = len(PNG_MAGIC) + 25  # past the signature and IHDR
    try:
        (length,) = struct.unpack_from(">I", data, start)
        inflater = zlib.decompressobj()
        raw = inflater.decompress(data[start + 8 : start + 8 + length], height * row_bytes + 1)
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, row_bytes)
    except (struct.error, zlib.error, ValueError) as error:
        raise InvalidMediaError(f"not a KITTI flow PNG of {width} x {height} pixels: {error}") from None
    return from_kitti(np.ascontiguousarray(rows[:, 1:]).view(">u2").reshape(height, width, 3))


def from_kitti(pixels: npt.NDArray[np.uint16]) -> Float32:
    """Return the flow in the pixels (H, W, 3) of one of KITTI's PNGs; the third channel, validity, is left out."""
    return _planes((pixels[..., :2].astype(np.float32) - _KITTI_OFFSET) / _KITTI_STEPS)


def _planes(interleaved: npt.NDArray[np.floating]) -> Float32:
    return np.ascontiguousarray(interleaved.transpose(2, 0, 1), dtype=np.float32)  # (H, W, 2) -> (2, H, W)
