"""Ground truth of optical flow: Middlebury's `.flo` and KITTI's 16-bit PNG."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from zoofleet._values.results import Bool, Float32
from zoofleet.errors import FailedPreconditionError, InvalidMediaError

__all__ = ["read_flow", "require_png_reader"]

_FLO_MAGIC: Final = b"PIEH"
_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_MAX_PIXELS: Final = 1 << 27
_UNKNOWN: Final = 1e9
"""Middlebury: a component beyond this means that the flow is not known there."""


def read_flow(path: Path) -> tuple[Float32, Bool]:
    """Read a flow.

    A `.flo` file (Middlebury, Sintel, FlyingChairs) is `PIEH`, width and height as int32, then float32 u, v by rows,
    little-endian. KITTI's PNG has 16-bit channels: 64 u + 2^15, 64 v + 2^15, and 0 where the flow is not known.

    Returns:
        float32 (2, H, W), horizontal then vertical, in pixels; bool (H, W), where it is known.

    Raises:
        InvalidMediaError: the file cannot be read or is neither.
        FailedPreconditionError: a PNG, and PyAV is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidMediaError(f"cannot read the flow {path}: {error.strerror}") from None
    if data.startswith(_FLO_MAGIC):
        return _parse_flo(data, path)
    if data.startswith(_PNG_MAGIC):
        return _parse_kitti_png(data, path)
    raise InvalidMediaError(f"{path} is no flow; accepted: .flo files and KITTI's 16-bit PNGs")


def require_png_reader() -> None:
    """Check that KITTI's PNGs can be read; Pillow has no 16-bit RGB, so FFmpeg reads them.

    Raises:
        FailedPreconditionError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise FailedPreconditionError("KITTI's 16-bit PNGs need PyAV: pip install 'zoofleet[evaluate]'") from None


def _parse_flo(data: bytes, path: Path) -> tuple[Float32, Bool]:
    width, height = struct.unpack_from("<ii", data, 4) if len(data) >= 12 else (0, 0)
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise InvalidMediaError(f"{path} has {len(data)} bytes, which is no .flo file of {width} x {height} pixels")
    field = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)  # (2, H, W)
    with np.errstate(invalid="ignore"):
        valid: Bool = (np.abs(field) <= _UNKNOWN).all(axis=0)  # NaN is not known either
    return field, valid


def _parse_kitti_png(data: bytes, path: Path) -> tuple[Float32, Bool]:
    require_png_reader()
    import av

    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16) if len(data) >= 26 else (0, 0, 0, 0)
    if depth != 16 or colour != 2 or not 0 < width * height <= _MAX_PIXELS:
        raise InvalidMediaError(
            f"{path} is a PNG of {width} x {height} pixels, {depth} bits, colour type {colour}; "
            f"accepted: RGB (2) of 16 bits, at most {_MAX_PIXELS} pixels"
        )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()  # FFmpeg fills what a damaged file lacks with zeros, which would count as not known
        with av.open(io.BytesIO(data), "r", format="png_pipe", metadata_errors="replace") as container:
            pixels = next(container.decode(video=0)).to_ndarray()  # (H, W, 3) uint16
    except (av.FFmpegError, OSError, SyntaxError, ValueError, StopIteration, Image.DecompressionBombError) as error:
        raise InvalidMediaError(f"cannot read the flow {path}: {error}") from None
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint16:
        raise InvalidMediaError(f"{path} decodes to {pixels.dtype} {pixels.shape}; accepted: uint16 (H, W, 3)")
    field = (pixels[..., :2].astype(np.float32) - 32768.0) / 64.0
    return field.transpose(2, 0, 1), pixels[..., 2] > 0  # (2, H, W), (H, W)
