"""The metrics of `zoofleet evaluate` against values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoofleet._evaluate import EndPointError, MeanIou, Sample, TopK
from zoofleet._values.results import Classification, Flow, Outcome, Segmentation
from zoofleet.errors import InvalidArgumentError, InvalidMediaError
from zoofleet.v1 import vision_pb2


def sample(truth: int | Path) -> Sample:
    return Sample("item", Path("item.png"), truth)


def ranked(*labels: int) -> Classification:
    scores = np.linspace(0.5, 0.1, len(labels), dtype=np.float32)
    return Classification(np.array(labels), scores, tuple(map(str, labels)))


def test_top_k() -> None:
    metric = TopK("abcdefgh")
    metric.add(sample(0), ranked(0, 1, 2, 3, 4))  # first
    metric.add(sample(0), ranked(1, 2, 3, 4, 0))  # fifth
    metric.add(sample(2), ranked(0, 1, 3, 4, 5, 2))  # sixth
    metric.add(sample(7), ranked(7))
    scores = metric.result()
    assert scores.metrics == {"acc@1": 0.5, "acc@5": 0.75}
    assert scores.per_category == {
        "a": {"acc@1": 0.5, "acc@5": 1.0},
        "c": {"acc@1": 0.0, "acc@5": 0.0},
        "h": {"acc@1": 1.0, "acc@5": 1.0},
    }


@pytest.mark.parametrize("metric", [TopK("ab"), MeanIou("ab"), EndPointError()], ids=lambda m: type(m).__name__)
def test_without_results_nothing_is_measured(metric: TopK | MeanIou | EndPointError) -> None:
    scores = metric.result()
    assert scores.metrics and all(math.isnan(value) for value in scores.metrics.values())
    assert not scores.per_category


def test_results_of_another_kind_are_refused(tmp_path: Path) -> None:
    flow: Outcome = Flow(np.zeros((2, 2, 2), dtype=np.float32))
    with pytest.raises(InvalidArgumentError, match="a result of type Flow; accepted: Classification"):
        TopK("ab").add(sample(0), flow)
    with pytest.raises(InvalidArgumentError, match="is a number"):
        EndPointError().add(sample(0), flow)
    with pytest.raises(InvalidArgumentError, match="is a file"):
        TopK("ab").add(sample(tmp_path), ranked(0))


def label_map(path: Path, rows: list[list[int]], mode: str = "P") -> Path:
    image = Image.fromarray(np.array(rows, dtype=np.uint8))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)  # indices count, not colours
    image.convert(mode).save(path)
    return path


def segmented(rows: list[list[int]]) -> Segmentation:
    return Segmentation(np.array(rows, dtype=np.uint8), ("background", "cat", "dog", "cow"))


@pytest.mark.parametrize("mode", ["P", "L"])
def test_mean_iou_is_over_all_images_at_once(tmp_path: Path, mode: str) -> None:
    metric = MeanIou(("background", "cat", "dog", "cow"))
    metric.add(
        sample(label_map(tmp_path / "1.png", [[0, 0, 1], [1, 255, 255]], mode)), segmented([[0, 1, 1], [1, 2, 0]])
    )
    metric.add(sample(label_map(tmp_path / "2.png", [[0, 2]], mode)), segmented([[3, 3]]))
    scores = metric.result()
    # background: 1 right of 3 true, none else; cat: 2 right, 1 more predicted; dog: missed; cow: not in the truth
    assert scores.per_category == {
        "background": {"iou": pytest.approx(1 / 3)},
        "cat": {"iou": pytest.approx(2 / 3)},
        "dog": {"iou": 0.0},
    }
    assert scores.metrics == {"miou": pytest.approx(1 / 3), "pixel_acc": pytest.approx(3 / 6)}


def test_label_maps_that_do_not_fit_are_not_counted(tmp_path: Path) -> None:
    metric = MeanIou(("background", "cat"))
    found = segmented([[0, 1]])
    bad = {
        "has 1 x 2 pixels; its image has 2 x 1": label_map(tmp_path / "size.png", [[0], [1]]),
        "has the label 7; accepted: 0 to 1, and 255": label_map(tmp_path / "label.png", [[0, 7]]),
        "mode RGB": label_map(tmp_path / "rgb.png", [[0, 1]], "RGB"),
        "cannot read the label map": tmp_path / "missing.png",
    }
    (tmp_path / "text.png").write_bytes(b"words")
    for message, path in [*bad.items(), ("cannot read the label map", tmp_path / "text.png")]:
        with pytest.raises(InvalidMediaError, match=message):
            metric.add(sample(path), found)
    assert math.isnan(metric.result().metrics["miou"])


def flo(path: Path, field: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Path:
    path.write_bytes(Flow(field).to_proto(vision_pb2.FLOW_ENCODING_FLO).data)
    return path


def test_end_point_error(tmp_path: Path) -> None:
    truth = np.zeros((2, 1, 5), dtype=np.float32)
    truth[0] = 100, 0, 0, 0, 1e10  # the last is not known
    estimated = np.zeros((2, 1, 5), dtype=np.float32)
    estimated[0, 0] = 104, 3, 0, 0.5, 0
    estimated[1, 0] = 0, 4, 2, 0, 0  # off by 4 (4 %), 5, 2, 0.5
    metric = EndPointError()
    metric.add(sample(flo(tmp_path / "1.flo", truth)), Flow(estimated))
    metric.add(
        sample(flo(tmp_path / "2.flo", np.zeros((2, 1, 1), np.float32))), Flow(np.full((2, 1, 1), 6, np.float32))
    )
    long = math.sqrt(72)
    assert metric.result().metrics == {
        "epe": pytest.approx((4 + 5 + 2 + 0.5 + long) / 5),
        "1px": pytest.approx(4 / 5),
        "3px": pytest.approx(3 / 5),
        "5px": pytest.approx(1 / 5),
        "fl_all": pytest.approx(2 / 5),
        "per_image_epe": pytest.approx((11.5 / 4 + long) / 2),
    }


def test_a_swapped_axis_is_an_error_of_flow(tmp_path: Path) -> None:
    truth = np.stack([np.full((4, 6), 3.0), np.zeros((4, 6))]).astype(np.float32)
    path = flo(tmp_path / "1.flo", truth)
    right, wrong = EndPointError(), EndPointError()
    right.add(sample(path), Flow(truth))
    wrong.add(sample(path), Flow(truth[::-1].copy()))
    assert right.result().metrics["epe"] == 0
    assert wrong.result().metrics["epe"] == pytest.approx(math.hypot(3, 3))


def test_flows_of_another_size_are_not_counted(tmp_path: Path) -> None:
    metric = EndPointError()
    with pytest.raises(InvalidMediaError, match="has 3 x 2 pixels; its images have 2 x 3"):
        metric.add(
            sample(flo(tmp_path / "1.flo", np.zeros((2, 2, 3), np.float32))), Flow(np.zeros((2, 3, 2), np.float32))
        )
    assert math.isnan(metric.result().metrics["epe"])
