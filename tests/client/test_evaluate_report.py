"""The JSON file, the table and the comparison."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import Server
from tests.client.test_cli import zoofleet

from zoofleet._evaluate import Evaluation, Failure, published, rows
from zoofleet.errors import InvalidArgumentError

EVALUATION = Evaluation(
    model="resnet50@IMAGENET1K_V2",
    task="classify",
    options={"top_k": 5.0},
    images="val",
    annotations=None,
    item_count=3,
    failures=(Failure("tench/é.jpg", "no image"),),
    metrics={"acc@1": 0.5, "acc@5": 1.0},
    per_category={"tench": {"acc@1": 0.5, "acc@5": 1.0}},
    notes=("A note.",),
    date=datetime(2026, 1, 31, 12, tzinfo=UTC),
    version="0.1.0",
    duration=2.5,
)
FLOW = replace(
    EVALUATION, model="raft_small@C_T_V2", task="estimate_flow", metrics={"epe": math.nan}, annotations="flow"
)


def kept(folder: Path, evaluation: Evaluation, name: str = "a.json") -> Path:
    (folder / name).write_text(evaluation.to_json(), encoding="utf-8")
    return folder / name


def test_the_file_keeps_all_of_it(tmp_path: Path) -> None:
    assert Evaluation.from_json(kept(tmp_path, EVALUATION)) == EVALUATION
    record = json.loads((tmp_path / "a.json").read_bytes())
    assert list(record) == [
        "model",
        "task",
        "options",
        "dataset",
        "failures",
        "metrics",
        "per_category",
        "notes",
        "date",
        "zoofleet",
        "duration_s",
    ]
    assert record["dataset"] == {"images": "val", "annotations": None, "item_count": 3}
    assert record["failures"] == [{"item": "tench/é.jpg", "error": "no image"}]


def test_what_was_not_measured_is_null(tmp_path: Path) -> None:
    assert json.loads(FLOW.to_json())["metrics"] == {"epe": None}
    assert math.isnan(Evaluation.from_json(kept(tmp_path, FLOW)).metrics["epe"])


def broken(*path: str, value: Any) -> str:
    record = json.loads(EVALUATION.to_json())
    node = record
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "[]",
        "{}",
        "[" * 100_000,
        broken("model", value=None),
        broken("model", value=3),
        broken("metrics", value=[1]),
        broken("metrics", "acc@1", value="x"),
        broken("metrics", "acc@1", value=10**400),
        broken("failures", value=[{}]),
        broken("date", value="yesterday"),
        broken("dataset", value="x"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidArgumentError, match=r"is no file of 'zoofleet evaluate --json'"):
        Evaluation.from_json(tmp_path / "a.json")
    with pytest.raises(InvalidArgumentError, match="No such file"):
        Evaluation.from_json(tmp_path / "b.json")


def test_published_metrics_are_in_our_names_and_units() -> None:
    assert published("resnet50@IMAGENET1K_V2") == {
        "ImageNet-1K": {"acc@1": pytest.approx(0.80858), "acc@5": pytest.approx(0.95434)}
    }
    assert published("maskrcnn_resnet50_fpn@COCO_V1") == {
        "COCO-val2017": {"box_AP": pytest.approx(0.379), "mask_AP": pytest.approx(0.346)}
    }
    assert published("raft_large@C_T_V1")["Kitti-Train"] == {"per_image_epe": 5.0172, "fl_all": pytest.approx(0.174506)}
    assert published("vgg16@IMAGENET1K_FEATURES") == {"ImageNet-1K": {}}
    assert published("resnet50@random") == published("resnet50@OF_THE_FUTURE") == {}


def test_rows_have_the_main_metrics_of_both() -> None:
    detection = replace(EVALUATION, task="detect", metrics={"box_AP": 0.4, "box_APs": 0.1, "box_AR100": 0.5})
    with_masks = replace(detection, metrics={"box_AP": 0.3, "mask_AP": 0.2})
    assert [row.metric for row in rows(detection)] == ["box_AP", "box_APs"]
    both = {row.metric: row for row in rows(detection, with_masks)}
    assert list(both) == ["box_AP", "box_APs", "mask_AP"]
    assert (both["box_AP"].baseline, both["box_AP"].value) == (0.3, 0.4)
    assert math.isnan(both["mask_AP"].value) and both["mask_AP"].baseline == 0.2


def test_compare_prints_both_and_their_difference(tmp_path: Path) -> None:
    before = kept(tmp_path, EVALUATION, "before.json")
    after = kept(tmp_path, replace(EVALUATION, metrics={"acc@1": 0.25, "acc@5": 1.0}), "after.json")
    run = zoofleet("compare", before, after)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert ["acc@1", "0.5000", "0.2500", "-0.2500", "0.8086"] in lines
    assert "published on ImageNet-1K" in run.stdout
    assert "before: resnet50@IMAGENET1K_V2 on val: 2 of 3 items, 1 failed" in run.stdout
    assert "tench/é.jpg" in run.stderr and "A note." in run.stderr


def test_compare_refuses_different_tasks(tmp_path: Path) -> None:
    run = zoofleet("compare", kept(tmp_path, EVALUATION, "1.json"), kept(tmp_path, FLOW, "2.json"))
    assert run.returncode == 1
    assert run.stderr == (
        "error: resnet50@IMAGENET1K_V2 was measured on the task 'classify'; "
        "it compares with the same task, not 'estimate_flow'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnt50", "."], 1, "did you mean resnet50"),
        (["resnet50", "missing"], 1, "'missing' is no folder"),
        (["resnet50", ".", "--num-flow-updates", "3"], 2, "is for optical flow; resnet50 is of the task 'classify'"),
        (["resnet50", ".", "--json", "missing/a.json"], 2, "missing is no folder"),
        (["resnet50", ".", "--baseline", "missing.json"], 1, "cannot read missing.json: No such file"),
        (["resnet50", ".", "--limit", "0"], 2, "--limit"),
    ],
)
def test_mistakes_are_said_before_anything_is_sent(arguments: list[str], code: int, message: str) -> None:
    run = zoofleet("evaluate", *arguments)
    assert run.returncode == code
    assert message in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr


def test_ctrl_c_says_which_job_goes_on(server: Server, media: Path, tmp_path: Path) -> None:
    (tmp_path / "tench").mkdir()
    shutil.copy(media / "rocket.jpg", tmp_path / "tench")
    code, said = server.interrupt_while_reading("evaluate", "resnet50@random", tmp_path)
    assert code == 130, said
    assert "nothing was measured" in said and "zoofleet jobs cancel jobs/1" in said
    assert "Traceback" not in said
