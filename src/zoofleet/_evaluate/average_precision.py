"""COCO's average precision of boxes, masks and keypoints, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from zoofleet._evaluate.coco import CocoFile
from zoofleet._evaluate.metrics import Sample, Scores, expect
from zoofleet._media import rle
from zoofleet._values.results import Detections, Float32, Int64, Outcome
from zoofleet.errors import FailedPreconditionError, InvalidArgumentError

__all__ = ["AveragePrecision", "require_pycocotools"]

_BOX_NAMES: Final = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_KEYPOINT_NAMES: Final = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")

_COCO_PERSON_KEYPOINTS: Final = 17
_OTHER_SIGMA: Final = 0.05
"""The sigma of keypoints other than the 17 of COCO's persons. For those 17, COCO measured how far annotators disagree,
from 0.025 (eyes) to 0.107 (hips) of the object's scale (cocodataset.org, keypoint evaluation). Nobody has for others;
this value lies in between."""


def require_pycocotools() -> None:
    """Check that average precision can be computed.

    Raises:
        FailedPreconditionError: pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise FailedPreconditionError("COCO's metrics need pycocotools: pip install 'zoofleet[evaluate]'") from None


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The detections of one image, with COCO's category ids in place of the model's labels."""

    boxes: Float32  # (N, 4), x0, y0, x1, y1
    scores: Float32  # (N,)
    category_ids: Int64  # (N,)
    rles: tuple[bytes, ...] | None
    keypoints: Float32 | None  # (N, K, 3)


class AveragePrecision:
    """Average precision of boxes, and of masks and keypoints where both the model and the annotations have them.

    The metrics are COCO's 12 numbers, `box_AP`, `box_AP50`, `box_AP75`, `box_APs`, `box_APm`, `box_APl`, `box_AR1`,
    `box_AR10`, `box_AR100`, `box_ARs`, `box_ARm`, `box_ARl`, the same with `mask_`, and for keypoints 10:
    `keypoint_AP`, `keypoint_AP50`, `keypoint_AP75`, `keypoint_APm`, `keypoint_APl` and the five `keypoint_AR…`.
    Keypoints other than the 17 of COCO's persons count with a sigma of 0.05.

    Args:
        truth: the annotations.
        category_ids: COCO's category id for each of the model's labels that the annotations have. Other labels do not
            count.

    Raises:
        FailedPreconditionError: pycocotools is not installed.
        InvalidArgumentError: the annotations have objects of different numbers of keypoints.
    """

    def __init__(self, truth: CocoFile, category_ids: Mapping[int, int]) -> None:
        require_pycocotools()
        counted = set(category_ids.values())
        self._images = {image.image_id: image for image in truth.images}
        self._names = {row.category_id: row.name for row in truth.categories if row.category_id in counted}
        self._annotations = [row for row in truth.annotations if row["category_id"] in counted]
        self._keypoint_count, self._keypoint_categories = keypoints_of(truth, counted)
        self._category_ids = np.full(max(category_ids, default=0) + 1, -1)  # by label; -1 where the file has none
        for label, category_id in category_ids.items():
            self._category_ids[label] = category_id
        self._found: dict[int, _Found] = {}

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count the `Detections` of an image. The truth is the image's COCO id.

        Raises:
            InvalidArgumentError: the image's size or the number of keypoints is not that of the annotations, a box or
                score is not finite, or a mask does not fit the image.
        """
        found = expect(outcome, Detections)
        image = self._images[sample.index]
        if found.image_size != image.size:
            raise InvalidArgumentError(
                f"the annotations are for {image.size[1]} x {image.size[0]} pixels; "
                f"the upright image has {found.image_size[1]} x {found.image_size[0]}"
            )
        keypoints = found.keypoints if self._keypoint_count else None
        if keypoints is not None and keypoints.shape[1] != self._keypoint_count:
            raise InvalidArgumentError(
                f"{keypoints.shape[1]} keypoints an object; the annotations have {self._keypoint_count}"
            )
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise InvalidArgumentError("boxes or scores are no finite numbers")
        pixels = image.size[0] * image.size[1]
        for mask in found.rles or ():  # pycocotools does not check them
            if (covered := int(rle.runs_of(mask).sum())) != pixels:
                raise InvalidArgumentError(f"a mask describes {covered} pixels; the image has {pixels}")
        known = found.labels < self._category_ids.size
        category_ids = np.where(known, self._category_ids[np.where(known, found.labels, 0)], -1)
        self._found[image.image_id] = _Found(found.boxes, found.scores, category_ids, found.rles, keypoints)

    def result(self) -> Scores:
        """Return the metrics over all images so far, and `box_AP`, `mask_AP` and `keypoint_AP` for each category."""
        parts = [self._evaluate("bbox", "box_", _BOX_NAMES, set(self._names))]
        if any(found.rles is not None for found in self._found.values()) and all(
            "segmentation" in row for row in self._annotations
        ):
            parts.append(self._evaluate("segm", "mask_", _BOX_NAMES, set(self._names)))
        if any(found.keypoints is not None for found in self._found.values()):
            parts.append(self._evaluate("keypoints", "keypoint_", _KEYPOINT_NAMES, self._keypoint_categories))
        metrics: dict[str, float] = {}
        per_category: dict[str, dict[str, float]] = {}
        for part in parts:
            metrics |= part.metrics
            for name, values in part.per_category.items():
                per_category.setdefault(name, {}).update(values)
        return Scores(metrics, per_category)

    def _evaluate(self, iou_type: str, prefix: str, names: Sequence[str], category_ids: set[int]) -> Scores:
        from pycocotools.cocoeval import COCOeval

        if not self._found:
            return Scores(dict.fromkeys((prefix + name for name in names), np.nan), {})
        truth = [self._truth_row(row, iou_type) for row in self._annotations if row["category_id"] in category_ids]
        found = [
            row | {"id": number}
            for number, row in enumerate(
                (
                    row
                    for image_id, found in self._found.items()
                    for row in _rows(image_id, self._images[image_id].size, found, iou_type)
                    if row["category_id"] in category_ids
                ),
                start=1,
            )
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by print
            evaluation = COCOeval(self._index(truth), self._index(found), iou_type)
            evaluation.params.imgIds = sorted(self._found)
            evaluation.params.catIds = sorted(category_ids)
            if iou_type == "keypoints" and self._keypoint_count != _COCO_PERSON_KEYPOINTS:
                evaluation.params.kpt_oks_sigmas = np.full(self._keypoint_count, _OTHER_SIGMA)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, categories); -1 for none
        per_category = {
            self._names[category_id]: {f"{prefix}AP": float(values[values > -1].mean())}
            for category_id, values in zip(sorted(category_ids), precision.transpose(2, 0, 1), strict=True)
            if (values > -1).any()
        }
        numbers = (float(value) if value > -1 else np.nan for value in evaluation.stats)
        return Scores({prefix + name: value for name, value in zip(names, numbers, strict=True)}, per_category)

    def _truth_row(self, row: Mapping[str, Any], iou_type: str) -> dict[str, Any]:
        """Return a copy of an annotation, into which pycocotools writes, with keypoints where those are evaluated."""
        unmarked = {"keypoints": [0.0] * 3 * self._keypoint_count, "num_keypoints": 0}
        return {**(unmarked if iou_type == "keypoints" else {}), **row}

    def _index(self, rows: list[dict[str, Any]]) -> Any:
        """Return pycocotools' index of annotations, or of detections in their form, for the images so far."""
        from pycocotools.coco import COCO

        sizes = ((image_id, self._images[image_id].size) for image_id in self._found)
        index = COCO()
        index.dataset = {
            "images": [{"id": image_id, "height": height, "width": width} for image_id, (height, width) in sizes],
            "categories": [{"id": category_id, "name": name} for category_id, name in self._names.items()],
            "annotations": rows,
        }
        index.createIndex()
        return index


def keypoints_of(truth: CocoFile, category_ids: set[int]) -> tuple[int, set[int]]:
    """Return the number of keypoints of an object, 0 where none are annotated, and the categories that have keypoints.

    Raises:
        InvalidArgumentError: objects have different numbers of keypoints.
    """
    marked = [row for row in truth.annotations if "keypoints" in row and row["category_id"] in category_ids]
    counts = {len(row["keypoints"]) // 3 for row in marked} - {0}
    if len(counts) > 1:
        raise InvalidArgumentError(f"the annotations have objects of {sorted(counts)} keypoints; accepted: one number")
    return max(counts, default=0), {row["category_id"] for row in marked if row["keypoints"]}


def _rows(image_id: int, size: tuple[int, int], found: _Found, iou_type: str) -> Iterator[dict[str, Any]]:
    """Yield the detections of an image as pycocotools takes them, without their ids."""
    height, width = size
    for position in range(len(found.scores)):
        x0, y0, x1, y1 = found.boxes[position].tolist()
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(found.category_ids[position]),
            "score": float(found.scores[position]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        }
        # Small, medium and large go by what is compared: the box's, the mask's, or the keypoints' own extent.
        if iou_type == "segm" and found.rles is not None:
            counts = found.rles[position]
            row |= {"segmentation": {"size": [height, width], "counts": counts}, "area": rle.area(counts)}
        elif iou_type == "keypoints" and found.keypoints is not None:
            points = found.keypoints[position]
            extent = np.ptp(points[:, :2], axis=0).tolist()
            row |= {"keypoints": points.ravel().tolist(), "area": extent[0] * extent[1]}
        yield row
