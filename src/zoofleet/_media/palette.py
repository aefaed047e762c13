"""The colours of classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def voc_palette() -> npt.NDArray[np.uint8]:
    """Return PASCAL VOC's colours of classes by index, uint8 (256, 3), RGB.

    Bits 0, 3 and 6 of an index are the highest bits of red, bits 1, 4 and 7 those of green, bits 2 and 5 those of blue
    (VOClabelcolormap in PASCAL VOC's devkit).
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for shift in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * shift + channel)) & 1) << (7 - shift)).astype(np.uint8)
    return palette
