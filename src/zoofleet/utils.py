"""Functions that draw results on image tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import ImageColor, ImageDraw, ImageFont
from torch import Tensor

from zoofleet._media.palette import voc_palette
from zoofleet.errors import InvalidArgumentError
from zoofleet.transforms.functional import to_pil_image

__all__ = ["draw_bounding_boxes"]

Color: TypeAlias = str | tuple[int, int, int]
"""A colour: a name such as `red`, a code such as `#ff0000`, or (red, green, blue) of 0 to 255."""


def draw_bounding_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Sequence[str] | None = None,
    colors: Color | Sequence[Color] | None = None,
    *,
    width: int = 1,
    font_size: float = 10,
) -> Tensor:
    """Draw boxes on a copy of an image, each with its label in its upper left corner.

    Args:
        image: (3, H, W) or (1, H, W), uint8, or floating point in [0, 1].
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        labels: N texts. None for boxes without labels.
        colors: one colour for all boxes, or N colours. None for PASCAL VOC's.
        width: the width of the lines in pixels.
        font_size: the size of the labels in pixels.

    Returns:
        The image with the boxes, uint8 (3, H, W).

    Raises:
        InvalidArgumentError: a shape is wrong, the numbers of boxes, labels and colours differ, a box is not finite or
            ends before it begins, or a colour is unknown.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise InvalidArgumentError(
            f"boxes of shape {tuple(boxes.shape)}; accepted: (N, 4), finite, with x0 <= x1 and y0 <= y1"
        )
    inks = _inks(colors, len(boxes))
    if labels is not None and len(labels) != len(boxes):
        raise InvalidArgumentError(f"{len(labels)} labels for {len(boxes)} boxes")
    canvas = to_pil_image(image).convert("RGB")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(font_size)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        draw.rectangle((x0, y0, x1, y1), outline=inks[i], width=width)
        if labels is not None:
            draw.text((x0 + width + 1, y0 + width + 1), labels[i], fill=inks[i], font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)


def _inks(colors: Color | Sequence[Color] | None, count: int) -> list[tuple[int, ...]]:
    """Return a colour for each of `count` boxes."""
    if colors is None:
        return [tuple(row) for row in np.resize(voc_palette()[1:22], (count, 3)).tolist()]
    each: Sequence[Color] = [colors] * count if isinstance(colors, str | tuple) else colors
    if len(each) != count:
        raise InvalidArgumentError(f"{len(each)} colors for {count} boxes")
    try:
        return [ImageColor.getrgb(color) if isinstance(color, str) else color for color in each]
    except ValueError as error:
        raise InvalidArgumentError(f"{error}; accepted: names, '#rrggbb', (red, green, blue)") from None
