"""Metrics that grow with each result, in plain numpy; shares are 0 to 1, distances pixels.

Shapes: K categories, H x W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
from PIL import Image

from zoofleet._evaluate.flow_files import read_flow
from zoofleet._values.results import Classification, Flow, Outcome, Segmentation, UInt8
from zoofleet.errors import InvalidArgumentError, InvalidMediaError

__all__ = ["EndPointError", "MeanIou", "Metric", "Sample", "Scores", "TopK", "expect"]

VOID: Final = 255
"""The label of pixels that do not count, as in PASCAL VOC."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a dataset with its ground truth.

    Attributes:
        item_id: unique in the dataset: the image's path under its folder, or that path's end.
        media: the image or clip, or the pair of images for optical flow.
        truth: the category's index, the COCO id of the image, or the file of the label map or flow.
    """

    item_id: str
    media: Path | tuple[Path, Path]
    truth: int | Path

    @property
    def index(self) -> int:
        """The truth where it is a number.

        Raises:
            InvalidArgumentError: it is a file.
        """
        if isinstance(self.truth, Path):
            raise InvalidArgumentError(f"the truth of {self.item_id!r} is a file, {self.truth}")
        return self.truth

    @property
    def file(self) -> Path:
        """The truth where it is a file.

        Raises:
            InvalidArgumentError: it is a number.
        """
        if not isinstance(self.truth, Path):
            raise InvalidArgumentError(f"the truth of {self.item_id!r} is a number, {self.truth}")
        return self.truth


@dataclass(frozen=True, slots=True)
class Scores:
    """What a metric has come to.

    Attributes:
        metrics: name to value; NaN where nothing was there to measure.
        per_category: category to name to value.
    """

    metrics: Mapping[str, float]
    per_category: Mapping[str, Mapping[str, float]]


class Metric(Protocol):
    """Grows with each result."""

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a result; nothing of it is counted where this raises.

        Raises:
            ZoofleetError: the sample's ground truth cannot be read or does not fit to its image.
        """

    def result(self) -> Scores:
        """The metric over all results so far."""


_T = TypeVar("_T", bound=Outcome)


def expect(outcome: Outcome, kind: type[_T]) -> _T:
    """The outcome, which must be of a kind.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not isinstance(outcome, kind):
        raise InvalidArgumentError(f"a result of type {type(outcome).__name__}; accepted: {kind.__name__}")
    return outcome


class TopK:
    """`acc@1` and `acc@5`: the share of items whose category is the best, or among the five best.

    Args:
        categories: names of the model's categories by index.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self._categories = categories
        self._counts = np.zeros((len(categories), 3), dtype=np.int64)  # (K, [items, best, among five])

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a `Classification`; the truth is the category's index."""
        labels = expect(outcome, Classification).labels[:5]
        hits = labels == sample.index
        self._counts[sample.index] += (1, bool(hits[:1].any()), bool(hits.any()))

    def result(self) -> Scores:
        """`acc@1` and `acc@5`, over all items and for each category that has any."""
        return Scores(
            self._shares(self._counts.sum(axis=0)),
            {name: self._shares(row) for name, row in zip(self._categories, self._counts, strict=True) if row[0]},
        )

    @staticmethod
    def _shares(row: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> dict[str, float]:
        items, first, five = row.tolist()
        return {"acc@1": first / items, "acc@5": five / items} if items else {"acc@1": np.nan, "acc@5": np.nan}


class MeanIou:
    """`miou` and `pixel_acc` from one confusion matrix over all pixels of all images, as PASCAL VOC has it.

    A category's intersection over union is TP / (TP + FP + FN); the mean is over the categories that the ground truth
    has. Pixels of label 255 do not count.

    Args:
        categories: names of the model's categories by index, at most 255.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self._categories = categories
        self._confusion = np.zeros((256, 256), dtype=np.int64)  # (truth, predicted)

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a `Segmentation`; the truth is the file of a label map, a palette or greyscale PNG.

        Raises:
            InvalidMediaError: the label map cannot be read, has another size, or labels that the model does not have.
        """
        predicted = expect(outcome, Segmentation).label_map
        truth = _read_label_map(sample.file)
        if truth.shape != predicted.shape:
            raise InvalidMediaError(
                f"{sample.file} has {truth.shape[1]} x {truth.shape[0]} pixels; "
                f"its image has {predicted.shape[1]} x {predicted.shape[0]}"
            )
        counted = truth != VOID
        pairs = truth[counted].astype(np.int64) * 256 + predicted[counted]
        counts = np.bincount(pairs, minlength=65536).reshape(256, 256)  # (65536,) -> (truth, predicted)
        unknown = np.flatnonzero(counts[len(self._categories) :].any(axis=1))
        if unknown.size:
            raise InvalidMediaError(
                f"{sample.file} has the label {unknown[0] + len(self._categories)}; "
                f"accepted: 0 to {len(self._categories) - 1}, and {VOID} for pixels that do not count"
            )
        self._confusion += counts

    def result(self) -> Scores:
        """`miou` and `pixel_acc`; for each category in the ground truth `iou`."""
        hits = np.diag(self._confusion)
        truth, predicted = self._confusion.sum(axis=1), self._confusion.sum(axis=0)
        present = np.flatnonzero(truth)
        ious = (hits[present] / (truth + predicted - hits)[present]).tolist()
        metrics = {
            "miou": float(np.mean(ious)) if ious else np.nan,
            "pixel_acc": float(hits.sum() / truth.sum()) if ious else np.nan,
        }
        names = (self._categories[index] for index in present.tolist())
        return Scores(metrics, {name: {"iou": iou} for name, iou in zip(names, ious, strict=True)})


def _read_label_map(path: Path) -> UInt8:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("P", "L"):
                raise InvalidMediaError(f"{path} is a PNG of mode {image.mode}; accepted: a palette or 8-bit grey PNG")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InvalidMediaError):
            raise
        raise InvalidMediaError(f"cannot read the label map {path}: {error}") from None


class EndPointError:
    """Errors of optical flow over all valid pixels.

    `epe` is the mean distance from the true to the estimated end point over all pixels, `per_image_epe` the mean over
    images of each one's mean; `1px`, `3px`, `5px` are shares of pixels that are further off; `fl_all` is KITTI's share
    of those that are off by more than 3 px and 5 % of the true length.
    """

    _NAMES: Final = ("epe", "1px", "3px", "5px", "fl_all")

    def __init__(self) -> None:
        self._sums = np.zeros(len(self._NAMES))
        self._pixels = 0
        self._image_sum = 0.0
        self._images = 0

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a `Flow`; the truth is the file of a flow.

        Raises:
            InvalidMediaError: the file cannot be read, or has another size.
        """
        estimated = expect(outcome, Flow).flow
        truth, valid = read_flow(sample.file)
        if truth.shape != estimated.shape:
            raise InvalidMediaError(
                f"{sample.file} has {truth.shape[2]} x {truth.shape[1]} pixels; "
                f"its images have {estimated.shape[2]} x {estimated.shape[1]}"
            )
        off = estimated[:, valid].astype(np.float64) - truth[:, valid]  # (2, valid pixels)
        errors = np.hypot(*off)
        if not errors.size:
            return
        outliers = (errors > 3) & (errors > 0.05 * np.hypot(*truth[:, valid]))
        self._sums += [
            errors.sum(),
            *((errors > distance).sum() for distance in (1, 3, 5)),
            outliers.sum(),
        ]
        self._pixels += errors.size
        self._image_sum += float(errors.mean())
        self._images += 1

    def result(self) -> Scores:
        """`epe`, `1px`, `3px`, `5px`, `fl_all` and `per_image_epe`."""
        if not self._images:
            return Scores(dict.fromkeys((*self._NAMES, "per_image_epe"), np.nan), {})
        means = dict(zip(self._NAMES, (self._sums / self._pixels).tolist(), strict=True))
        return Scores(means | {"per_image_epe": self._image_sum / self._images}, {})
