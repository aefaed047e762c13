"""Metrics that are updated with each result, in plain numpy. Shares are 0 to 1, distances are pixels.

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
"""The label of pixels that do not count: PASCAL VOC's void label, which marks borders of objects."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a dataset with its ground truth.

    Attributes:
        item_id: a unique id in the dataset: the path of the image under its folder, or the end of that path.
        media: the image or clip, or the pair of images for optical flow.
        truth: the category's index, the COCO id of the image, or the file of the label map or flow.
    """

    item_id: str
    media: Path | tuple[Path, Path]
    truth: int | Path

    @property
    def index(self) -> int:
        """The truth, which must be a number.

        Raises:
            InvalidArgumentError: the truth is a file.
        """
        if isinstance(self.truth, Path):
            raise InvalidArgumentError(f"the truth of {self.item_id!r} is a file, {self.truth}")
        return self.truth

    @property
    def file(self) -> Path:
        """The truth, which must be a file.

        Raises:
            InvalidArgumentError: the truth is a number.
        """
        if not isinstance(self.truth, Path):
            raise InvalidArgumentError(f"the truth of {self.item_id!r} is a number, {self.truth}")
        return self.truth


@dataclass(frozen=True, slots=True)
class Scores:
    """The values of a metric.

    Attributes:
        metrics: values by name. NaN where there was nothing to measure.
        per_category: values by name for each category.
    """

    metrics: Mapping[str, float]
    per_category: Mapping[str, Mapping[str, float]]


class Metric(Protocol):
    """What is measured over the results of a dataset."""

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a result. Nothing of the result is counted where this raises an error.

        Args:
            sample: the item with its ground truth.
            outcome: the result for the item.

        Raises:
            ZoofleetError: the ground truth cannot be read, or does not fit the image.
        """

    def result(self) -> Scores:
        """Return the values over all results so far."""


_T = TypeVar("_T", bound=Outcome)


def expect(outcome: Outcome, kind: type[_T]) -> _T:
    """Return an outcome, which must be of a kind.

    Raises:
        InvalidArgumentError: the outcome is of another kind.
    """
    if not isinstance(outcome, kind):
        raise InvalidArgumentError(f"a result of type {type(outcome).__name__}; accepted: {kind.__name__}")
    return outcome


class TopK:
    """`acc@1` and `acc@5`: the share of items whose category is the best one, or among the five best ones.

    Args:
        categories: the names of the model's categories by index.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self._categories = categories
        self._counts = np.zeros((len(categories), 3), dtype=np.int64)  # (K, [items, best, among five])

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a `Classification`. The truth is the category's index."""
        labels = expect(outcome, Classification).labels[:5]
        hits = labels == sample.index
        self._counts[sample.index] += (1, bool(hits[:1].any()), bool(hits.any()))

    def result(self) -> Scores:
        """Return `acc@1` and `acc@5`, over all items and for each category that has items."""
        return Scores(
            self._shares(self._counts.sum(axis=0)),
            {name: self._shares(row) for name, row in zip(self._categories, self._counts, strict=True) if row[0]},
        )

    @staticmethod
    def _shares(row: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> dict[str, float]:
        items, first, five = row.tolist()
        return {"acc@1": first / items, "acc@5": five / items} if items else {"acc@1": np.nan, "acc@5": np.nan}


class MeanIou:
    """`miou` and `pixel_acc` from one confusion matrix over all pixels of all images, as in PASCAL VOC's devkit.

    A category's intersection over union is TP / (TP + FP + FN). The mean is over the categories in the ground truth.
    Pixels of label 255 do not count.

    Args:
        categories: the names of the model's categories by index, at most 255.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self._categories = categories
        self._confusion = np.zeros((256, 256), dtype=np.int64)  # (truth, predicted)

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a `Segmentation`. The truth is the file of a label map, a palette PNG or a grey PNG of 8 bits.

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
        """Return `miou` and `pixel_acc`, and `iou` for each category in the ground truth."""
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
    """Errors of optical flow over all pixels whose true flow is known.

    `epe` is the mean distance in pixels from the true to the estimated end point, over all pixels. `per_image_epe` is
    the mean over images of each image's mean. `1px`, `3px` and `5px` are the shares of pixels whose distance is larger
    than that. `fl_all` is KITTI 2015's share of outliers: pixels whose distance is larger than 3 pixels and larger than
    5 % of the length of the true flow.
    """

    _NAMES: Final = ("epe", "1px", "3px", "5px", "fl_all")

    def __init__(self) -> None:
        self._sums = np.zeros(len(self._NAMES))
        self._pixels = 0
        self._image_sum = 0.0
        self._images = 0

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Count a `Flow`. The truth is the file of a flow.

        Raises:
            InvalidMediaError: the file cannot be read, or has another size than the estimated flow.
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
        """Return `epe`, `1px`, `3px`, `5px`, `fl_all` and `per_image_epe`."""
        if not self._images:
            return Scores(dict.fromkeys((*self._NAMES, "per_image_epe"), np.nan), {})
        means = dict(zip(self._NAMES, (self._sums / self._pixels).tolist(), strict=True))
        return Scores(means | {"per_image_epe": self._image_sum / self._images}, {})
