"""Results as JSON Lines, as files beside them, and as annotated pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

from zoofleet._cli import render
from zoofleet._media.rle import area
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Result, Segmentation
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import vision_pb2

_MAX_PICTURE_SIDE: Final = 1600
"""Annotated pictures are no larger: they are for looking at."""


def record_of(result: Result) -> dict[str, Any]:
    """A result as JSON has it, without the label map or flow field, which are files.

    Boxes are x0, y0, x1, y1 in pixels; a mask is `{"size": [H, W], "counts": …}`, which pycocotools reads.
    """
    record: dict[str, Any] = {"item": result.item_id, "model": result.model}
    outcome = result.outcome
    if isinstance(outcome, ZoofleetError):
        return record | {"error": {"type": type(outcome).__name__, "message": str(outcome)}}
    record["task"] = _TASKS[type(outcome)]
    record["duration"] = round(result.duration, 4)
    if isinstance(outcome, Classification):
        record |= _labelled(outcome)
    elif isinstance(outcome, Detections):
        record |= {"image_size": outcome.image_size, "boxes": _rounded(outcome.boxes, 2)} | _labelled(outcome)
        if outcome.rles is not None:
            masks = [{"size": outcome.image_size, "counts": rle.decode("ascii")} for rle in outcome.rles]
            record |= {"masks": masks, "areas": [area(rle) for rle in outcome.rles]}
        if outcome.keypoints is not None and outcome.keypoint_scores is not None:
            record["keypoints"] = _rounded(outcome.keypoints, 2)
            record["keypoint_scores"] = _rounded(outcome.keypoint_scores, 4)
            record["keypoint_names"] = outcome.keypoint_names
    elif isinstance(outcome, Segmentation):
        labels, counts = np.unique(outcome.label_map, return_counts=True)
        names = [outcome.categories[i] if i < len(outcome.categories) else str(i) for i in labels.tolist()]
        record |= {"image_size": outcome.label_map.shape, "pixels": dict(zip(names, counts.tolist(), strict=True))}
    else:
        speed = np.hypot(*outcome.flow)
        record |= {"image_size": outcome.flow.shape[1:], "mean_speed": round(float(speed.mean()), 4)}
    return record


_TASKS: Final[dict[type[Outcome], str]] = {
    Classification: "classify",
    Detections: "detect",
    Segmentation: "segment",
    Flow: "estimate_flow",
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


def annotate(image: Image.Image, outcome: Outcome, *, max_norm: float | None = None) -> Image.Image:
    """The picture that shows a result.

    Args:
        image: what the task ran on, upright.
        outcome: the result.
        max_norm: displacement that has full colour, for flows that must compare; the flow's own maximum where None.
    """
    if isinstance(outcome, Classification):
        return render.draw_classification(image, outcome.categories, outcome.scores)
    if isinstance(outcome, Segmentation):
        return render.draw_label_map(image, outcome.label_map, outcome.categories)
    if isinstance(outcome, Flow):
        return render.flow_to_image(outcome.flow, max_norm)
    return render.draw_detections(
        image,
        outcome.boxes,
        outcome.categories,
        outcome.scores,
        outcome.masks,
        outcome.keypoints,
        outcome.keypoint_scores,
    )


class ResultWriter:
    """Writes results under a folder: `results.jsonl`, `label_maps/`, `flows/`, `annotated/`.

    Args:
        folder: made where missing; an older `results.jsonl` is overwritten.
        picture_of: the path of the picture that an item id stands for, None where there is none to annotate; None to
            annotate nothing.
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
        """Write one result."""
        record = record_of(result)
        outcome = result.outcome
        name = self._name(result)
        if isinstance(outcome, Segmentation):
            record["label_map"] = self._write(f"label_maps/{name}.png", outcome.to_proto().label_map)
        elif isinstance(outcome, Flow):
            record["flow"] = self._write(f"flows/{name}.flo", outcome.to_proto(vision_pb2.FLOW_ENCODING_FLO).data)
        if self._picture_of is not None and not isinstance(outcome, ZoofleetError):
            path = self._picture_of(result.item_id)
            if path is not None:
                record |= self._annotated(path, outcome, f"annotated/{name}.jpg")
        json.dump(record, self._file, ensure_ascii=False, separators=(",", ":"))
        self._file.write("\n")

    def close(self) -> None:
        """Close `results.jsonl`."""
        self._file.close()

    def _annotated(self, path: Path, outcome: Outcome, name: str) -> dict[str, str]:
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")  # results are in upright coordinates
            picture = annotate(image, outcome)
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
        """A file name for a result: of harmless characters, since ids are whatever their makers liked, and unused."""
        item = re.sub(r"\.\w{1,5}$", "", result.item_id)
        base = re.sub(r"[^\w.-]+", "_", item, flags=re.ASCII).strip("._")[-100:] or "item"
        base += "-" + re.sub(r"[^\w]+", "_", result.model.partition("@")[0], flags=re.ASCII)
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}-{count}"
        self._names.add(name)
        return name
