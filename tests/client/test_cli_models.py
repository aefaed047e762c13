"""`zoofleet models` without a cluster: the catalog's tables, and files from a real HTTP server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import torch
from tests.weights_server import Hub, serving

from zoofleet import _catalog
from zoofleet.v1 import models_pb2, models_pb2_grpc, vision_pb2

# The catalog's data is given as a folder, so that files of other hashes can be published; torch must not be loaded.
RUN = """
import sys
from pathlib import Path
from zoofleet import _catalog
_catalog._DATA = Path(sys.argv.pop(1))
from zoofleet._cli import app
try:
    app()
finally:
    assert not {"torch", "redis"} & sys.modules.keys()
"""

DATA = Path(_catalog.__file__).parent


def command(*arguments: str | Path, data: Path) -> list[str | Path]:
    return [sys.executable, "-c", RUN, data, "models", *arguments]


def models(*arguments: str | Path, data: Path = DATA, address: str = "127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, data=data),
        env=os.environ | {"ZOOFLEET_ADDRESS": address, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def cells(line: str) -> list[str]:
    """A table row's cells, which two or more blanks separate."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_list_has_every_model_with_its_facts() -> None:
    run = models("list")
    assert run.returncode == 0, run.stderr
    rows = {line.split()[0]: cells(line) for line in run.stdout.splitlines()[3:] if line.strip()}
    assert list(rows) == sorted(_catalog.builders())
    assert rows["resnet50"][1:] == [
        *("classify", "25.6 M", "4.09", "acc@1 80.858", "98 MiB", "IMAGENET1K_V1, IMAGENET1K_V2")
    ]
    assert rows["raft_small"][1:5] == ["estimate-flow", "1.0 M", "47.66", "epe 1.9901"]


def test_the_list_is_filtered_by_pattern_and_task() -> None:
    names = {"mobilenet_v3_large", "lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"}
    lines = models("list", "*mobilenet_v3_large", "S3D").stdout.splitlines()[3:]
    found = {line.split()[0] for line in lines if line.strip()}
    assert names | {"s3d"} <= found
    run = models("list", "*mobilenet_v3_large", "--task", "segment")
    assert "lraspp" in run.stdout and "ssdlite320" not in run.stdout
    run = models("list", "*mobilenet_v3_large", "--task", "estimate-flow")
    assert (run.returncode, run.stderr) == (1, "error: no model is named like *mobilenet_v3_large for estimate-flow\n")


class _Scheduler(models_pb2_grpc.ModelsServicer):
    """Has resnet50 and s3d, of which a worker has loaded the first."""

    def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        answer = models_pb2.ListModelsResponse()
        one = answer.models.add(name="models/resnet50", task_kind=models_pb2.TASK_KIND_CLASSIFY)
        one.loaded_models.add(model="resnet50@random", worker="workers/1", memory_bytes=98 << 20, pinned=True)
        one.loaded_models[0].plans.add(
            name="compiled bfloat16",
            precision=vision_pb2.PRECISION_FAST,
            state=models_pb2.Plan.STATE_READY,
            milliseconds=11.2,
            exact_milliseconds=67.7,
            deviation=3e-5,
        )
        answer.models.add(name="models/s3d", task_kind=models_pb2.TASK_KIND_CLASSIFY_CLIP)
        return answer


def test_what_is_loaded_is_asked_of_the_scheduler() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    models_pb2_grpc.add_ModelsServicer_to_server(_Scheduler(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    run = models("list", "--loaded", address=f"127.0.0.1:{port}")
    server.stop(None)
    assert run.returncode == 0, run.stderr
    (row,) = [cells(line) for line in run.stdout.splitlines()[3:] if line.strip()]
    assert row[:5] == ["resnet50@random", "classify", "98 MiB", "workers/1", "pinned"]
    assert row[5:] == ["compiled bfloat16, 11.2 ms (67.7 exact), deviation 3e-05"]
    assert "127.0.0.1:1" in models("list", "--loaded").stderr


def test_show_lists_weight_sets_with_metrics_and_urls() -> None:
    shown = models("show", "resnet50").stdout
    for weights in _catalog.weights("resnet50"):
        assert weights.url in shown
        assert f"acc@1 {weights.meta['_metrics']['ImageNet-1K']['acc@1']:g}" in shown
    assert "IMAGENET1K_V2 (default)" in shown and "25.6 M parameters" in shown
    one = models("show", "resnet50@IMAGENET1K_V1").stdout
    assert "resnet50-0676ba61.pth" in one and "IMAGENET1K_V2" not in one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "resnet5O"], "no model is named 'resnet5O'; did you mean resnet50"),
        (["pull", "resnet50", "resnet5O"], "no model is named 'resnet5O'; did you mean resnet50"),
        (["show", "resnet50@IMAGENET1K_V3"], "it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, random"),
        (["pull", "resnet50@V2"], "it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, random"),
        (["pull", "resnet50@random"], "resnet50@random has no file: its weights are random"),
    ],
)
def test_mistakes_are_said_in_a_line(arguments: list[str], message: str) -> None:
    run = models(*arguments)
    assert run.returncode == 1 and message in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("ZOOFLEET_WEIGHTS_MIRROR", raising=False)
    with serving() as hub:
        yield hub


@pytest.fixture
def data(hub: Hub, tmp_path: Path) -> Path:
    """A catalog whose squeezenet1_0 and squeezenet1_1 are on the server."""
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    rows = json.loads((folder / "weights.json").read_text())
    for i, name in enumerate(("squeezenet1_0", "squeezenet1_1")):
        published = hub.publish({"weight": torch.full((1000, 100), float(i))}, stem=name)
        next(row for row in rows if row["builder"] == name)["url"] = hub.at(published)
    (folder / "weights.json").write_text(json.dumps(rows))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {f"/models/{p.name}": p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def test_pull_fetches_several_files_into_a_folder_that_serves_as_mirror(
    hub: Hub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    run = models("pull", "squeezenet1_0", "squeezenet1_1@DEFAULT", "squeezenet1_0", "--dir", mirror, data=data)
    assert run.returncode == 0, run.stderr
    assert files(mirror) == hub.files and len(hub.requests) == 2
    names = [Path(path).name for path in sorted(hub.files)]
    assert sorted(run.stdout.splitlines()) == [
        f"squeezenet1_{i}@IMAGENET1K_V1 {mirror / name}" for i, name in enumerate(names)
    ]
    assert "392" in run.stderr and "KiB" in run.stderr
    monkeypatch.setenv("ZOOFLEET_WEIGHTS_MIRROR", str(mirror))
    again = models("pull", "squeezenet1_0", "--dir", tmp_path / "elsewhere", data=data)
    assert again.returncode == 0 and len(hub.requests) == 2
    assert len(files(tmp_path / "elsewhere")) == 1


def test_pull_goes_into_torch_hubs_cache(hub: Hub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert models("pull", "squeezenet1_1", data=data).returncode == 0
    path = next(path for path in hub.files if "squeezenet1_1" in path)
    assert files(tmp_path / "torch" / "hub" / "checkpoints") == {path: hub.files[path]}
    assert models("pull", "squeezenet1_1", data=data).returncode == 0 and len(hub.requests) == 1


def test_one_bad_file_does_not_keep_the_others(hub: Hub, data: Path, tmp_path: Path) -> None:
    bad, good = sorted(hub.files)
    hub.files[bad] = b"x" + hub.files[bad][1:]
    run = models("pull", "squeezenet1_0", "squeezenet1_1", "--dir", tmp_path / "out", data=data)
    assert run.returncode == 1 and "error: squeezenet1_0@IMAGENET1K_V1: " in run.stderr and "SHA-256" in run.stderr
    assert files(tmp_path / "out") == {good: hub.files[good]}


def test_an_interrupted_pull_is_taken_up(hub: Hub, data: Path, tmp_path: Path) -> None:
    path = next(path for path in hub.files if "squeezenet1_1" in path)
    folder = tmp_path / "out"
    partial = folder / f".{Path(path).name}.partial"
    hub.stall_after = 100_000
    with subprocess.Popen(
        command("pull", "squeezenet1_1", "--dir", folder, data=data), stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    have = partial.stat().st_size
    hub.resume.set()
    assert 0 < have < len(hub.files[path])
    assert models("pull", "squeezenet1_1", "--dir", folder, data=data).returncode == 0
    assert hub.requests[-1] == (path, f"bytes={have}-")
    assert files(folder)[path] == hub.files[path]
