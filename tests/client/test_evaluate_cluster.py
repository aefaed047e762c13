"""`zoofleet evaluate` through a whole cluster. Random weights are never right, so the truth is what they find."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.client.test_up import Up

from zoofleet import Client
from zoofleet._catalog import ModelName, categories
from zoofleet._evaluate import Evaluation, Progress, evaluate, open_dataset, portions
from zoofleet.v1 import vision_pb2

pytestmark = pytest.mark.cluster

CLASSIFIER = "resnet18@random"  # small ones find all categories equally likely
DETECTOR = "ssdlite320_mobilenet_v3_large@random"
SEGMENTER = "lraspp_mobilenet_v3_large@random"
FLOW = "raft_small@random"


@pytest.fixture(scope="module")
def up(redis_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A cluster for all tests here."""
    up = Up(tmp_path_factory.mktemp("up"))
    yield up
    up.process.terminate()
    up.process.wait(60)


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    """A client of it."""
    with Client(up.address) as client:
        yield client


@pytest.fixture
def images(tmp_path: Path, media: Path) -> Path:
    """A folder of small pictures."""
    folder = tmp_path / "images"
    folder.mkdir()
    for position, name in enumerate(("rocket.jpg", "chelsea.png", "coffee.png", "astronaut.png")):
        with Image.open(media / name) as image:
            image.convert("RGB").resize((256, 192)).save(folder / f"{position}.png")
    return folder


def named(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_command_reports_all_and_counts_what_fails(up: Up, client: Client, images: Path, tmp_path: Path) -> None:
    names = categories(ModelName.parse(CLASSIFIER))
    root = tmp_path / "val"
    truths: list[str] = []
    for name in named(images):
        (label,) = client.classify(images / name, model=CLASSIFIER, top_k=1).labels.tolist()
        # The first is right, the others are put where they do not belong.
        truths.append(names[label] if not truths else names[(label + 500) % 1000])
        (root / truths[-1].replace(" ", "_")).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / name, root / truths[-1].replace(" ", "_") / name)
    folder = next(root.iterdir())
    (folder / "broken.jpg").write_bytes(b"words")
    (folder / "gone.jpg").symlink_to("nowhere")

    def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "zoofleet", "evaluate", CLASSIFIER, root, *options, "--address", up.address],
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    first = run("--json", tmp_path / "a.json")
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "acc@1    0.2500" in first.stdout and "4 of 6 items, 2 failed" in first.stdout
    record: dict[str, Any] = json.loads((tmp_path / "a.json").read_bytes())
    assert record["metrics"]["acc@1"] == 0.25
    assert record["dataset"] == {"images": "val", "annotations": None, "item_count": 6}
    reasons = {row["item"].partition("/")[2]: row["error"] for row in record["failures"]}
    assert "No such file" in reasons["gone.jpg"] and "is no image" in reasons["broken.jpg"]
    assert sorted(reasons) == ["broken.jpg", "gone.jpg"]
    assert all(name in first.stderr for name in reasons)
    assert not list(client.list_jobs()), "a job that is read is deleted"

    for name in reasons:
        (folder / name).unlink()
    second = run("--baseline", tmp_path / "a.json", "--limit", "4")
    assert second.returncode == 0, second.stderr
    assert ["acc@1", "0.2500", "0.2500", "+0.0000"] in [line.split() for line in second.stdout.splitlines()]


def test_large_datasets_go_as_several_jobs(
    client: Client, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "JOB_BYTES", 1)
    shutil.copytree(images, tmp_path / "val" / "tench")
    (tmp_path / "val" / "tench" / "gone.jpg").symlink_to("nowhere")
    seen: list[Progress] = []
    evaluation = evaluate(client, open_dataset(CLASSIFIER, tmp_path / "val"), seen.append)
    assert len({job for state in seen for job in state.jobs}) == 4, "the missing file alone is no job"
    assert max(len(state.jobs) for state in seen) == 2 and not seen[-1].jobs
    assert (seen[-1].sent, seen[-1].done, seen[-1].failed) == (5, 5, 1)
    assert [failure.item for failure in evaluation.failures] == ["tench/gone.jpg"]
    assert evaluation.item_count == 5
    assert not list(client.list_jobs())


def test_a_whole_set_of_unreadable_files_is_no_crash(client: Client, tmp_path: Path) -> None:
    (tmp_path / "val" / "tench").mkdir(parents=True)
    (tmp_path / "val" / "tench" / "gone.jpg").symlink_to("nowhere")
    evaluation = evaluate(client, open_dataset(CLASSIFIER, tmp_path / "val"))
    assert len(evaluation.failures) == 1
    assert np.isnan(evaluation.metrics["acc@1"])


def test_detection(client: Client, images: Path, tmp_path: Path) -> None:
    names = categories(ModelName.parse(DETECTOR))
    found = {
        name: client.detect(images / name, model=DETECTOR, score_threshold=0, max_detections=1000)
        for name in named(images)
    }
    truth: dict[str, Any] = {
        "images": [{"id": int(Path(name).stem), "file_name": name, "height": 192, "width": 256} for name in found],
        "categories": [{"id": 100 + i, "name": name} for i, name in enumerate(names) if names.count(name) == 1],
        "annotations": [
            {
                "image_id": int(Path(name).stem),
                "category_id": 100 + int(label),
                "bbox": [float(x0), float(y0), float(x1) - float(x0), float(y1) - float(y0)],
            }
            for name, one in found.items()
            for position, ((x0, y0, x1, y1), label) in enumerate(zip(one.boxes, one.labels, strict=True))
            # COCO takes the first 100 of a category; all scores are equal, so there may be no others among them.
            if names.count(names[label]) == 1 and (one.labels[:position] == label).sum() < 100
        ],
    }
    assert len(truth["annotations"]) >= 100
    (tmp_path / "a.json").write_text(json.dumps(truth))
    assert measured(client, DETECTOR, images, tmp_path / "a.json").metrics["box_AP"] == pytest.approx(1)
    for row in truth["annotations"]:
        row["bbox"] = [2 * value for value in row["bbox"]]
    (tmp_path / "a.json").write_text(json.dumps(truth))
    assert measured(client, DETECTOR, images, tmp_path / "a.json").metrics["box_AP"] < 0.5


def test_segmentation(client: Client, images: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for name in named(images):
        found = client.segment(images / name, model=SEGMENTER)
        (tmp_path / "maps" / name).write_bytes(found.to_proto().label_map)
    evaluation = measured(client, SEGMENTER, images, tmp_path / "maps")
    assert evaluation.metrics == {"miou": 1.0, "pixel_acc": 1.0}
    with Image.open(tmp_path / "maps" / "0.png") as image:
        image.crop((0, 0, 9, 9)).save(tmp_path / "maps" / "0.png")
    cropped = evaluate(client, open_dataset(SEGMENTER, images, tmp_path / "maps"))
    assert [failure.item for failure in cropped.failures] == ["0.png"]
    assert "has 9 x 9 pixels; its image has 256 x 192" in cropped.failures[0].error
    assert cropped.metrics["miou"] == 1.0


def test_optical_flow(client: Client, images: Path, tmp_path: Path) -> None:
    (tmp_path / "flow").mkdir()
    flow = client.estimate_flow(images / "0.png", images / "1.png", model=FLOW)
    (tmp_path / "flow" / "0.flo").write_bytes(flow.to_proto(vision_pb2.FLOW_ENCODING_FLO).data)
    assert measured(client, FLOW, images, tmp_path / "flow").metrics["epe"] == pytest.approx(0, abs=1e-3)
    for position in (0, 1):  # PPM, which no server reads
        with Image.open(images / f"{position}.png") as image:
            image.save(images / f"0_img{position + 1}.ppm")
    (tmp_path / "flow" / "0.flo").rename(images / "0_flow.flo")
    (images / "0.png").unlink()
    assert measured(client, FLOW, images, images).metrics["epe"] == pytest.approx(0, abs=1e-3)


def test_clips(client: Client, media: Path, tmp_path: Path) -> None:
    label = client.classify_clip(media / "bigbuckbunny.mp4", model="r3d_18@random", top_k=2).labels[1]
    folder = tmp_path / "val" / categories(ModelName.parse("r3d_18@random"))[label]
    folder.mkdir(parents=True)
    shutil.copy(media / "bigbuckbunny.mp4", folder)
    evaluation = measured(client, "r3d_18@random", tmp_path / "val", None)
    assert evaluation.metrics == {"acc@1": 0.0, "acc@5": 1.0}


def measured(client: Client, model: str, images: Path, annotations: Path | None) -> Evaluation:
    evaluation = evaluate(client, open_dataset(model, images, annotations))
    assert not evaluation.failures
    return evaluation
