"""The operators again, as plain loops: slow, and what the kernels are tested against.

Letters in shapes: N boxes, K boxes of all images, C channels, H and W pixels.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoofleet._media import rle

__all__ = ["correlation_lookup", "nms", "paste_masks_to_rle", "resize", "roi_align", "upsampled_argmax"]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, idxs: Tensor | None = None) -> Tensor:
    """Compute `zoofleet::nms` in the arithmetic of the dtype of boxes."""
    x1, y1, x2, y2 = boxes.unbind(1)
    areas = (x2 - x1) * (y2 - y1)  # (N,)
    gone = torch.zeros(len(boxes), dtype=torch.bool)
    keep = []
    for i in scores.sort(descending=True, stable=True).indices.tolist():
        if gone[i]:
            continue
        keep.append(i)
        width = (torch.minimum(x2, x2[i]) - torch.maximum(x1, x1[i])).clamp(min=0)
        height = (torch.minimum(y2, y2[i]) - torch.maximum(y1, y1[i])).clamp(min=0)
        intersection = width * height
        above = (intersection / (areas + areas[i] - intersection)).double() > iou_threshold
        gone |= above if idxs is None else above & (idxs == idxs[i])
    return torch.tensor(keep, dtype=torch.int64)


def roi_align(
    features: Tensor,
    boxes: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Compute `zoofleet::roi_align`, differentiably, with positions in double."""
    pooled = []
    for index, *box in boxes.tolist():
        image = features[int(index)]
        offset = 0.5 if aligned else 0.0
        x1, y1, x2, y2 = (c * spatial_scale - offset for c in box)
        rows = _samples(y1, y2, pooled_height, sampling_ratio, aligned)
        columns = _samples(x1, x2, pooled_width, sampling_ratio, aligned)
        for row in rows:
            for column in columns:
                total = image.new_zeros(image.shape[0])  # (C,)
                for y in row:
                    for x in column:
                        total = total + _bilinear(image, y, x)
                pooled.append(total / max(len(row) * len(column), 1))
    if not pooled:
        return features.new_zeros(len(boxes), features.shape[1], pooled_height, pooled_width)
    bins = torch.stack(pooled).reshape(len(boxes), pooled_height, pooled_width, -1)  # (K, height, width, C)
    return bins.permute(0, 3, 1, 2)


def _samples(low: float, high: float, bins: int, sampling_ratio: int, aligned: bool) -> list[list[float]]:
    extent = high - low if aligned else max(high - low, 1.0)
    if not math.isfinite(low) or not math.isfinite(extent):
        return [[] for _ in range(bins)]
    size = extent / bins
    count = sampling_ratio if sampling_ratio > 0 else max(math.ceil(size), 0)
    return [[low + size * i + (j + 0.5) * size / count for j in range(count)] for i in range(bins)]


def _bilinear(image: Tensor, y: float, x: float) -> Tensor:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(image.shape[0])  # (C,)
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = image[:, top, left] * (left + 1 - x) + image[:, top, right] * (x - left)  # (C,)
    below = image[:, bottom, left] * (left + 1 - x) + image[:, bottom, right] * (x - left)  # (C,)
    return above * (top + 1 - y) + below * (y - top)


def paste_masks_to_rle(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[bytes]:
    """Compute `zoofleet::paste_masks_to_rle` pixel by pixel, with the roundings of float32."""
    height, width = size
    side = masks.shape[1]
    encoded = []
    for mask, box in zip(masks.float(), boxes, strict=True):
        x1, y1, x2, y2 = box
        finite = bool(mask.isfinite().all())
        across = _stretched(x1, x2, width, side)
        bits = np.zeros(size, np.bool_)
        for y, rows in _stretched(y1, y2, height, side).items():
            line = [_float32(sum(w * float(mask[i, j]) for i, w in rows)) for j in range(side)]
            for x, columns in across.items():
                bits[y, x] = finite and _float32(sum(w * line[j] for j, w in columns)) > _float32(threshold)
        encoded.append(rle.encode(bits))
    return encoded


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


def _stretched(low: Tensor, high: Tensor, length: int, side: int) -> dict[int, list[tuple[int, float]]]:
    """Return, for each pixel of an axis that a mask covers, the samples that it lies between and their weights."""
    center, half = (low + high) * 0.5, (high - low) * (0.5 * (side + 2) / side)
    first, last = int((center - half).long()), int((center + half).long())
    span = max(last - first + 1, 1)
    scale = _float32(_float32(1 / _float32(span)) * (side + 2))
    pixels = {}
    for pixel in range(max(first, 0), min(first + span, length)):
        source = _float32(_float32(_float32(_float32(pixel - first) + 0.5) * scale) - 0.5)
        source = min(max(source, 0.0), side + 1.0)
        weights = [_float32(1 - abs(_float32(source - sample))) for sample in range(1, side + 1)]
        pixels[pixel] = [(i, weight) for i, weight in enumerate(weights) if weight > 0]
    return pixels


def resize(image: Tensor, size: tuple[int, int], bicubic: bool) -> Tensor:
    """Resize as `zoofleet::resize_normalize` does: uint8 (H, W, 3) to uint8 (height, width, 3)."""
    narrow = [[_weighed(taps, row) for taps in _filter_taps(len(row), size[1], bicubic)] for row in image.tolist()]
    columns = [list(column) for column in zip(*narrow, strict=True)]  # (width, H, 3)
    done = [[_weighed(taps, column) for column in columns] for taps in _filter_taps(len(narrow), size[0], bicubic)]
    return torch.tensor(done, dtype=torch.uint8)


def _weighed(taps: dict[int, int], pixels: Sequence[Sequence[int]]) -> list[int]:
    sums = (sum(weight * pixels[i][c] for i, weight in taps.items()) for c in range(3))
    return [min(max((total + (1 << 21)) >> 22, 0), 255) for total in sums]


def _filter_taps(full: int, out: int, bicubic: bool) -> list[dict[int, int]]:
    scale = full / out
    stretch = max(scale, 1.0)
    support = (2 if bicubic else 1) * stretch
    axis = []
    for pixel in range(out):
        center = (pixel + 0.5) * scale
        taps = {}
        for i in range(max(int(center - support + 0.5), 0), min(int(center + support + 0.5), full)):
            x = abs((i - center + 0.5) * (1 / stretch))
            if not bicubic:
                taps[i] = max(1 - x, 0.0)
            elif x < 1:
                taps[i] = (1.5 * x - 2.5) * x * x + 1
            else:
                taps[i] = -0.5 * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0
        total = math.fsum(taps.values())
        axis.append({i: round(weight / total * (1 << 22)) for i, weight in taps.items()})
    return axis


def upsampled_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute `zoofleet::upsampled_argmax` by torch's own operators: uint8 (height, width) from (C, H, W)."""
    height, _ = size
    rows = logits.shape[1]
    source = ((torch.arange(height) + 0.5) * (rows / height) - 0.5).clamp(min=0)  # row in `logits` of each output row
    above = source.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    mixed = torch.lerp(logits[:, above], logits[:, below], (source - above)[:, None])  # (C, height, W)
    wide = functional.interpolate(mixed[None], size, mode="bilinear", align_corners=False)[0]
    return wide.argmax(dim=0).byte()


def correlation_lookup(features1: Tensor, features2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Compute `zoofleet::correlation_lookup`, differentiably by the features and the coordinates."""
    n, h, w, _ = features1.shape
    found = []
    for image in range(n):
        for y in range(h):
            for x in range(w):
                center_x, center_y = coords[image, :, y, x]
                for dx in range(-radius, radius + 1):
                    for dy in range(-radius, radius + 1):
                        other = _vector_at(features2[image], center_y + dy, center_x + dx)
                        found.append((features1[image, y, x] * other).sum())
    samples = (2 * radius + 1) ** 2
    if not found:
        return features1.new_zeros(n, samples, h, w)
    return torch.stack(found).reshape(n, h, w, samples).permute(0, 3, 1, 2)


def _vector_at(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    height, width, channels = features.shape
    total = features.new_zeros(channels)
    if not -1 < y < height or not -1 < x < width:
        return total
    top, left = math.floor(y.detach()), math.floor(x.detach())
    for row, down in ((top, top + 1 - y), (top + 1, y - top)):
        for column, across in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                total = total + features[row, column] * down * across
    return total
