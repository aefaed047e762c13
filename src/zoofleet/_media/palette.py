"""The colours of classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def voc_palette() -> npt.NDArray[np.uint8]:
    """Return PASCAL VOC's colours, uint8 (256, 3), RGB.

    The bits of a class's index are spread over the channels, from the top bit down.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for shift in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * shift + channel)) & 1) << (7 - shift)).astype(np.uint8)
    return palette
