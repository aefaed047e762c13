"""Images as PNG files in memory."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoofleet.errors import DataLossError

__all__ = ["decode_png", "encode_png"]


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG.

    Raises:
        OSError, ValueError: Pillow cannot save an image of this mode as PNG.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # level 9 takes ten times as long for a fifth less
    return buffer.getvalue()


def decode_png(data: bytes, width: int, height: int, mode: str) -> npt.NDArray[np.uint8]:
    """Decode a PNG whose size and Pillow mode are known.

    Args:
        data: the file.
        width: in pixels.
        height: in pixels.
        mode: `P` for palette indices, or `1` for bits.

    Returns:
        uint8 (height, width): palette indices, or 0 and 1.

    Raises:
        DataLossError: the data are no PNG, or a PNG of another size or mode.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height) or image.mode != mode:
                raise DataLossError(f"a {image.mode} PNG of size {image.size} is not {mode} of size {(width, height)}")
            return np.array(image).astype(np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataLossError(f"not a PNG: {error}") from None
