"""Results as JSON Lines, as files beside them, and as annotated pictures.

Three functions have an implementation for each kind of outcome: `_fields`, `annotate` and `_attachment`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

from zoofleet._cli import render
from zoofleet._media.flows import encode_flo
from zoofleet._media.rle import area
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Result, Segmentation
from zoofleet.errors import ZoofleetError

_MAX_PICTURE_SIDE: Final = 1600
"""Annotated pictures have no longer side, in pixels: they are for looking at."""


def record_of(result: Result) -> dict[str, Any]:
    """Return a result as JSON has it, without its label map or flow field, which become files.

    Boxes are x0, y0, x1, y1 in pixels. A mask is `{"size": [H, W], "counts": …}`, which pycocotools reads.
    """
    record: dict[str, Any] = {"item": result.item_id, "model": result.model}
    outcome = result.outcome
    if isinstance(outcome, ZoofleetError):
        return record | {"error": {"type": type(outcome).__name__, "message": str(outcome)}}
    fields = _fields(outcome)
    return record | {"task": fields.pop("task"), "duration": round(result.duration, 4)} | fields


@singledispatch
def _fields(outcome: Outcome) -> dict[str, Any]:
    """Return the fields that an outcome adds to its record."""
    raise TypeError(f"no JSON for {type(outcome).__name__}")


@_fields.register
def _(outcome: Classification) -> dict[str, Any]:
    return {"task": "classify"} | _labelled(outcome)


@_fields.register
def _(outcome: Detections) -> dict[str, Any]:
    fields = {"task": "detect", "image_size": outcome.image_size, "boxes": _rounded(outcome.boxes, 2)}
    fields |= _labelled(outcome)
    if outcome.rles is not None:
        masks = [{"size": outcome.image_size, "counts": rle.decode("ascii")} for rle in outcome.rles]
        fields |= {"masks": masks, "areas": [area(rle) for rle in outcome.rles]}
    if outcome.keypoints is not None and outcome.keypoint_scores is not None:
        fields["keypoints"] = _rounded(outcome.keypoints, 2)
        fields["keypoint_scores"] = _rounded(outcome.keypoint_scores, 4)
        fields["keypoint_names"] = outcome.keypoint_names
    return fields


@_fields.register
def _(outcome: Segmentation) -> dict[str, Any]:
    labels, counts = np.unique(outcome.label_map, return_counts=True)
    names = [outcome.categories[i] if i < len(outcome.categories) else str(i) for i in labels.tolist()]
    pixels = dict(zip(names, counts.tolist(), strict=True))
    return {"task": "segment", "image_size": outcome.label_map.shape, "pixels": pixels}


@_fields.register
def _(outcome: Flow) -> dict[str, Any]:
    speed = np.hypot(*outcome.flow)
    return {
        "task": "estimate_flow",
        "image_size": outcome.flow.shape[1:],
        "mean_speed": round(float(speed.mean()), 4),
    }


def _labelled(outcome: Classification | Detections) -> dict[str, Any]:
    return {
        "labels": outcome.labels.tolist(),
        "categories": outcome.categories,
        "scores": _rounded(outcome.scores, 6),
    }


def _rounded(array: np.ndarray[Any, np.dtype[np.float32]], digits: int) -> Any:
    # JSON has no NaN and no infinity.
    return np.nan_to_num(array.astype(np.float64).round(digits), nan=0.0, posinf=1e30, neginf=-1e30).tolist()


@singledispatch
def annotate(outcome: Outcome, image: Image.Image, max_norm: float | None = None) -> Image.Image:
    """Return the picture that shows an outcome.

    Args:
        outcome: the outcome.
        image: the image that the task ran on, upright.
        max_norm: displacement in pixels that has full colour, for flows that must compare. None for the flow's own
            maximum. Other outcomes do not use it.
    """
    raise TypeError(f"no picture for {type(outcome).__name__}")


@annotate.register
def _(outcome: Classification, image: Image.Image, max_norm: float | None = None) -> Image.Image:
    return render.draw_classification(image, outcome.categories, outcome.scores)


@annotate.register
def _(outcome: Segmentation, image: Image.Image, max_norm: float | None = None) -> Image.Image:
    return render.draw_label_map(image, outcome.label_map, outcome.categories)


@annotate.register
def _(outcome: Flow, image: Image.Image, max_norm: float | None = None) -> Image.Image:
    return render.flow_to_image(outcome.flow, max_norm)


@annotate.register
def _(outcome: Detections, image: Image.Image, max_norm: float | None = None) -> Image.Image:
    return render.draw_detections(
        image,
        outcome.boxes,
        outcome.categories,
        outcome.scores,
        outcome.masks,
        outcome.keypoints,
        outcome.keypoint_scores,
    )


@singledispatch
def _attachment(outcome: Outcome | ZoofleetError) -> tuple[str, str, bytes] | None:
    """Return the file that belongs to an outcome: its key in the record, its path with NAME, and its bytes."""
    return None


@_attachment.register
def _(outcome: Segmentation) -> tuple[str, str, bytes] | None:
    return "label_map", "label_maps/NAME.png", outcome.to_proto().label_map


@_attachment.register
def _(outcome: Flow) -> tuple[str, str, bytes] | None:
    return "flow", "flows/NAME.flo", encode_flo(outcome.flow)


class ResultWriter:
    """Writes results under a folder: `results.jsonl`, `label_maps/`, `flows/`, `annotated/`.

    Args:
        folder: the folder, which is made where it is missing. An older `results.jsonl` in it is overwritten.
        picture_of: returns the path of an item's picture, or None where there is none to annotate. None to annotate
            nothing.

    Attributes:
        path: the path of `results.jsonl`.
        picture_count: number of annotated pictures written.
    """

    def __init__(self, folder: Path, picture_of: Callable[[str], Path | None] | None) -> None:
        self._folder = folder
        self._picture_of = picture_of
        self._names: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"
        self._file = self.path.open("w", encoding="utf-8")
        self.picture_count = 0

    def write(self, result: Result) -> None:
        """Write one result, with the files and the picture that belong to it."""
        record = record_of(result)
        outcome = result.outcome
        name = self._name(result)
        attachment = _attachment(outcome)
        if attachment is not None:
            key, path, data = attachment
            record[key] = self._write(path.replace("NAME", name), data)
        if self._picture_of is not None and not isinstance(outcome, ZoofleetError):
            picture = self._picture_of(result.item_id)
            if picture is not None:
                record |= self._annotated(picture, outcome, f"annotated/{name}.jpg")
        json.dump(record, self._file, ensure_ascii=False, separators=(",", ":"))
        self._file.write("\n")

    def close(self) -> None:
        """Close `results.jsonl`."""
        self._file.close()

    def _annotated(self, path: Path, outcome: Outcome, name: str) -> dict[str, str]:
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")  # results are in upright coordinates
            picture = annotate(outcome, image)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return {"annotation_error": str(error)}
        picture.thumbnail((_MAX_PICTURE_SIDE, _MAX_PICTURE_SIDE))
        target = self._folder / name
        target.parent.mkdir(exist_ok=True)
        picture.save(target, quality=90)
        self.picture_count += 1
        return {"annotated": name}

    def _write(self, name: str, data: bytes) -> str:
        target = self._folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        return name

    def _name(self, result: Result) -> str:
        """Return an unused file name for a result, of harmless characters: an item's id may have any."""
        item = re.sub(r"\.\w{1,5}$", "", result.item_id)
        base = re.sub(r"[^\w.-]+", "_", item, flags=re.ASCII).strip("._")[-100:] or "item"
        base += "-" + re.sub(r"[^\w]+", "_", result.model.partition("@")[0], flags=re.ASCII)
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}-{count}"
        self._names.add(name)
        return name
