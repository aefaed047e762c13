"""Loaded weights do not depend on their file any more; devices are shared, and say what they have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from zoofleet._local import up
from zoofleet.worker.devices import default_memory_budget, device_memory

TRUNCATING = """
import sys
import torch
from pathlib import Path
from zoofleet._catalog import ModelName, download
from zoofleet.models import get_model, get_model_weights
from zoofleet.worker import WorkerConfig
from zoofleet.worker.loading import make_runner, warm_up

path = download.cache_dir() / download.file_name(get_model_weights("squeezenet1_1").DEFAULT.url)
path.parent.mkdir(parents=True)
state = get_model("squeezenet1_1", weights=None).state_dict()
torch.save(state, path, _use_new_zipfile_serialization=sys.argv[1] == "zip")
download._check_hash = lambda *_: None
runner = make_runner(ModelName.parse("squeezenet1_1"), torch.device("cpu"), WorkerConfig(schedulers=()))
path.open("r+b").truncate(100)
warm_up(runner)
print("ran")
"""


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_file_that_is_cut_after_loading_does_no_harm(layout: str, tmp_path: Path) -> None:
    # In a process of its own: what this guards against is SIGBUS.
    environment = os.environ | {"TORCH_HOME": str(tmp_path)}
    command = [sys.executable, "-c", TRUNCATING, layout]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout) == (0, "ran\n"), run.stderr


def test_workers_that_share_a_device_promise_no_more_than_one_alone() -> None:
    assert default_memory_budget(1000, 1) == 600
    assert 3 * default_memory_budget(1000, 3) <= 600


def test_a_cpus_memory_is_the_machines() -> None:
    memory = device_memory(torch.device("cpu"))
    assert memory.total == psutil.virtual_memory().total
    assert 0 < memory.reserved <= memory.used < memory.total


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (["cpu"], ["--threads", "8"]),
        (["cpu", "cpu"], ["--threads", "4", "--device-sharers", "2"]),
        (["cuda:0"], []),
        (["cuda:0", "cuda:1"], ["--threads", "4", "--decode-threads", "4"]),
        (["cuda:0"] * 3, ["--threads", "2", "--decode-threads", "2", "--device-sharers", "3"]),
    ],
)
def test_up_gives_each_worker_its_share(
    devices: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZOOFLEET_DECODE_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert up._share(devices[0], devices, None) == expected


def test_an_operators_word_counts_more_than_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOFLEET_DECODE_THREADS", "7")
    assert up._share("cuda:0", ["cuda:0", "cuda:1"], 5) == ["--threads", "5"]
