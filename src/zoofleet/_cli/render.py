"""Results drawn on pictures: boxes, masks, keypoints, label maps, class scores, and flow on the colour wheel.

Everything here takes a Pillow image of any mode and returns a new RGB image; nothing is drawn in place. Line widths and
type sizes follow the image's size. Shapes: N objects, K keypoints an object, H x W pixels of the image.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from zoofleet._media.palette import voc_palette
from zoofleet.errors import InvalidArgumentError

__all__ = ["draw_classification", "draw_detections", "draw_label_map", "flow_to_image", "side_by_side"]

Color: TypeAlias = tuple[int, int, int]
Float32: TypeAlias = npt.NDArray[np.float32]
Bool: TypeAlias = npt.NDArray[np.bool_]
UInt8: TypeAlias = npt.NDArray[np.uint8]

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
"""Bright enough to stand on a dark picture under a dark outline; black or white type is legible on each."""

_DARK: Final[Color] = (24, 26, 30)
_LIGHT: Final[Color] = (240, 242, 245)
_MUTED: Final[Color] = (150, 156, 166)
_ACCENT: Final[Color] = (64, 160, 255)

_HEAD, _LEFT, _RIGHT, _MIDDLE = (90, 230, 110), (255, 150, 40), (50, 170, 255), (240, 240, 245)
_PERSON_SKELETON: Final[tuple[tuple[int, int, Color], ...]] = (
    *((a, b, _HEAD) for a, b in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)]),
    *((a, b, _MIDDLE) for a, b in [(5, 6), (11, 12), (5, 11), (6, 12)]),
    *((a, b, _LEFT) for a, b in [(5, 7), (7, 9), (11, 13), (13, 15)]),
    *((a, b, _RIGHT) for a, b in [(6, 8), (8, 10), (12, 14), (14, 16)]),
)
"""COCO's skeleton of 17 keypoints, as zero-based pairs."""

_UNKNOWN_FLOW: Final = 1e9
"""Middlebury's mark: a flow component beyond it is unknown."""


def draw_detections(
    image: Image.Image,
    boxes: Float32,
    labels: Sequence[str],
    scores: Float32,
    masks: Bool | None = None,
    keypoints: Float32 | None = None,
    keypoint_scores: Float32 | None = None,
) -> Image.Image:
    """Draw objects, the surest on top; each category has a colour that comes from its name.

    Args:
        image: the picture, W x H.
        boxes: (N, 4), x0, y0, x1, y1 in pixels; boxes that are not finite are left out.
        labels: N category names.
        scores: (N,), 0 to 1.
        masks: (N, H, W), painted translucent with an outline.
        keypoints: (N, K, 3), x, y in pixels and visibility; 17 keypoints are joined to COCO's person skeleton.
        keypoint_scores: (N, K) logits; keypoints that are not above 0 are left out.

    Raises:
        InvalidArgumentError: the shapes do not fit together.
    """
    _check_detections(image, boxes, labels, scores, masks, keypoints, keypoint_scores)
    finite = np.flatnonzero(np.isfinite(boxes).all(axis=1)).tolist()
    best_first: list[int] = sorted(finite, key=lambda i: -scores[i])
    colors = _colors_by_name(labels)
    style = _Style.of(image.size)

    canvas = image.convert("RGB")
    if masks is not None:
        pixels = np.asarray(canvas).copy()
        for i in reversed(best_first):
            _paint_mask(pixels, masks[i], colors[labels[i]], outline=style.line)
        canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    corners = {i: _corners(boxes[i], image.size) for i in best_first}
    for i in reversed(best_first):
        _draw_box(draw, corners[i], colors[labels[i]], style.line)
    if keypoints is not None:
        for i in reversed(best_first):
            visible = np.isfinite(keypoints[i]).all(axis=1) & (keypoints[i, :, 2] > 0)
            if keypoint_scores is not None:
                visible &= keypoint_scores[i] > 0
            _draw_keypoints(canvas, keypoints[i, :, :2], visible, colors[labels[i]], style.line)
    taken: list[tuple[int, int, int, int]] = []
    for i in best_first:
        _draw_tag(draw, f"{labels[i]} {scores[i]:.0%}", corners[i], colors[labels[i]], style, taken)
    return canvas


def draw_label_map(image: Image.Image, label_map: UInt8, categories: Sequence[str]) -> Image.Image:
    """Paint each pixel's category over the picture in PASCAL VOC's colours, with a legend of those present.

    Args:
        image: the picture, W x H.
        label_map: (H, W), category indices; 0, the background, is left unpainted.
        categories: names by index.

    Raises:
        InvalidArgumentError: the label map is of another size.
    """
    if label_map.shape != (image.height, image.width):
        raise InvalidArgumentError(
            f"a label map of shape {label_map.shape} for an image of {image.width}x{image.height} pixels; it must be "
            f"{(image.height, image.width)}"
        )
    style = _Style.of(image.size)
    pixels = np.asarray(image.convert("RGB")).copy()
    palette = voc_palette()
    painted = label_map != 0
    pixels[painted] = (0.4 * pixels[painted] + 0.6 * palette[label_map[painted]]).astype(np.uint8)
    pixels[_borders(label_map)] = _LIGHT
    present, counts = np.unique(label_map[painted], return_counts=True)
    rows = []
    for i in np.argsort(-counts, kind="stable"):
        label = int(present[i])
        name = categories[label] if label < len(categories) else str(label)
        share = counts[i] / label_map.size
        rows.append((f"{name} {share:.0%}" if share >= 0.01 else f"{name} <1%", _rgb(palette[label])))
    return _with_legend(Image.fromarray(pixels), rows, style)


def draw_classification(image: Image.Image, labels: Sequence[str], scores: Float32) -> Image.Image:
    """Put a strip with the ranked categories, a bar and a percentage each, below the picture.

    The strip's height depends on the number of labels and the picture's size only, so that frames stay equal in size.

    Args:
        image: the picture.
        labels: category names, best first.
        scores: (len(labels),), 0 to 1.

    Raises:
        InvalidArgumentError: there are not as many scores as labels.
    """
    if scores.shape != (len(labels),):
        raise InvalidArgumentError(f"scores of shape {scores.shape} for {len(labels)} labels")
    style = _Style.of(image.size)
    pad, row = style.pad, style.row
    canvas = Image.new("RGB", (image.width, image.height + len(labels) * row + 2 * pad), _DARK)
    canvas.paste(image.convert("RGB"))
    draw = ImageDraw.Draw(canvas)
    percent_width = round(draw.textlength("100.0%", font=style.font))
    name_width = max(1, round(0.55 * image.width) - 2 * pad)
    bar = (round(0.55 * image.width), image.width - percent_width - 2 * pad)
    for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
        top = image.height + pad + i * row
        middle = top + row // 2
        name = _shorten(label, style.font, name_width)
        draw.text((pad, middle), name, fill=_LIGHT if i == 0 else _MUTED, font=style.font, anchor="lm")
        fraction = float(np.clip(np.nan_to_num(score), 0, 1))
        draw.text(
            (image.width - pad, middle),
            f"{fraction:.1%}",
            fill=_LIGHT if i == 0 else _MUTED,
            font=style.font,
            anchor="rm",
        )
        if bar[1] > bar[0]:
            half = max(1, row // 6)
            draw.rectangle((bar[0], middle - half, bar[1], middle + half), fill=(52, 56, 63))
            end = bar[0] + round(fraction * (bar[1] - bar[0]))
            draw.rectangle((bar[0], middle - half, end, middle + half), fill=_ACCENT if i == 0 else (86, 116, 150))
    return canvas


def flow_to_image(flow: Float32, max_norm: float | None = None) -> Image.Image:
    """Colour a flow field with the Middlebury colour wheel: hue is direction, saturation is speed, white is rest.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011.

    Args:
        flow: (2, H, W), horizontal then vertical displacement in pixels; black where not finite or beyond 1e9.
        max_norm: displacement of full saturation, darker beyond; None for the field's own maximum. Frames of a clip
            compare only with the same one.

    Raises:
        InvalidArgumentError: the flow has another shape, or `max_norm` is not positive.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise InvalidArgumentError(f"a flow of shape {flow.shape}; it must be (2, H, W)")
    if max_norm is not None and not max_norm > 0:
        raise InvalidArgumentError(f"max_norm is {max_norm}; it must be positive")
    known = (np.abs(flow[0]) <= _UNKNOWN_FLOW) & (np.abs(flow[1]) <= _UNKNOWN_FLOW)  # false for NaN
    u, v = np.where(known, flow, 0).astype(np.float32)
    norm = np.hypot(u, v)
    if max_norm is None:
        max_norm = float(norm.max(initial=0)) or 1.0
    norm /= max_norm

    wheel = _color_wheel()
    turn = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)  # 0 .. len - 1
    lower = turn.astype(np.intp)
    upper = (lower + 1) % len(wheel)
    weight = (turn % 1)[..., None]
    color = (1 - weight) * wheel[lower] + weight * wheel[upper]  # (H, W, 3) in 0..1
    norm = norm[..., None]
    color = np.where(norm <= 1, 1 - norm * (1 - color), 0.75 * color)
    return Image.fromarray((255 * color * known[..., None]).astype(np.uint8))


def side_by_side(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Put pictures next to each other at the height of the first, each under its caption.

    Raises:
        InvalidArgumentError: there are no pictures, or not as many captions.
    """
    if not images or len(images) != len(captions):
        raise InvalidArgumentError(f"{len(images)} images with {len(captions)} captions; one caption each is needed")
    height = images[0].height
    scaled = [_to_height(image, height) for image in images]
    style = _Style.of(scaled[0].size)
    pad, head = style.pad, style.row + style.pad
    width = sum(image.width for image in scaled) + pad * (len(scaled) - 1)
    canvas = Image.new("RGB", (width, head + height), _DARK)
    draw = ImageDraw.Draw(canvas)
    left = 0
    for image, caption in zip(scaled, captions, strict=True):
        text = _shorten(caption, style.font, image.width - 2 * pad)
        draw.text((left + pad, head // 2), text, fill=_LIGHT, font=style.font, anchor="lm")
        canvas.paste(image, (left, head))
        left += image.width + pad
    return canvas


Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes in pixels that suit a picture."""

    line: int
    font: Font
    row: int
    pad: int

    @classmethod
    def of(cls, size: tuple[int, int]) -> _Style:
        scale = (size[0] * size[1]) ** 0.5
        type_size = round(min(max(scale / 34, 11), 64))
        return cls(max(2, round(scale / 280)), _font(type_size), row=round(1.45 * type_size), pad=type_size // 2)


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _check_detections(
    image: Image.Image,
    boxes: Float32,
    labels: Sequence[str],
    scores: Float32,
    masks: Bool | None,
    keypoints: Float32 | None,
    keypoint_scores: Float32 | None,
) -> None:
    count = len(labels)
    points = keypoints.shape[1] if keypoints is not None and keypoints.ndim == 3 else 0
    expected: list[tuple[str, npt.NDArray[Any] | None, tuple[int, ...]]] = [
        ("boxes", boxes, (count, 4)),
        ("scores", scores, (count,)),
        ("masks", masks, (count, image.height, image.width)),
        ("keypoints", keypoints, (count, points, 3)),
        ("keypoint_scores", keypoint_scores, (count, points)),
    ]
    for name, array, shape in expected:
        if array is not None and array.shape != shape:
            raise InvalidArgumentError(f"{name} of shape {array.shape} for {count} labels; expected {shape}")


def _colors_by_name(names: Iterable[str]) -> dict[str, Color]:
    """A colour for each name, by its hash, so that it does not change with what else is in the picture.

    Where two names meet on one colour the later one in the alphabet takes the next that is free.
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


def _corners(box: Float32, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box's corner pixels, in order and inside the picture."""
    x = np.clip(np.sort(box[[0, 2]]), 0, size[0] - 1)
    y = np.clip(np.sort(box[[1, 3]]), 0, size[1] - 1)
    return round(float(x[0])), round(float(y[0])), round(float(x[1])), round(float(y[1]))


def _draw_box(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], color: Color, line: int) -> None:
    """A frame in the colour between two thin dark ones, which keep it visible on any picture."""
    x0, y0, x1, y1 = corners
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=_DARK, width=line + 2)
    draw.rectangle(corners, outline=color, width=line)


def _paint_mask(pixels: UInt8, mask: Bool, color: Color, outline: int) -> None:
    """Tint the mask's pixels in place and draw its outline inside it."""
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


def _draw_keypoints(canvas: Image.Image, points: Float32, visible: Bool, color: Color, line: int) -> None:
    """Draw joints and bones in place, smoothed by drawing them at twice the size."""
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
            draw.line((at[a], at[b]), fill=_DARK if dark else bone_color, width=2 * line + 2 + extra)
    for i in shown:
        x, y = at[i]
        r = 2 * radius
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_LIGHT if bones else color, outline=_DARK, width=2)
    smooth = layer.reduce(2)
    canvas.paste(smooth, (int(low[0]), int(low[1])), smooth)


def _draw_tag(
    draw: ImageDraw.ImageDraw,
    text: str,
    corners: tuple[int, int, int, int],
    color: Color,
    style: _Style,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a label at its box, where it is inside the picture and covers no tag drawn before, if there is room."""
    width, height = draw.im.size
    text = _shorten(text, style.font, width - style.pad)
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
    """Dark or light type, whichever has more contrast (Rec. 709 luma)."""
    return _DARK if 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2] > 110 else (255, 255, 255)


def _borders(label_map: UInt8) -> Bool:
    """Pixels whose right or lower neighbour has another label."""
    borders = np.zeros(label_map.shape, dtype=np.bool_)
    borders[:, :-1] |= label_map[:, 1:] != label_map[:, :-1]
    borders[:-1] |= label_map[1:] != label_map[:-1]
    return borders


def _with_legend(image: Image.Image, rows: Sequence[tuple[str, Color]], style: _Style) -> Image.Image:
    """Put a legend on a translucent panel in the upper left corner; rows that do not fit are counted."""
    if not rows:
        return image
    pad, row = style.pad, style.row
    fitting = max(1, (image.height - 4 * pad) // row)
    shown = list(rows) if len(rows) <= fitting else list(rows[: fitting - 1])
    texts = [_shorten(text, style.font, image.width // 2) for text, _ in shown]
    if len(shown) < len(rows):
        texts.append(f"+ {len(rows) - len(shown)} more")
    draw = ImageDraw.Draw(image)
    swatch = round(0.6 * row)
    text_width = max(round(draw.textlength(text, font=style.font)) for text in texts)
    panel = (pad, pad, pad + swatch + 3 * pad + text_width, 3 * pad + len(texts) * row)
    under = image.crop(panel)
    image.paste(Image.blend(under, Image.new("RGB", under.size, _DARK), 0.78), panel[:2])
    for i, text in enumerate(texts):
        top = 2 * pad + i * row
        if i < len(shown):
            offset = top + (row - swatch) // 2
            box = (2 * pad, offset, 2 * pad + swatch, offset + swatch)
            draw.rectangle(box, fill=shown[i][1], outline=_LIGHT)
        draw.text((3 * pad + swatch, top + row // 2), text, fill=_LIGHT, font=style.font, anchor="lm")
    return image


def _shorten(text: str, font: Font, width: float) -> str:
    """The text on one line, cut off with an ellipsis where it is wider."""
    text = " ".join(text.split())[:200]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _to_height(image: Image.Image, height: int) -> Image.Image:
    if image.height == height:
        return image.convert("RGB")
    width = max(1, round(image.width * height / image.height))
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _rgb(color: UInt8) -> Color:
    red, green, blue = color.tolist()
    return red, green, blue


@cache
def _color_wheel() -> Float32:
    """Middlebury's wheel, (55, 3) in 0..1: red, yellow, green, cyan, blue, magenta, in uneven steps."""
    # Each stretch moves one channel up or down while another stays full: (steps, full channel, moving channel, up).
    stretches = [
        (15, 0, 1, True),
        (6, 1, 0, False),
        (4, 1, 2, True),
        (11, 2, 1, False),
        (13, 2, 0, True),
        (6, 0, 2, False),
    ]
    parts = []
    for steps, full, moving, up in stretches:
        ramp = np.floor(255 * np.arange(steps) / steps) / 255
        part = np.zeros((steps, 3))
        part[:, full] = 1
        part[:, moving] = ramp if up else 1 - ramp
        parts.append(part)
    return np.concatenate(parts).astype(np.float32)
