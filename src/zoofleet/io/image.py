"""Reading of images into tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from zoofleet._media.images import decode_image
from zoofleet._media.sources import read_error

__all__ = ["read_image"]

_MAX_PIXELS: Final = 1 << 28
"""268 megapixels: more than cameras take, and 805 MB in memory."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read an image as RGB, upright.

    Grey and palette images become RGB, an alpha channel is dropped, and the EXIF orientation is applied.

    Args:
        path: the path of a JPEG, PNG, WebP, BMP, GIF or TIFF file.

    Returns:
        The image, uint8 (3, H, W).

    Raises:
        MediaNotFoundError: there is no such file. This is a FileNotFoundError, too.
        PermissionDeniedError: the file may not be read.
        InvalidMediaError: the file is no image.
        ItemTooLargeError: the image has more than 2**28 pixels.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise read_error(path, error) from None
    image = decode_image(data, _MAX_PIXELS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)
