"""The result of an evaluation, and the JSON file that keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoofleet.errors import InvalidArgumentError

__all__ = ["Evaluation", "Failure"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed and does not count in the metrics.

    Attributes:
        item: the item's id.
        error: why the item failed.
    """

    item: str
    error: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The accuracy of a model on a dataset.

    Attributes:
        model: the model's name, `builder@MEMBER`.
        task: `classify`, `classify_clip`, `detect`, `segment` or `estimate_flow`.
        options: the options of the task that were set, by name.
        images: the name of the folder of images.
        annotations: the name of the file or folder of annotations. None where the names of folders are the annotations.
        item_count: number of items, failed ones included.
        failures: the items that failed and do not count in the metrics.
        metrics: values by name. Shares and average precision are 0 to 1, end-point errors are pixels. NaN where there
            was nothing to measure.
        per_category: values by name for each category. Empty for optical flow.
        notes: sentences on what else does not count.
        date: when the evaluation ended, UTC.
        version: the version of Zoofleet.
        duration: how long the evaluation took, in seconds.
    """

    model: str
    task: str
    options: Mapping[str, float]
    images: str
    annotations: str | None
    item_count: int
    failures: tuple[Failure, ...]
    metrics: Mapping[str, float]
    per_category: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]
    date: datetime
    version: str
    duration: float

    def to_json(self) -> str:
        """Return a JSON text. Its format is stable: later versions add fields and change none.

            {
              "model": "ssdlite320_mobilenet_v3_large@COCO_V1",
              "task": "detect",
              "options": {"score_threshold": 0.0, "max_detections": 1000},
              "dataset": {"images": "val2017", "annotations": "instances_val2017.json", "item_count": 5000},
              "failures": [{"item": "000000000139.jpg", "error": "..."}],
              "metrics": {"box_AP": 0.213, ...},
              "per_category": {"person": {"box_AP": 0.33}, ...},
              "notes": [],
              "date": "2026-01-31T12:00:00+00:00",
              "zoofleet": "0.1.0",
              "duration_s": 812.4
            }

        Values that were not measured are null.
        """
        record = {
            "model": self.model,
            "task": self.task,
            "options": dict(self.options),
            "dataset": {"images": self.images, "annotations": self.annotations, "item_count": self.item_count},
            "failures": [{"item": failure.item, "error": failure.error} for failure in self.failures],
            "metrics": _without_nan(self.metrics),
            "per_category": {name: _without_nan(values) for name, values in self.per_category.items()},
            "notes": list(self.notes),
            "date": self.date.isoformat(timespec="seconds"),
            "zoofleet": self.version,
            "duration_s": round(self.duration, 3),
        }
        return json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Evaluation:
        """Read a file with the text that `to_json` returns.

        Raises:
            InvalidArgumentError: the file cannot be read, or has no such text.
        """
        try:
            record = json.loads(path.read_bytes())
            dataset = record["dataset"]
            return cls(
                model=_typed(record["model"], str),
                task=_typed(record["task"], str),
                options=_numbers(record["options"]),
                images=_typed(dataset["images"], str),
                annotations=None if dataset["annotations"] is None else _typed(dataset["annotations"], str),
                item_count=_typed(dataset["item_count"], int),
                failures=tuple(
                    Failure(_typed(row["item"], str), _typed(row["error"], str)) for row in record["failures"]
                ),
                metrics=_numbers(record["metrics"]),
                per_category={name: _numbers(values) for name, values in record["per_category"].items()},
                notes=tuple(_typed(note, str) for note in record["notes"]),
                date=datetime.fromisoformat(record["date"]).astimezone(UTC),
                version=_typed(record["zoofleet"], str),
                duration=float(record["duration_s"]),
            )
        except OSError as error:
            raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InvalidArgumentError(f"{path} is no file of 'zoofleet evaluate --json': {reason}") from None


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _typed(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return value


def _numbers(values: Any) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in values.items()}
