"""Ground truth of optical flow: Middlebury's `.flo` and KITTI's 16-bit PNG."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from zoofleet._media.flows import FLO_MAGIC, PNG_MAGIC, UNKNOWN, decode_flo, from_kitti
from zoofleet._values.results import Bool, Float32
from zoofleet.errors import FailedPreconditionError, InvalidMediaError

__all__ = ["read_flow", "require_png_reader"]

_MAX_PIXELS: Final = 1 << 27


def read_flow(path: Path) -> tuple[Float32, Bool]:
    """Read a flow from a `.flo` file (Middlebury, Sintel, FlyingChairs) or one of KITTI's 16-bit PNGs.

    Returns:
        The flow, float32 (2, H, W), the horizontal, then the vertical displacement in pixels; and bool (H, W), whether
        the flow is known at a pixel.

    Raises:
        InvalidMediaError: the file cannot be read, or is neither a `.flo` file nor such a PNG.
        FailedPreconditionError: the file is a PNG, and PyAV is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidMediaError(f"cannot read the flow {path}: {error.strerror}") from None
    if data.startswith(FLO_MAGIC):
        return _parse_flo(data, path)
    if data.startswith(PNG_MAGIC):
        return _parse_kitti_png(data, path)
    raise InvalidMediaError(f"{path} is no flow; accepted: .flo files and KITTI's 16-bit PNGs")


def require_png_reader() -> None:
    """Check that KITTI's PNGs can be read. FFmpeg reads them, since Pillow has no RGB of 16 bits.

    Raises:
        FailedPreconditionError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise FailedPreconditionError("KITTI's 16-bit PNGs need PyAV: pip install 'zoofleet[evaluate]'") from None


def _parse_flo(data: bytes, path: Path) -> tuple[Float32, Bool]:
    try:
        flow = decode_flo(data)
    except InvalidMediaError as error:
        raise InvalidMediaError(f"{path} has {error}") from None
    with np.errstate(invalid="ignore"):
        known = np.abs(flow) <= UNKNOWN  # (2, H, W); NaN is not known either
    return flow, known[0] & known[1]


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
    return from_kitti(pixels.astype(np.uint16, copy=False)), pixels[
        ..., 2
    ] > 0  # the third channel is 0 where the flow is not known
