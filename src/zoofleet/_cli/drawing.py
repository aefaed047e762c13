"""Parts of annotated pictures: boxes, masks, keypoints, tags and legends, drawn in place.

Shapes: N objects, K keypoints of an object, H x W pixels of the image.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Color: TypeAlias = tuple[int, int, int]
Float32: TypeAlias = npt.NDArray[np.float32]
Bool: TypeAlias = npt.NDArray[np.bool_]
UInt8: TypeAlias = npt.NDArray[np.uint8]

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_CLASS_COLORS: Final[tuple[Color, ...]] = (
    (255, 64, 64),
    (64, 160, 255),
    (80, 220, 80),
    (255, 205, 40),
    (210, 90, 255),
    (255, 140, 30),
    (40, 220, 220),
    (255, 110, 190),
    (170, 230, 40),
    (130, 120, 255),
    (230, 165, 125),
)
"""Colours that stand out on a dark picture within a dark outline, and on which black or white type is legible."""

DARK: Final[Color] = (24, 26, 30)
LIGHT: Final[Color] = (240, 242, 245)
MUTED: Final[Color] = (150, 156, 166)
ACCENT: Final[Color] = (64, 160, 255)

_HEAD, _LEFT, _RIGHT, _MIDDLE = (90, 230, 110), (255, 150, 40), (50, 170, 255), (240, 240, 245)
_PERSON_SKELETON: Final[tuple[tuple[int, int, Color], ...]] = (
    *((a, b, _HEAD) for a, b in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)]),
    *((a, b, _MIDDLE) for a, b in [(5, 6), (11, 12), (5, 11), (6, 12)]),
    *((a, b, _LEFT) for a, b in [(5, 7), (7, 9), (11, 13), (13, 15)]),
    *((a, b, _RIGHT) for a, b in [(6, 8), (8, 10), (12, 14), (14, 16)]),
)
"""The `skeleton` of the category person in COCO's person_keypoints_*.json, as pairs of keypoints from 0."""


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels that suit a picture.

    Attributes:
        line: width of lines.
        font: the type.
        row: height of a line of type.
        pad: distance of type from what is around it.
    """

    line: int
    font: Font
    row: int
    pad: int

    @classmethod
    def of(cls, size: tuple[int, int]) -> Style:
        """Return the style for a picture of size (W, H)."""
        scale = (size[0] * size[1]) ** 0.5
        type_size = round(min(max(scale / 34, 11), 64))
        return cls(max(2, round(scale / 280)), _font(type_size), row=round(1.45 * type_size), pad=type_size // 2)


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def colors_by_name(names: Iterable[str]) -> dict[str, Color]:
    """Return a colour for each name: by the name's hash, so that it does not depend on what else is in the picture.

    Where two names meet on one colour, the later one in the alphabet takes the next free colour.
    """
    colors: dict[str, Color] = {}
    used: set[int] = set()
    for name in sorted(set(names)):
        index = zlib.crc32(name.encode()) % len(_CLASS_COLORS)
        if len(used) < len(_CLASS_COLORS):
            while index in used:
                index = (index + 1) % len(_CLASS_COLORS)
        used.add(index)
        colors[name] = _CLASS_COLORS[index]
    return colors


def corners_of(box: Float32, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box's corner pixels x0, y0, x1, y1, in order and inside a picture of size (W, H)."""
    x = np.clip(np.sort(box[[0, 2]]), 0, size[0] - 1)
    y = np.clip(np.sort(box[[1, 3]]), 0, size[1] - 1)
    return round(float(x[0])), round(float(y[0])), round(float(x[1])), round(float(y[1]))


def draw_box(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], color: Color, line: int) -> None:
    """Draw a frame between two thin dark ones, which keep it visible on any picture."""
    x0, y0, x1, y1 = corners
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=DARK, width=line + 2)
    draw.rectangle(corners, outline=color, width=line)


def paint_mask(pixels: UInt8, mask: Bool, color: Color, outline: int) -> None:
    """Tint the pixels of a mask, and draw the mask's outline inside it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside, part = mask[window], pixels[window]
    part[inside] = (0.55 * part[inside] + 0.45 * np.array(color)).astype(np.uint8)
    core = inside
    for _ in range(outline):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    part[inside & ~core] = color


def draw_keypoints(canvas: Image.Image, points: Float32, visible: Bool, color: Color, line: int) -> None:
    """Draw joints and bones, smoothed: they are drawn at twice the size and reduced."""
    shown = np.flatnonzero(visible)
    if not shown.size:
        return
    radius = line + 1
    margin = radius + 3
    limit = np.array(canvas.size)
    low = np.clip(np.floor(points[shown].min(axis=0)) - margin, 0, limit).astype(int)
    high = np.clip(np.ceil(points[shown].max(axis=0)) + margin, 0, limit).astype(int)
    if (high <= low).any():
        return
    layer = Image.new("RGBA", (2 * int(high[0] - low[0]), 2 * int(high[1] - low[1])))
    draw = ImageDraw.Draw(layer)
    # Far-away points would overflow Pillow's coordinates; what lies outside the picture is cut off anyway.
    at = [tuple(2 * (np.clip(p, -2 * limit, 3 * limit) - low)) for p in points]
    bones = [b for b in _PERSON_SKELETON if visible[b[0]] and visible[b[1]]] if len(points) == 17 else []
    for extra, dark in ((3, True), (0, False)):
        for a, b, bone_color in bones:
            draw.line((at[a], at[b]), fill=DARK if dark else bone_color, width=2 * line + 2 + extra)
    for i in shown:
        x, y = at[i]
        r = 2 * radius
        draw.ellipse((x - r, y - r, x + r, y + r), fill=LIGHT if bones else color, outline=DARK, width=2)
    smooth = layer.reduce(2)
    canvas.paste(smooth, (int(low[0]), int(low[1])), smooth)


def draw_tag(
    draw: ImageDraw.ImageDraw,
    text: str,
    corners: tuple[int, int, int, int],
    color: Color,
    style: Style,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a label at its box: inside the picture and, if there is room, where it covers no tag in `taken`."""
    width, height = draw.im.size
    text = shorten(text, style.font, width - style.pad)
    tag_width, tag_height = round(draw.textlength(text, font=style.font)) + style.pad, style.row
    x0, y0, x1, y1 = corners
    left = max(0, min(x0 - 1, width - tag_width))
    right = max(0, min(x1 + 2 - tag_width, width - tag_width))
    above, inside, below = y0 - 1 - tag_height, y0 - 1, y1 + 2
    places = [(left, above), (left, inside), (right, above), (left, below), (right, inside), (right, below)]
    places += [(left, inside + k * tag_height) for k in range(1, 6)]
    rectangles = [(x, y, x + tag_width, y + tag_height) for x, y in places if 0 <= y <= height - tag_height]
    free = (r for r in rectangles if not any(_overlap(r, t) for t in taken))
    fallback = (left, max(0, min(inside, height - tag_height)))
    rectangle = next(free, (*fallback, fallback[0] + tag_width, fallback[1] + tag_height))
    taken.append(rectangle)
    draw.rectangle((rectangle[0], rectangle[1], rectangle[2] - 1, rectangle[3] - 1), fill=color)
    middle = (rectangle[1] + rectangle[3]) // 2
    draw.text((rectangle[0] + style.pad // 2, middle), text, fill=_ink_on(color), font=style.font, anchor="lm")


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink_on(color: Color) -> Color:
    """Return dark or light type, whichever has more contrast, by the luma of Rec. 709."""
    return DARK if 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2] > 110 else (255, 255, 255)


def borders_of(label_map: UInt8) -> Bool:
    """Return bool (H, W): whether a pixel's right or lower neighbour has another label."""
    borders = np.zeros(label_map.shape, dtype=np.bool_)
    borders[:, :-1] |= label_map[:, 1:] != label_map[:, :-1]
    borders[:-1] |= label_map[1:] != label_map[:-1]
    return borders


def add_legend(image: Image.Image, rows: Sequence[tuple[str, Color]], style: Style) -> Image.Image:
    """Put a legend on a translucent panel in the upper left corner. Its last line counts the rows that do not fit."""
    if not rows:
        return image
    pad, row = style.pad, style.row
    fitting = max(1, (image.height - 4 * pad) // row)
    shown = list(rows) if len(rows) <= fitting else list(rows[: fitting - 1])
    texts = [shorten(text, style.font, image.width // 2) for text, _ in shown]
    if len(shown) < len(rows):
        texts.append(f"+ {len(rows) - len(shown)} more")
    draw = ImageDraw.Draw(image)
    swatch = round(0.6 * row)
    text_width = max(round(draw.textlength(text, font=style.font)) for text in texts)
    panel = (pad, pad, pad + swatch + 3 * pad + text_width, 3 * pad + len(texts) * row)
    under = image.crop(panel)
    image.paste(Image.blend(under, Image.new("RGB", under.size, DARK), 0.78), panel[:2])
    for i, text in enumerate(texts):
        top = 2 * pad + i * row
        if i < len(shown):
            offset = top + (row - swatch) // 2
            box = (2 * pad, offset, 2 * pad + swatch, offset + swatch)
            draw.rectangle(box, fill=shown[i][1], outline=LIGHT)
        draw.text((3 * pad + swatch, top + row // 2), text, fill=LIGHT, font=style.font, anchor="lm")
    return image


def shorten(text: str, font: Font, width: float) -> str:
    """Return the text on one line, cut off with an ellipsis where it is wider than `width` pixels."""
    text = " ".join(text.split())[:200]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
