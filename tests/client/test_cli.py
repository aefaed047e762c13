"""The command line against the test's server, and the files it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tests.client.conftest import Server
from tests.client.test_messages import OUTCOMES, detections
from tests.odd_media import clip_with_latin1_tags, odd_images

from zoofleet._cli.output import ResultWriter, record_of
from zoofleet._client.items import item_ids
from zoofleet._media.rle import encode
from zoofleet._media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, expand, read_error
from zoofleet._values.results import Flow, Result, Segmentation
from zoofleet.errors import InvalidMediaError, MediaNotFoundError, PermissionDeniedError
from zoofleet.v1 import vision_pb2


def zoofleet(*arguments: str | Path, address: str = "127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zoofleet", *arguments],
        env=os.environ | {"ZOOFLEET_ADDRESS": address, "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def photos(tmp_path: Path, media: Path) -> Path:
    """Two pictures, one in a folder below, among things that are none."""
    folder = tmp_path / "photos"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    (folder / "a.jpg").write_bytes((media / "rocket.jpg").read_bytes())
    (folder / "sub" / "B.PNG").write_bytes((media / "chelsea.png").read_bytes())
    for name in ("notes.txt", "clip.mp4", ".hidden.jpg", "sub/.hidden/c.jpg"):
        (folder / name).write_bytes(b"x")
    return folder


def test_folders_give_their_media_recursively(photos: Path) -> None:
    assert expand([str(photos)], IMAGE_SUFFIXES) == [photos / "a.jpg", photos / "sub" / "B.PNG"]
    assert expand([str(photos)], VIDEO_SUFFIXES) == [photos / "clip.mp4"]


def test_globs_and_files_are_taken_as_they_are_and_once(photos: Path) -> None:
    found = expand([str(photos / "notes.txt"), str(photos / "**" / "*.[jP]*"), str(photos)], IMAGE_SUFFIXES)
    assert found == [photos / "notes.txt", photos / "a.jpg", photos / "sub" / "B.PNG"]


@pytest.mark.parametrize("path", ["missing.jpg", "missing/", "\0"])
def test_paths_that_are_not_there_are_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(MediaNotFoundError, match="does not exist"):
        expand([str(tmp_path) + "/" + path], IMAGE_SUFFIXES)


@pytest.mark.parametrize("path", ["", "*.nothing"])
def test_paths_that_hold_nothing_are_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidMediaError, match="holds no files"):
        expand([str(tmp_path) + "/" + path], IMAGE_SUFFIXES)


def test_a_file_that_may_not_be_read_is_said_to_be_so() -> None:
    error = read_error("secret.jpg", PermissionError(13, "Permission denied"))
    assert type(error) is PermissionDeniedError and str(error) == "cannot read 'secret.jpg': Permission denied"


def test_item_ids_are_valid_and_unique() -> None:
    paths = [Path("a.jpg"), Path("ä" * 200), Path(os.fsdecode(b"\xff.jpg")), Path(os.fsdecode(b"\xfe.jpg"))]
    ids = item_ids(paths)
    assert list(ids.values()) == paths
    assert next(iter(ids)) == "a.jpg"
    assert all(len(item_id.encode()) <= 256 for item_id in ids)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
def test_masks_are_what_pycocotools_reads() -> None:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[3:30, 20:50] = True
    mask[10, 22] = False
    found = detections(image_size=mask.shape, rles=(encode(mask),))
    record = json.loads(json.dumps(record_of(Result("1", "m", found))))
    assert (coco.decode(record["masks"][0]).astype(bool) == mask).all()
    assert record["areas"] == [mask.sum()]
    assert record["boxes"] == [[2, 1, 5, 3]] and record["categories"] == ["train"]


def test_values_that_json_lacks_are_replaced() -> None:
    found = detections(boxes=np.array([[np.nan, np.inf, 0, 1]], dtype=np.float32))
    text = json.dumps(record_of(Result("1", "m", found)), allow_nan=False)
    assert json.loads(text)["boxes"] == [[0, 1e30, 0, 1]]


def test_the_writer_writes_every_kind_of_result(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "in.png")
    writer = ResultWriter(tmp_path / "out", lambda _: tmp_path / "in.png")
    for outcome in OUTCOMES[:5]:
        writer.write(Result("../../etc/passwd", "m@random", outcome))
    writer.write(Result("../../etc/passwd", "m@random", InvalidMediaError("no image")))
    writer.write(Result("flow", "raft@random", Flow(np.ones((2, 4, 6), dtype=np.float32))))
    writer.close()
    records = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert len(records) == 7
    assert records[5]["error"] == {"type": "InvalidMediaError", "message": "no image"}
    names = [record["annotated"] for record in records if "annotated" in record]
    assert len(set(names)) == len(names) == 6
    for name in names:
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert all(path.startswith("out/") or path == "in.png" for path in written)
    with Image.open(tmp_path / "out" / records[1]["label_map"]) as label_map:
        segmentation = OUTCOMES[1]
        assert isinstance(segmentation, Segmentation)
        assert label_map.mode == "P"
        np.testing.assert_array_equal(np.asarray(label_map), segmentation.label_map)
    flow = (tmp_path / "out" / records[6]["flow"]).read_bytes()
    assert flow[:12] == b"PIEH\x06\0\0\0\x04\0\0\0" and np.all(np.frombuffer(flow[12:], "<f4") == 1)


def test_submit_sends_writes_and_reports(server: Server, photos: Path, tmp_path: Path) -> None:
    run = zoofleet("submit", photos, "--model", "resnet50@random", "-o", tmp_path / "out", address=server.address)
    assert run.returncode == 0, run.stderr
    assert "jobs/1 succeeded: 2 results" in run.stdout
    assert [item.item_id for item in server.flaky.job_items] == [str(photos / "a.jpg"), str(photos / "sub" / "B.PNG")]
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == [str(photos / "a.jpg"), str(photos / "sub" / "B.PNG")]
    assert len(list((tmp_path / "out" / "annotated").iterdir())) == 2


def test_submit_lists_files_that_cannot_be_read(server: Server, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").symlink_to(photos / "missing")
    run = zoofleet("submit", photos, "-m", "resnet50@random", "-o", tmp_path / "out", address=server.address)
    assert run.returncode == 1
    assert "broken.jpg" in run.stderr and "No such file" in run.stderr
    assert "Traceback" not in run.stderr
    assert len(server.flaky.job_items) == 2


def test_submit_says_nothing_of_odd_files(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, data in odd_images().items():
        (tmp_path / "photos" / name).write_bytes(data)
    # Of so many pixels that Pillow warns of a bomb.
    Image.new("1", (10_000, 9_000)).save(tmp_path / "photos" / "large.png")
    run = zoofleet("submit", tmp_path / "photos", "-m", "resnet50@random", "-o", tmp_path / "o", address=server.address)
    assert run.returncode == 0, run.stderr
    assert "6 results" in run.stdout and "5 pictures" in run.stdout
    assert not any(word in run.stderr for word in ("Warning", "warn", "PIL", "samples per pixel")), run.stderr


def test_an_annotated_video_may_have_tags_that_are_no_utf8(server: Server, tmp_path: Path) -> None:
    (tmp_path / "clip.avi").write_bytes(clip_with_latin1_tags("avi"))
    frame = vision_pb2.AnalyzeVideoResponse(frame=vision_pb2.FrameResults(frame_index=0))
    summary = vision_pb2.AnalyzeVideoResponse(summary=vision_pb2.VideoSummary(decoded_frame_count=1))
    server.flaky.video = [frame, summary]
    out = tmp_path / "out"
    run = zoofleet("video", tmp_path / "clip.avi", "-m", "resnet50@random", "-o", out, address=server.address)
    assert run.returncode == 0, run.stderr
    assert (out / "clip.mp4").stat().st_size


def test_flow_runs_on_each_picture_and_the_next(server: Server, photos: Path, tmp_path: Path) -> None:
    run = zoofleet("submit", photos, "-m", "raft_small@random", "-o", tmp_path / "o", "-d", address=server.address)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "jobs/1\n"
    assert [len(item.media) for item in server.flaky.job_items] == [2]
    assert not server.flaky.job.tasks[0].estimate_flow.ListFields()
    command: list[str | Path] = ["submit", photos, "-m", "raft_small@random", "-o", tmp_path / "o", "-d"]
    assert zoofleet(*command, "--flow-encoding", "kitti-png", address=server.address).returncode == 0
    encoding = server.flaky.job.tasks[0].estimate_flow.flow_encoding
    assert encoding == vision_pb2.FLOW_ENCODING_KITTI_PNG


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["submit", ".", "-m", "resnt50"], 2, "did you mean resnet50"),
        (["submit", ".", "-m", "resnet50", "--score-threshold", "0.5"], 2, "none of the models detects"),
        (["submit", ".", "-m", "resnet50", "--max-detections", "5"], 2, "none of the models detects"),
        (["submit", ".", "-m", "resnet50", "--flow-encoding", "flo"], 2, "none of the models estimates it"),
        (["submit", ".", "-m", "raft_small", "-m", "resnet50"], 2, "need a job each"),
        (["submit", "missing", "-m", "resnet50"], 1, "error: 'missing' does not exist"),
        (["submit", __file__, "-m", "resnet50"], 1, "no Zoofleet server answers at 127.0.0.1:1; start one with"),
        (["jobs", "get", "x"], 1, "no Zoofleet server answers"),
        (["video", "missing.mp4", "-m", "resnet50"], 2, "does not exist"),
        (["worker", "--threads", "0"], 1, "--threads is 0; accepted: 1 or more"),
        (["scheduler", "--max-attempts", "1"], 1, "--max-attempts is 1; accepted: 3 or more"),
    ],
)
def test_mistakes_are_said_in_a_line(arguments: list[str], code: int, message: str) -> None:
    run = zoofleet(*arguments)
    assert run.returncode == code
    assert message in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr


def test_jobs_and_workers(server: Server, photos: Path) -> None:
    zoofleet("submit", photos, "-m", "resnet50@random", "-d", address=server.address)
    assert "jobs/1" in zoofleet("jobs", "get", "1", address=server.address).stdout
    results = zoofleet("jobs", "results", "jobs/1", address=server.address).stdout.splitlines()
    assert [json.loads(line)["model"] for line in results] == ["resnet50@random"] * 2
    assert "succeeded" in zoofleet("jobs", "watch", "1", address=server.address).stdout
    run = zoofleet("jobs", "get", "2", address=server.address)
    assert (run.returncode, run.stderr) == (1, "error: no job is named 'jobs/2'\n")
    assert "workers/2" in zoofleet("workers", "list", address=server.address).stdout


def test_ctrl_c_leaves_the_job_and_says_so(server: Server, photos: Path, tmp_path: Path) -> None:
    code, said = server.interrupt_while_reading("submit", photos, "-m", "resnet50@random", "-o", tmp_path / "out")
    assert code == 130, said
    assert "the job goes on" in said and "zoofleet jobs watch jobs/1" in said
    assert "Traceback" not in said


def test_version() -> None:
    assert zoofleet("--version").stdout.startswith("zoofleet 0")
