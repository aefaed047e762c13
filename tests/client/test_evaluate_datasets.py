"""Which files `zoofleet evaluate` takes for what, in the layouts of well-known datasets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoofleet import Detect
from zoofleet._catalog import ModelName, categories
from zoofleet._evaluate import AveragePrecision, MeanIou, Sample, open_dataset
from zoofleet._evaluate.coco import CocoFile
from zoofleet._values.results import Flow
from zoofleet.errors import FailedPreconditionError, InvalidArgumentError, InvalidMediaError, UnknownModelError
from zoofleet.v1 import vision_pb2

CLASSIFIER = "mobilenet_v3_small@random"
DETECTOR = "ssdlite320_mobilenet_v3_large@random"
SEGMENTER = "lraspp_mobilenet_v3_large@random"
FLOW = "raft_small@random"


def files(root: Path, *names: str) -> Path:
    """Files of no content: what is in them is read later."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_folders_are_categories_by_name(tmp_path: Path) -> None:
    root = files(tmp_path, "Great_White shark/a.jpg", "goldfish/sub/b.PNG", "goldfish/notes.txt", ".git/c.jpg")
    dataset = open_dataset(CLASSIFIER, root)
    assert dataset.samples == (
        Sample("Great_White shark/a.jpg", root / "Great_White shark" / "a.jpg", 2),
        Sample("goldfish/sub/b.PNG", root / "goldfish" / "sub" / "b.PNG", 1),
    )
    assert dataset.annotations is None


@pytest.mark.parametrize("model", ["quantized_mobilenet_v2@random", "resnet50@random"])
def test_as_many_folders_as_categories_are_their_indices(tmp_path: Path, model: str) -> None:
    root = files(tmp_path, *(f"n{i:08}/{i}.JPEG" for i in range(1000)))
    samples = open_dataset(model, root).samples
    assert [sample.truth for sample in samples] == list(range(1000))
    assert [sample.truth for sample in open_dataset(model, root, limit=4).samples] == [0, 250, 500, 750]


def test_categories_that_differ_only_in_case_need_their_exact_name(tmp_path: Path) -> None:
    root = files(tmp_path, "Cardigan/a.jpg", "cardigan/b.jpg")
    names = categories(ModelName.parse(CLASSIFIER))
    assert [names[sample.index] for sample in open_dataset(CLASSIFIER, root).samples] == ["Cardigan", "cardigan"]
    with pytest.raises(InvalidArgumentError, match="CARDIGAN"):
        open_dataset(CLASSIFIER, files(tmp_path / "loud", "CARDIGAN/a.jpg"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no folders"),
        (["a.jpg"], "has no folders"),
        (["tench/a.jpg", "dodo/a.jpg", "moa/a.jpg"], "2 of 3 folders in .* are no category of .*: dodo, moa;"),
        (["n1/a.jpg", "n2/a.jpg"], "2 of 2 folders .*; its 1000 categories are tench, .* must be as many"),
    ],
)
def test_folders_that_match_no_category_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        open_dataset(CLASSIFIER, files(tmp_path, *names))


def test_clips_are_videos_in_folders(tmp_path: Path) -> None:
    root = files(tmp_path, "air_drumming/a.mp4", "air_drumming/a.jpg", "archery/b.avi")
    assert [(sample.item_id, sample.truth) for sample in open_dataset("r3d_18@random", root).samples] == [
        ("air_drumming/a.mp4", 1),
        ("archery/b.avi", 5),
    ]
    with pytest.raises(InvalidMediaError, match="holds no files"):
        open_dataset("r3d_18@random", files(tmp_path / "empty", "archery/a.jpg"))


@pytest.mark.parametrize(
    ("model", "annotations", "message"),
    [
        (CLASSIFIER, "maps", "the names of folders are the annotations"),
        (SEGMENTER, None, "needs annotations: a folder of label maps"),
        (DETECTOR, None, "needs annotations: a COCO JSON file"),
        (FLOW, None, "needs annotations: a folder of flows"),
        (SEGMENTER, "missing", "is no folder"),
        ("vgg16@IMAGENET1K_FEATURES", None, "has no list of categories"),
    ],
)
def test_annotations_are_of_the_kind_that_the_model_needs(
    tmp_path: Path, model: str, annotations: str | None, message: str
) -> None:
    root = files(tmp_path, "maps/a.png")
    with pytest.raises(InvalidArgumentError, match=message):
        open_dataset(model, root, root / annotations if annotations else None)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="'missing' is no folder"):
        open_dataset(CLASSIFIER, Path("missing"))
    with pytest.raises(UnknownModelError, match="did you mean resnet50"):
        open_dataset("resnt50", tmp_path)
    with pytest.raises(InvalidArgumentError, match="limit is 0"):
        open_dataset(CLASSIFIER, tmp_path, limit=0)


# Segmentation


def test_label_maps_are_matched_by_their_path(tmp_path: Path) -> None:
    root = files(tmp_path, "JPEGImages/a.jpg", "JPEGImages/sub/b.jpg", "JPEGImages/c.jpg")
    files(root, "SegmentationClass/a.png", "SegmentationClass/sub/b.png")
    dataset = open_dataset(SEGMENTER, root / "JPEGImages", root / "SegmentationClass")
    assert dataset.samples == (
        Sample("a.jpg", root / "JPEGImages/a.jpg", root / "SegmentationClass/a.png"),
        Sample("sub/b.jpg", root / "JPEGImages/sub/b.jpg", root / "SegmentationClass/sub/b.png"),
    )
    assert isinstance(dataset.new_metric(), MeanIou)


def test_label_maps_may_stand_beside_their_images(tmp_path: Path) -> None:
    root = files(tmp_path, "a.jpg", "a.png")
    assert open_dataset(SEGMENTER, root, root).samples == (Sample("a.jpg", root / "a.jpg", root / "a.png"),)


def test_label_maps_without_one_image_are_named(tmp_path: Path) -> None:
    root = files(tmp_path, "images/a.jpg", "images/a.bmp", "maps/a.png", "lonely/b.png")
    with pytest.raises(InvalidArgumentError, match=r"several images have one name: .*a\.bmp, .*a\.jpg"):
        open_dataset(SEGMENTER, root / "images", root / "maps")
    with pytest.raises(InvalidArgumentError, match=r"1 label maps have no image in .*: .*b\.png"):
        open_dataset(SEGMENTER, root / "images", root / "lonely")


# Optical flow

LAYOUTS = {
    "Sintel": (
        ["clean/alley_1/frame_0001.png", "clean/alley_1/frame_0002.png", "clean/alley_1/frame_0003.png"],
        ["flow/alley_1/frame_0001.flo", "flow/alley_1/frame_0002.flo"],
        ("clean", "flow"),
        [("alley_1/frame_0001", "alley_1/frame_0002"), ("alley_1/frame_0002", "alley_1/frame_0003")],
    ),
    "KITTI": (
        ["image_2/000000_10.png", "image_2/000000_11.png", "image_2/000001_10.png", "image_2/000001_11.png"],
        ["flow_occ/000000_10.png", "flow_occ/000001_10.png"],
        ("image_2", "flow_occ"),
        [("000000_10", "000000_11"), ("000001_10", "000001_11")],
    ),
    "FlyingChairs": (
        ["data/00001_img1.ppm", "data/00001_img2.ppm", "data/00002_img1.ppm", "data/00002_img2.ppm"],
        ["data/00001_flow.flo", "data/00002_flow.flo"],
        ("data", "data"),
        [("00001_img1", "00001_img2"), ("00002_img1", "00002_img2")],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_of_images_are_found(tmp_path: Path, layout: str) -> None:
    images, flows, (folder, annotations), pairs = LAYOUTS[layout]
    root = files(tmp_path, *images, *flows)
    dataset = open_dataset(FLOW, root / folder, root / annotations, num_flow_updates=32)
    suffix = Path(images[0]).suffix
    media = [tuple(root / folder / f"{name}{suffix}" for name in pair) for pair in pairs]
    assert [sample.media for sample in dataset.samples] == media
    assert [sample.truth for sample in dataset.samples] == [root / flow for flow in flows]
    assert dataset.task.to_proto().estimate_flow.num_flow_updates == 32


def test_flows_without_a_pair_are_named(tmp_path: Path) -> None:
    root = files(tmp_path, "images/a/1.png", "images/b/1.png", "flow/a/1.flo")
    with pytest.raises(InvalidArgumentError, match=r"1 flows have no pair of images in .*: .*1\.flo"):
        open_dataset(FLOW, root / "images", root / "flow")


# Detection


def coco(root: Path, *names: str, **changes: Any) -> Path:
    files(root / "images", "a.jpg", "sub/b.jpg")
    content = {
        "images": [
            {"id": 5, "file_name": "a.jpg", "height": 10, "width": 20},
            {"id": 6, "file_name": "sub/b.jpg", "height": 10, "width": 20},
        ],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [{"image_id": 5, "category_id": 10, "bbox": [1, 2, 3, 4]}],
    }
    (root / "a.json").write_text(json.dumps(content | changes))
    return root / "a.json"


def test_images_and_categories_of_a_coco_file(tmp_path: Path) -> None:
    dataset = open_dataset(DETECTOR, tmp_path / "images", coco(tmp_path, "Traffic_Light", "dodo", "person"))
    assert dataset.samples == (
        Sample("a.jpg", tmp_path / "images" / "a.jpg", 5),
        Sample("sub/b.jpg", tmp_path / "images" / "sub" / "b.jpg", 6),
    )
    assert dataset.notes == (f"{DETECTOR} lacks these categories, which do not count: dodo.",)
    assert dataset.task == Detect(DETECTOR, score_threshold=0.0, max_detections=1000)
    metric = dataset.new_metric()
    assert isinstance(metric, AveragePrecision)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["dodo", "moa"], {}, "no category of .* is one of .*: dodo, moa"),
        (["person", "Person"], {}, "several categories of .* are the same one"),
        (["person"], {"images": [], "annotations": []}, "lists no images"),
        (
            ["person"],
            {"images": [{"id": 5, "file_name": "c.jpg", "height": 1, "width": 1}]},
            r"1 images that .* names are not in .*: c\.jpg",
        ),
        (
            ["person"],
            {"images": [{"id": 5, "file_name": "../a.json", "height": 1, "width": 1}]},
            r"'\.\./a\.json' leaves the folder",
        ),
        (
            ["person"],
            {
                "images": [
                    {"id": 5, "file_name": "a.jpg", "height": 1, "width": 1},
                    {"id": 6, "file_name": "./a.jpg", "height": 1, "width": 1},
                ]
            },
            "several annotations are of .*a.jpg",
        ),
    ],
)
def test_coco_files_that_do_not_fit_are_refused(
    tmp_path: Path, names: list[str], changes: dict[str, Any], message: str
) -> None:
    path = coco(tmp_path, *names, **changes)
    with pytest.raises(InvalidArgumentError, match=message):
        open_dataset(DETECTOR, tmp_path / "images", path)


@pytest.mark.parametrize(
    ("count", "names", "message"),
    [
        (3, [], "finds 17 keypoints; the annotations have 3"),
        (17, [f"point {i}" for i in range(17)], "finds the keypoints nose, .*; the annotations have point 0"),
    ],
)
def test_keypoints_are_those_of_the_model(tmp_path: Path, count: int, names: list[str], message: str) -> None:
    row = {"image_id": 5, "category_id": 10, "bbox": [1, 2, 3, 4], "keypoints": [1, 1, 2] * count}
    categories = [{"id": 10, "name": "person", "keypoints": names}]
    path = coco(tmp_path, annotations=[row], categories=categories)
    with pytest.raises(InvalidArgumentError, match=message):
        open_dataset("keypointrcnn_resnet50_fpn@random", tmp_path / "images", path)
    assert open_dataset(DETECTOR, tmp_path / "images", path).samples, "a model without keypoints does not care"


# The extra


def test_missing_libraries_are_named_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FailedPreconditionError, match=r"pip install 'zoofleet\[evaluate\]'"):
        open_dataset(DETECTOR, tmp_path, coco(tmp_path, "person"))
    with pytest.raises(FailedPreconditionError, match=r"pip install 'zoofleet\[evaluate\]'"):
        AveragePrecision(CocoFile((), (), ()), {})
    root = files(tmp_path, "images/1.png", "images/2.png", "kitti/1.png", "flo/1.flo")
    with pytest.raises(FailedPreconditionError, match=r"pip install 'zoofleet\[evaluate\]'"):
        open_dataset(FLOW, root / "images", root / "kitti")
    field = Flow(np.zeros((2, 3, 4), np.float32))
    (root / "flo" / "1.flo").write_bytes(field.to_proto(vision_pb2.FLOW_ENCODING_FLO).data)
    dataset = open_dataset(FLOW, root / "images", root / "flo")
    metric = dataset.new_metric()
    metric.add(dataset.samples[0], field)
    assert metric.result().metrics["epe"] == 0
