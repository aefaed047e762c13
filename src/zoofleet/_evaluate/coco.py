"""COCO's annotation files, read and checked: `instances_*.json`, `person_keypoints_*.json` and others of their form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from zoofleet._media import rle
from zoofleet.errors import InvalidArgumentError, ZoofleetError

__all__ = ["CocoCategory", "CocoFile", "CocoImage", "read_coco"]

_MAX_SIDE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of the file.

    Attributes:
        image_id: the image's COCO id.
        file_name: the path under the folder of images, without `..`.
        size: (H, W) in pixels.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CocoCategory:
    """A category of the file.

    Attributes:
        category_id: the category's COCO id.
        name: the category's name, such as `person`.
        keypoint_names: the names of its keypoints. Empty where the file has none.
    """

    category_id: int
    name: str
    keypoint_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CocoFile:
    """An annotation file.

    Attributes:
        images: the images, in the file's order.
        categories: the categories, in the file's order.
        annotations: rows for pycocotools: `id` from 1, `image_id`, `category_id`, `bbox` (x, y, width, height in
            pixels), `area`, `iscrowd`, and where the file has them `segmentation`, or `keypoints` and `num_keypoints`.
    """

    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[Mapping[str, Any], ...]


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file. Keys that no metric needs are left out.

    Raises:
        InvalidArgumentError: the file cannot be read, is no annotation file, contradicts itself, or names files outside
            of the folder of images.
    """
    try:
        root = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{path} is no JSON: {error}") from None
    try:
        images = tuple(_image(row) for row in _rows(root, "images"))
        categories = tuple(_category(row) for row in _rows(root, "categories"))
        sizes = {image.image_id: image.size for image in images}
        _unique("image id", [image.image_id for image in images])
        _unique("file_name", [image.file_name for image in images])
        _unique("category id", [category.category_id for category in categories])
        known = {category.category_id for category in categories}
        annotations = tuple(
            # pycocotools takes the id 0 for no match, so the rows get ids of ours.
            _annotation(row, sizes, known) | {"id": number}
            for number, row in enumerate(_rows(root, "annotations"), start=1)
        )
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path} is no COCO annotation file: {error}") from None
    return CocoFile(images, categories, annotations)


def _rows(root: Any, key: str) -> list[dict[str, Any]]:
    rows = root.get(key) if isinstance(root, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidArgumentError(f"it has no list of objects {key!r}")
    return rows


def _unique(what: str, values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        seen: set[object] = set()
        twice = next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise InvalidArgumentError(f"{what} {twice!r} stands twice")


def _integer(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise InvalidArgumentError(f"{key} is {str(value)[:40]!r} in {_short(row)}; it must be a whole number from 0")
    return value


def _short(row: Mapping[str, Any]) -> str:
    named = {key: row[key] for key in ("id", "image_id", "file_name", "name") if key in row}
    return str(named)[:120]


def _image(row: Mapping[str, Any]) -> CocoImage:
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidArgumentError(f"file_name is {str(name)[:80]!r} in {_short(row)}; it must be a file's name")
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise InvalidArgumentError(f"file_name {name[:80]!r} leaves the folder of images")
    size = (_integer(row, "height"), _integer(row, "width"))
    if not all(0 < side <= _MAX_SIDE for side in size):
        raise InvalidArgumentError(f"{name[:80]!r} has {size[1]} x {size[0]} pixels; accepted: 1 to {_MAX_SIDE} a side")
    return CocoImage(_integer(row, "id"), name, size)


def _category(row: Mapping[str, Any]) -> CocoCategory:
    name = row.get("name")
    keypoints = row.get("keypoints", [])
    if not isinstance(name, str):
        raise InvalidArgumentError(f"name is {str(name)[:40]!r} in {_short(row)}; it must be text")
    if not isinstance(keypoints, list) or not all(isinstance(keypoint, str) for keypoint in keypoints):
        raise InvalidArgumentError(f"the category {name[:40]!r} has keypoints that are no list of names")
    return CocoCategory(_integer(row, "id"), name, tuple(keypoints))


def _annotation(row: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], categories: set[int]) -> dict[str, Any]:
    image_id, category_id = _integer(row, "image_id"), _integer(row, "category_id")
    if image_id not in sizes:
        raise InvalidArgumentError(f"the annotation {_short(row)} is of an image that the file does not list")
    if category_id not in categories:
        raise InvalidArgumentError(
            f"the annotation {_short(row)} has category_id {category_id}, which the file does not list"
        )
    box = _numbers(row, "bbox")
    if len(box) != 4 or box[2] < 0 or box[3] < 0:
        raise InvalidArgumentError(f"bbox is {box[:4]} in {_short(row)}; it must be x, y, width, height")
    area = row.get("area", box[2] * box[3])
    if not _is_number(area) or area < 0:
        raise InvalidArgumentError(f"area is {str(area)[:40]!r} in {_short(row)}; it must be a number from 0")
    result = {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": float(area),
        "iscrowd": int(row.get("iscrowd") in (1, True)),
    }
    if "segmentation" in row:
        result["segmentation"] = _segmentation(row, sizes[image_id])
    if "keypoints" in row:
        points = _numbers(row, "keypoints")
        if len(points) % 3:
            raise InvalidArgumentError(
                f"{len(points)} numbers are keypoints in {_short(row)}; they must be x, y, visibility"
            )
        result |= {"keypoints": points, "num_keypoints": sum(visibility > 0 for visibility in points[2::3])}
    return result


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _numbers(row: Mapping[str, Any], key: str) -> list[float]:
    values = row.get(key)
    if not isinstance(values, list) or not all(_is_number(value) for value in values):
        raise InvalidArgumentError(f"{key} is no list of numbers in {_short(row)}")
    return [float(value) for value in values]


def _segmentation(row: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Return an annotation's polygons or run lengths, checked against the image's size; pycocotools checks nothing."""
    value = row["segmentation"]
    if isinstance(value, dict):
        return {"size": list(size), "counts": _counts(value, row, size)}
    if not isinstance(value, list) or not value:
        raise InvalidArgumentError(f"segmentation is neither polygons nor run lengths in {_short(row)}")
    height, width = size
    polygons = [_numbers({"segmentation": polygon, **_named(row)}, "segmentation") for polygon in value]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise InvalidArgumentError(f"a polygon has {len(polygon)} numbers in {_short(row)}; accepted: 6, 8, 10, …")
        # Rasterizing takes memory by the length of the edges, so they must stay near the image.
        if not all(-width <= x <= 2 * width for x in polygon[::2]):
            raise InvalidArgumentError(f"a polygon leaves its image of width {width} in {_short(row)}")
        if not all(-height <= y <= 2 * height for y in polygon[1::2]):
            raise InvalidArgumentError(f"a polygon leaves its image of height {height} in {_short(row)}")
    return polygons


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "image_id") if key in row}


def _counts(value: Mapping[str, Any], row: Mapping[str, Any], size: tuple[int, int]) -> bytes | list[int]:
    counts = value.get("counts")
    if value.get("size") != list(size):
        raise InvalidArgumentError(
            f"run lengths of size {value.get('size')} in {_short(row)}; the image has {list(size)}"
        )
    if isinstance(counts, list):
        if not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in counts):
            raise InvalidArgumentError(f"run lengths are no list of whole numbers from 0 in {_short(row)}")
        total = sum(counts)
    elif isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
            total = int(rle.runs_of(counts).sum())
        except (ZoofleetError, UnicodeEncodeError) as error:
            raise InvalidArgumentError(f"broken run lengths in {_short(row)}: {error}") from None
    else:
        raise InvalidArgumentError(f"run lengths are neither a list nor text in {_short(row)}")
    if total != size[0] * size[1]:
        raise InvalidArgumentError(
            f"run lengths cover {total} pixels in {_short(row)}; the image has {size[0] * size[1]}"
        )
    return counts
