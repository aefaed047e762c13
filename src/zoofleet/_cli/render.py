"""Results drawn on pictures: boxes, masks, keypoints, label maps, class scores, and flow on the colour wheel.

Every function takes Pillow images of any mode and returns a new RGB image; none draws in place. Line widths and type
sizes follow the image's size. Shapes: N objects, K keypoints of an object, H x W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from zoofleet._cli.drawing import (
    ACCENT,
    DARK,
    LIGHT,
    MUTED,
    Bool,
    Color,
    Float32,
    Style,
    UInt8,
    add_legend,
    borders_of,
    colors_by_name,
    corners_of,
    draw_box,
    draw_keypoints,
    draw_tag,
    paint_mask,
    shorten,
)
from zoofleet._media.flows import UNKNOWN
from zoofleet._media.palette import voc_palette
from zoofleet.errors import InvalidArgumentError

__all__ = ["draw_classification", "draw_detections", "draw_label_map", "flow_to_image", "side_by_side"]


def draw_detections(
    image: Image.Image,
    boxes: Float32,
    labels: Sequence[str],
    scores: Float32,
    masks: Bool | None = None,
    keypoints: Float32 | None = None,
    keypoint_scores: Float32 | None = None,
) -> Image.Image:
    """Draw objects, the surest on top. Each category has a colour that depends on its name.

    Args:
        image: the picture, W x H.
        boxes: float32 (N, 4), x0, y0, x1, y1 in pixels. Boxes that are not finite are left out.
        labels: N category names.
        scores: float32 (N,), 0 to 1.
        masks: bool (N, H, W), painted translucent with an outline.
        keypoints: float32 (N, K, 3), x, y in pixels and visibility. 17 keypoints are joined to COCO's person skeleton.
        keypoint_scores: float32 (N, K), logits. Keypoints with a score of 0 or less are left out.

    Raises:
        InvalidArgumentError: the shapes do not fit together.
    """
    _check_detections(image, boxes, labels, scores, masks, keypoints, keypoint_scores)
    finite = np.flatnonzero(np.isfinite(boxes).all(axis=1)).tolist()
    best_first: list[int] = sorted(finite, key=lambda i: -scores[i])
    colors = colors_by_name(labels)
    style = Style.of(image.size)

    canvas = image.convert("RGB")
    if masks is not None:
        pixels = np.asarray(canvas).copy()
        for i in reversed(best_first):
            paint_mask(pixels, masks[i], colors[labels[i]], outline=style.line)
        canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    corners = {i: corners_of(boxes[i], image.size) for i in best_first}
    for i in reversed(best_first):
        draw_box(draw, corners[i], colors[labels[i]], style.line)
    if keypoints is not None:
        for i in reversed(best_first):
            visible = np.isfinite(keypoints[i]).all(axis=1) & (keypoints[i, :, 2] > 0)
            if keypoint_scores is not None:
                visible &= keypoint_scores[i] > 0
            draw_keypoints(canvas, keypoints[i, :, :2], visible, colors[labels[i]], style.line)
    taken: list[tuple[int, int, int, int]] = []
    for i in best_first:
        draw_tag(draw, f"{labels[i]} {scores[i]:.0%}", corners[i], colors[labels[i]], style, taken)
    return canvas


def draw_label_map(image: Image.Image, label_map: UInt8, categories: Sequence[str]) -> Image.Image:
    """Paint each pixel's category over the picture in PASCAL VOC's colours, with a legend of the categories present.

    Args:
        image: the picture, W x H.
        label_map: uint8 (H, W), category indices. 0, the background, is left unpainted.
        categories: category names by index.

    Raises:
        InvalidArgumentError: the label map is of another size.
    """
    if label_map.shape != (image.height, image.width):
        raise InvalidArgumentError(
            f"a label map of shape {label_map.shape} for an image of {image.width}x{image.height} pixels; it must be "
            f"{(image.height, image.width)}"
        )
    style = Style.of(image.size)
    pixels = np.asarray(image.convert("RGB")).copy()
    palette = voc_palette()
    painted = label_map != 0
    pixels[painted] = (0.4 * pixels[painted] + 0.6 * palette[label_map[painted]]).astype(np.uint8)
    pixels[borders_of(label_map)] = LIGHT
    present, counts = np.unique(label_map[painted], return_counts=True)
    rows = []
    for i in np.argsort(-counts, kind="stable"):
        label = int(present[i])
        name = categories[label] if label < len(categories) else str(label)
        share = counts[i] / label_map.size
        rows.append((f"{name} {share:.0%}" if share >= 0.01 else f"{name} <1%", _rgb(palette[label])))
    return add_legend(Image.fromarray(pixels), rows, style)


def draw_classification(image: Image.Image, labels: Sequence[str], scores: Float32) -> Image.Image:
    """Put a strip below the picture that lists the categories, each with a bar and a percentage.

    The strip's height depends on the number of labels and the picture's size only, so that frames stay equal in size.

    Args:
        image: the picture.
        labels: category names, best first.
        scores: float32 (len(labels),), 0 to 1.

    Raises:
        InvalidArgumentError: there are not as many scores as labels.
    """
    if scores.shape != (len(labels),):
        raise InvalidArgumentError(f"scores of shape {scores.shape} for {len(labels)} labels")
    style = Style.of(image.size)
    pad, row = style.pad, style.row
    canvas = Image.new("RGB", (image.width, image.height + len(labels) * row + 2 * pad), DARK)
    canvas.paste(image.convert("RGB"))
    draw = ImageDraw.Draw(canvas)
    percent_width = round(draw.textlength("100.0%", font=style.font))
    name_width = max(1, round(0.55 * image.width) - 2 * pad)
    bar = (round(0.55 * image.width), image.width - percent_width - 2 * pad)
    for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
        top = image.height + pad + i * row
        middle = top + row // 2
        name = shorten(label, style.font, name_width)
        draw.text((pad, middle), name, fill=LIGHT if i == 0 else MUTED, font=style.font, anchor="lm")
        fraction = float(np.clip(np.nan_to_num(score), 0, 1))
        draw.text(
            (image.width - pad, middle),
            f"{fraction:.1%}",
            fill=LIGHT if i == 0 else MUTED,
            font=style.font,
            anchor="rm",
        )
        if bar[1] > bar[0]:
            half = max(1, row // 6)
            draw.rectangle((bar[0], middle - half, bar[1], middle + half), fill=(52, 56, 63))
            end = bar[0] + round(fraction * (bar[1] - bar[0]))
            draw.rectangle((bar[0], middle - half, end, middle + half), fill=ACCENT if i == 0 else (86, 116, 150))
    return canvas


def flow_to_image(flow: Float32, max_norm: float | None = None) -> Image.Image:
    """Colour a flow field with the Middlebury colour wheel: hue is direction, saturation is speed, white is rest.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011.

    Args:
        flow: float32 (2, H, W), the horizontal, then the vertical displacement in pixels. Pixels whose flow is not
            finite, or beyond 1e9, become black.
        max_norm: displacement in pixels that has full saturation; larger ones are darker. None for the field's own
            maximum. Frames of a clip compare only where all have the same value.

    Raises:
        InvalidArgumentError: the flow has another shape, or `max_norm` is not positive.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise InvalidArgumentError(f"a flow of shape {flow.shape}; it must be (2, H, W)")
    if max_norm is not None and not max_norm > 0:
        raise InvalidArgumentError(f"max_norm is {max_norm}; it must be positive")
    known = (np.abs(flow[0]) <= UNKNOWN) & (np.abs(flow[1]) <= UNKNOWN)  # false for NaN
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
    style = Style.of(scaled[0].size)
    pad, head = style.pad, style.row + style.pad
    width = sum(image.width for image in scaled) + pad * (len(scaled) - 1)
    canvas = Image.new("RGB", (width, head + height), DARK)
    draw = ImageDraw.Draw(canvas)
    left = 0
    for image, caption in zip(scaled, captions, strict=True):
        text = shorten(caption, style.font, image.width - 2 * pad)
        draw.text((left + pad, head // 2), text, fill=LIGHT, font=style.font, anchor="lm")
        canvas.paste(image, (left, head))
        left += image.width + pad
    return canvas


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
    """Return Middlebury's wheel, float32 (55, 3), 0 to 1: red, yellow, green, cyan, blue, magenta, in uneven steps."""
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
