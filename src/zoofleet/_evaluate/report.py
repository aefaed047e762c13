"""The table of an evaluation: the main metrics beside those of another run and the published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from zoofleet._catalog import ModelName
from zoofleet._evaluate.evaluation import Evaluation
from zoofleet.errors import InvalidArgumentError, ZoofleetError

__all__ = ["Row", "published", "require_task", "rows"]

_PUBLISHED: Final = {
    "acc@1": ("acc@1", 0.01),
    "acc@5": ("acc@5", 0.01),
    "box_map": ("box_AP", 0.01),
    "mask_map": ("mask_AP", 0.01),
    "kp_map": ("keypoint_AP", 0.01),
    "miou": ("miou", 0.01),
    "pixel_acc": ("pixel_acc", 0.01),
    "epe": ("epe", 1.0),
    "per_image_epe": ("per_image_epe", 1.0),
    "fl_all": ("fl_all", 0.01),
}
"""The catalog's names of metrics, each with our name and the factor to our unit: published shares are in percent."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        metric: the metric's name.
        value: the value in the evaluation. NaN where it was not measured.
        baseline: the value in the baseline. NaN where it was not measured, None where there is no baseline.
        published: the published values by dataset.
    """

    metric: str
    value: float
    baseline: float | None
    published: Mapping[str, float]


def rows(evaluation: Evaluation, baseline: Evaluation | None = None) -> list[Row]:
    """Return the table's rows: all metrics but COCO's recalls, which only the JSON file has.

    Args:
        evaluation: the evaluation.
        baseline: an evaluation to compare with. None for no comparison.

    Raises:
        InvalidArgumentError: the evaluations are of different tasks.
    """
    if baseline is not None:
        require_task(baseline, evaluation.task)
    known = published(evaluation.model)
    names = dict.fromkeys([*evaluation.metrics, *(baseline.metrics if baseline else ())])
    return [
        Row(
            name,
            evaluation.metrics.get(name, math.nan),
            baseline.metrics.get(name, math.nan) if baseline else None,
            {dataset: metrics[name] for dataset, metrics in known.items() if name in metrics},
        )
        for name in names
        if "_AR" not in name
    ]


def require_task(baseline: Evaluation, task: str) -> None:
    """Check that a baseline is of a task, given by its name such as `detect`.

    Raises:
        InvalidArgumentError: the baseline is of another task.
    """
    if baseline.task != task:
        raise InvalidArgumentError(
            f"{baseline.model} was measured on the task {baseline.task!r}; it compares with the same task, not {task!r}"
        )


def published(model: str) -> Mapping[str, Mapping[str, float]]:
    """Return the published metrics of a model by dataset, in our names and units. Empty where there are none."""
    try:
        info = ModelName.parse(model).weights_info
    except ZoofleetError:  # the model is of another version's catalog
        return {}
    metrics = info.meta.get("_metrics", {}) if info else {}
    return {
        dataset: {
            ours: value * factor
            for name, value in values.items()
            if name in _PUBLISHED and math.isfinite(value)
            for ours, factor in [_PUBLISHED[name]]
        }
        for dataset, values in metrics.items()
    }
