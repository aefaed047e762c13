"""COCO's annotation files and average precision."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoofleet._evaluate import AveragePrecision, Sample
from zoofleet._evaluate.coco import CocoFile, read_coco
from zoofleet._media.rle import encode
from zoofleet._values.results import Bool, Detections, Float32
from zoofleet.errors import InvalidArgumentError

HEIGHT, WIDTH = 120, 160
BOXES = {7: [[10, 10, 60, 50], [80, 20, 50, 80]], 9: [[30, 40, 40, 40]]}
"""x, y, width, height by image: category 3 in the first place, 5 in the second."""
CATEGORIES = (3, 5)
LABELS = {1: 3, 2: 5}
POINTS = 4
HALF = 51 / 101
"""The average precision of one object found of two: precision 1 at the recalls of 0, 0.01 … 0.5."""


def mask_of(box: list[int]) -> Bool:
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def keypoints_of(box: list[int], count: int = POINTS) -> list[list[float]]:
    x, y, width, height = box
    return [[x + width * i / count, y + height * i / count, 2] for i in range(count)]


def coco(points: int = POINTS) -> dict[str, Any]:
    """An annotation file of two images and three objects, with polygons, run lengths and keypoints."""
    annotations: list[dict[str, Any]] = []
    for image_id, boxes in BOXES.items():
        for place, box in enumerate(boxes):
            x, y, w, h = box
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            rle = {"size": [HEIGHT, WIDTH], "counts": encode(mask_of(box)).decode("ascii")}
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": CATEGORIES[place],
                    "bbox": box,
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": polygon if place else rle,
                    "keypoints": [number for point in keypoints_of(box, points) for number in point],
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in BOXES],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 6, "name": "cow"}],
        "annotations": annotations,
    }


def written(folder: Path, content: Any) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def detections(
    boxes: list[list[int]], *, shift: int = 0, points: int = POINTS, labels: list[int] | None = None
) -> Detections:
    """Detections of boxes (x, y, width, height), shifted to the right, the first label 1, the next 2."""
    moved = [[x + shift, y, w, h] for x, y, w, h in boxes]
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in moved], dtype=np.float32).reshape(-1, 4)
    count = len(boxes)
    keypoints: Float32 = np.array([keypoints_of(b, points) for b in moved], dtype=np.float32).reshape(count, points, 3)
    chosen = labels or list(range(1, count + 1))
    return Detections(
        image_size=(HEIGHT, WIDTH),
        boxes=corners,
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        labels=np.array(chosen, dtype=np.int64),
        categories=tuple(map(str, chosen)),
        rles=tuple(encode(mask_of(box)) for box in moved),
        keypoints=keypoints,
        keypoint_scores=np.ones((count, points), dtype=np.float32),
        keypoint_names=tuple(map(str, range(points))),
    )


def measured(truth: CocoFile, found: Callable[[int], Detections]) -> dict[str, float]:
    metric = AveragePrecision(truth, LABELS)
    for image_id in BOXES:
        metric.add(Sample(str(image_id), Path("x"), image_id), found(image_id))
    return dict(metric.result().metrics)


@pytest.mark.parametrize("points", [POINTS, 17])
def test_perfect_results_have_an_average_precision_of_1(
    tmp_path: Path, points: int, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = read_coco(written(tmp_path, coco(points)))
    metric = AveragePrecision(truth, LABELS)
    for image_id, boxes in BOXES.items():
        metric.add(Sample(str(image_id), Path("x"), image_id), detections(boxes, points=points))
    scores = metric.result()
    for prefix, names in (("box", 12), ("mask", 12), ("keypoint", 10)):
        values = {name: value for name, value in scores.metrics.items() if name.startswith(prefix + "_")}
        assert len(values) == names
        assert values[f"{prefix}_AP"] == values[f"{prefix}_AP50"] == values[f"{prefix}_AP75"] == pytest.approx(1)
        assert values[f"{prefix}_APm"] == pytest.approx(1)
    assert math.isnan(scores.metrics["box_APs"]), "no object is small"
    assert scores.per_category == {
        name: {"box_AP": pytest.approx(1), "mask_AP": pytest.approx(1), "keypoint_AP": pytest.approx(1)}
        for name in ("cat", "dog")
    }
    assert scores == metric.result(), "asking changes nothing"
    assert capsys.readouterr() == ("", "")


def test_shifted_results_fall_as_their_overlap_does(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, coco()))
    scores = measured(truth, lambda image_id: detections(BOXES[image_id], shift=8))
    # 8 of 60, 50 and 40 pixels: IoU (60 - 8) / (60 + 8) = 0.765, 42 / 58 = 0.724, 32 / 48 = 0.667.
    assert scores["box_AP50"] == pytest.approx(1)
    dog = 5 / 10  # 0.50 to 0.70
    cat = (4 * 1 + 2 * HALF) / 10  # both at 0.50 to 0.65, one at 0.70 and 0.75
    assert scores["box_AP"] == pytest.approx((cat + dog) / 2)
    assert scores["mask_AP"] == pytest.approx(scores["box_AP"])


def test_keypoints_count_by_their_distance_in_the_scale_of_the_object(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, coco()))
    scores = measured(truth, lambda image_id: detections(BOXES[image_id], shift=2))
    # exp(-2^2 / (2 * 0.05)^2 / 2 / area) for areas of 3000, 4000 and 1600: 0.935, 0.951, 0.882.
    cat = (8 * 1 + 1 * HALF) / 10  # both at 0.50 to 0.85, one at 0.90
    assert scores["keypoint_AP"] == pytest.approx((cat + 1) / 2)


def test_a_missed_and_a_false_object(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, coco()))
    # Image 7 lacks its dog, image 9 has a dog that is none.
    scores = measured(truth, lambda i: detections(BOXES[i][:1]) if i == 7 else detections([*BOXES[i], [0, 0, 9, 9]]))
    assert scores["box_AP"] == pytest.approx(0.5)
    assert scores["box_AR100"] == pytest.approx(0.5)


def test_a_scaled_box_a_shifted_mask_and_moved_keypoints_are_each_caught(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, coco()))
    perfect = {i: detections(boxes) for i, boxes in BOXES.items()}
    scaled = measured(truth, lambda i: changed(perfect[i], boxes=perfect[i].boxes * np.float32(0.5)))
    assert scaled["box_AP50"] < 0.1 and scaled["mask_AP"] == scaled["keypoint_AP"] == pytest.approx(1)
    rles = {i: tuple(encode(np.roll(mask_of(box), 40, axis=1)) for box in boxes) for i, boxes in BOXES.items()}
    shifted = measured(truth, lambda i: changed(perfect[i], rles=rles[i]))
    assert shifted["mask_AP50"] < 0.1 and shifted["box_AP"] == shifted["keypoint_AP"] == pytest.approx(1)
    points = {i: np.array([keypoints_of(box)[::-1] for box in boxes], dtype=np.float32) for i, boxes in BOXES.items()}
    moved = measured(truth, lambda i: changed(perfect[i], keypoints=points[i]))
    assert moved["keypoint_AP50"] < 0.1 and moved["box_AP"] == moved["mask_AP"] == pytest.approx(1)


def changed(found: Detections, **changes: Any) -> Detections:
    names = ("boxes", "scores", "labels", "categories", "rles", "keypoints", "keypoint_scores", "keypoint_names")
    return Detections(**({"image_size": found.image_size} | {n: getattr(found, n) for n in names} | changes))


def test_nothing_found_is_an_average_precision_of_0(tmp_path: Path) -> None:
    nothing = Detections(
        (HEIGHT, WIDTH), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
    )
    scores = measured(read_coco(written(tmp_path, coco())), lambda _: nothing)
    assert scores["box_AP"] == 0
    assert "mask_AP" not in scores, "no masks were seen"


def test_without_results_nothing_is_measured(tmp_path: Path) -> None:
    scores = AveragePrecision(read_coco(written(tmp_path, coco())), LABELS).result()
    assert all(math.isnan(value) for value in scores.metrics.values()) and not scores.per_category


def test_only_images_that_succeeded_count(tmp_path: Path) -> None:
    metric = AveragePrecision(read_coco(written(tmp_path, coco())), LABELS)
    metric.add(Sample("7", Path("x"), 7), detections(BOXES[7]))
    assert metric.result().metrics["box_AP"] == pytest.approx(1)


def test_labels_that_the_file_lacks_do_not_count(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, coco()))
    scores = measured(
        truth,
        lambda i: detections([*BOXES[i], [1, 1, 5, 5], [2, 2, 5, 5]], labels=[*range(1, len(BOXES[i]) + 1), 3, 900]),
    )
    assert scores["box_AP"] == pytest.approx(1)


def test_what_is_inside_a_crowd_is_not_false(tmp_path: Path) -> None:
    content = coco()
    crowd = {"image_id": 9, "category_id": 3, "bbox": [90, 10, 60, 60], "area": 3600, "iscrowd": 1}
    runs = encode(mask_of([90, 10, 60, 60])).decode("ascii")
    content["annotations"].append({**crowd, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}})
    inside = [95, 15, 20, 20]
    scores = measured(
        read_coco(written(tmp_path, content)),
        lambda i: (
            detections([inside, *BOXES[i]], labels=[1, *range(1, len(BOXES[i]) + 1)])
            if i == 9
            else detections(BOXES[i])
        ),
    )
    assert scores["box_AP"] == pytest.approx(1) and scores["mask_AP"] == pytest.approx(1)


def test_categories_without_keypoints_have_none_counted(tmp_path: Path) -> None:
    content = coco()
    for row in content["annotations"]:
        if row["category_id"] == 5:
            del row["keypoints"]
    metric = AveragePrecision(read_coco(written(tmp_path, content)), LABELS)
    metric.add(Sample("7", Path("x"), 7), detections(BOXES[7]))
    scores = metric.result()
    assert scores.metrics["keypoint_AP"] == pytest.approx(1)
    assert "keypoint_AP" in scores.per_category["cat"] and "keypoint_AP" not in scores.per_category["dog"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (WIDTH, HEIGHT)}, "are for 160 x 120 pixels; the upright image has 120 x 160"),
        ({"rles": (encode(np.ones((3, 3), np.bool_)),) * 2}, "a mask describes 9 pixels; the image has 19200"),
        ({"rles": (b"\xff",) * 2}, "counts"),
        ({"keypoints": np.zeros((2, 9, 3), np.float32)}, "9 keypoints an object; the annotations have 4"),
        ({"boxes": np.full((2, 4), np.nan, np.float32)}, "no finite numbers"),
    ],
    ids=["size", "mask", "counts", "keypoints", "nan"],
)
def test_results_that_do_not_fit_are_not_counted(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    metric = AveragePrecision(read_coco(written(tmp_path, coco())), LABELS)
    with pytest.raises(InvalidArgumentError, match=message):
        metric.add(Sample("7", Path("x"), 7), changed(detections(BOXES[7]), **changes))
    assert math.isnan(metric.result().metrics["box_AP"])


def edited(*path: str | int, value: Any) -> Any:
    content = copy.deepcopy(coco())
    node: Any = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


FIRST, SECOND = ("annotations", 0), ("annotations", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list of objects 'images'"),
        ({"images": [], "categories": []}, "no list of objects 'annotations'"),
        (edited("images", 0, value=3), "no list of objects 'images'"),
        (edited("images", 0, "file_name", value="../../etc/passwd"), "'../../etc/passwd' leaves the folder"),
        (edited("images", 0, "file_name", value="/etc/passwd"), "'/etc/passwd' leaves the folder"),
        (edited("images", 0, "file_name", value="a\0b"), "must be a file's name"),
        (edited("images", 0, "file_name", value=None), "must be a file's name"),
        (edited("images", 0, "file_name", value="9.png"), "file_name '9.png' stands twice"),
        (edited("images", 0, "id", value=9), "image id 9 stands twice"),
        (edited("images", 0, "id", value="7"), "id is '7'"),
        (edited("images", 0, "height", value=0), "160 x 0 pixels; accepted: 1 to 65536"),
        (edited("images", 0, "width", value=10**30), "must be a whole number"),
        (edited("categories", 0, "id", value=5), "category id 5 stands twice"),
        (edited("categories", 0, "name", value=5), "must be text"),
        (edited("categories", 0, "keypoints", value=[1]), "no list of names"),
        (edited(*FIRST, "image_id", value=8), "an image that the file does not list"),
        (edited(*FIRST, "category_id", value=4), "category_id 4, which the file does not list"),
        (edited(*FIRST, "bbox", value=[1, 2, 3]), "must be x, y, width, height"),
        (edited(*FIRST, "bbox", value=[1, 2, -3, 4]), "must be x, y, width, height"),
        (edited(*FIRST, "bbox", value=[1, 2, math.nan, 4]), "bbox is no list of numbers"),
        (edited(*FIRST, "bbox", value=[10**400, 2, 3, 4]), "bbox is no list of numbers"),
        (edited(*FIRST, "area", value="big"), "area is 'big'"),
        (edited(*FIRST, "keypoints", value=[1, 2]), "2 numbers are keypoints"),
        (edited(*FIRST, "segmentation", value="x"), "neither polygons nor run lengths"),
        (edited(*FIRST, "segmentation", value={"size": [1, 1], "counts": "0"}), "the image has [120, 160]"),
        (edited(*FIRST, "segmentation", "counts", value="!!"), "broken run lengths"),
        (edited(*FIRST, "segmentation", "counts", value="é"), "broken run lengths"),
        (edited(*FIRST, "segmentation", "counts", value=[5, -1]), "no list of whole numbers"),
        (edited(*FIRST, "segmentation", "counts", value=[5, 5]), "cover 10 pixels"),
        (edited(*FIRST, "segmentation", "counts", value=7), "neither a list nor text"),
        (edited(*SECOND, "segmentation", value=[[1, 2, 3, 4]]), "4 numbers"),
        (edited(*SECOND, "segmentation", value=[[0, 0, 1e9, 0, 1, 1]]), "leaves its image of width 160"),
        (edited(*SECOND, "segmentation", value=[[0, 0, 0, -1e9, 1, 1]]), "leaves its image of height 120"),
    ],
)
def test_malformed_annotations_are_said(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read_coco(written(tmp_path, content))
    assert message in str(caught.value) and "is no COCO annotation file" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, b'{"images": ' + b"1" * 5000 + b"}"])
def test_what_is_no_json_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InvalidArgumentError, match="is no JSON"):
        read_coco(tmp_path / "a.json")
    with pytest.raises(InvalidArgumentError, match="No such file"):
        read_coco(tmp_path / "b.json")


def test_uncompressed_runs_and_missing_fields_are_taken(tmp_path: Path) -> None:
    content = edited(*FIRST, "segmentation", "counts", value=[HEIGHT * WIDTH - 9, 9])
    for row in content["annotations"]:
        del row["area"], row["iscrowd"], row["id"]
    truth = read_coco(written(tmp_path, content))
    assert [row["id"] for row in truth.annotations] == [1, 2, 3]
    assert truth.annotations[0]["area"] == 3000 and truth.annotations[0]["iscrowd"] == 0
    assert measured(truth, lambda i: detections(BOXES[i]))["box_AP"] == pytest.approx(1)


def test_several_numbers_of_keypoints_are_refused(tmp_path: Path) -> None:
    truth = read_coco(written(tmp_path, edited(*FIRST, "keypoints", value=[1, 2, 2])))
    with pytest.raises(InvalidArgumentError, match=r"objects of \[1, 4\] keypoints"):
        AveragePrecision(truth, LABELS)
