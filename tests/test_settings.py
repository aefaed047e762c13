"""The settings of scheduler and worker: each has an option and a variable that reach the program."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

import zoofleet.scheduler
import zoofleet.worker
from zoofleet import Client
from zoofleet._cli import _commands
from zoofleet._serving.settings import Setting, Settings, setting, settings_of
from zoofleet._wire.kinds import TaskKind
from zoofleet.errors import InvalidArgumentError
from zoofleet.scheduler import SchedulerConfig
from zoofleet.v1 import vision_pb2, vision_pb2_grpc
from zoofleet.worker import WorkerConfig

CONFIGS: dict[str, type[Settings]] = {"scheduler": SchedulerConfig, "worker": WorkerConfig}
EVERY = [
    pytest.param(program, each, id=f"{program}-{each.name}")
    for program in CONFIGS
    for each in settings_of(CONFIGS[program])
]

TEXTS = {
    "HOST:PORT": "127.0.0.1:9",
    "URL": "rediss://user:secret@elsewhere:1/2",
    "NAME": "w-7",
    "DEVICE": "cpu",
    "TARGET": "a:1 b:2",
    "PREFIX": "file:///a/ https://b/",
    "KIND=ITEMS": "detect=9 classify=33",
    "PRECISION": "fast",
    "FOLDER": "/plans",
    "YES|NO": "yes",
}
VALUES = {
    "TARGET": ("a:1", "b:2"),
    "PREFIX": ("file:///a/", "https://b/"),
    "KIND=ITEMS": {"detect": 9, "classify": 33},
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which the command line has started programs, without any variable of ours around."""
    given: list[Settings] = []

    async def serve(config: Settings) -> None:
        given.append(config)

    for room in (zoofleet.scheduler, zoofleet.worker):
        monkeypatch.setattr(room, "serve", serve)
    for name in [name for name in os.environ if name.startswith("ZOOFLEET_")]:
        monkeypatch.delenv(name)
    return given


def command(*arguments: str, **environment: str) -> None:
    CliRunner().invoke(_commands, list(arguments), env=environment, catch_exceptions=False)


def another(each: Setting) -> tuple[str, object]:
    """A valid value that is not the default: as text and as it reaches the program."""
    if each.unit and not each.has_several:
        value = each.kind((each.default or 2) * 1.25 + (each.kind is int))
        return str(value), value
    text = TEXTS[each.metavar]
    return text, VALUES.get(each.metavar, text)


@pytest.mark.parametrize(("program", "each"), EVERY)
def test_each_is_described(program: str, each: Setting) -> None:
    assert each.help.endswith(".") and each.accepts and each.metavar and each.default_text()
    assert re.fullmatch("--[a-z-]+", each.option) and re.fullmatch("ZOOFLEET_[A-Z_]+", each.variable)


@pytest.mark.parametrize(("program", "each"), EVERY)
def test_each_is_reached_by_its_option_and_its_variable(given: list[Settings], program: str, each: Setting) -> None:
    text, value = another(each)
    assert value != each.default
    options = [part for one in (text.split() if each.has_several else [text]) for part in (each.option, one)]
    command(program, *options)
    command(program, **{each.variable: text})
    assert [getattr(config, each.name) for config in given] == [value, value]
    default = CONFIGS[program]()
    others = [other.name for other in settings_of(CONFIGS[program]) if other.name != each.name]
    assert all(getattr(config, name) == getattr(default, name) for config in given for name in others)


def test_an_option_takes_precedence_over_its_variable(given: list[Settings]) -> None:
    command("scheduler", "--chunk-items", "3", ZOOFLEET_CHUNK_ITEMS="4")
    command("worker", "--batch-size", "detect=3,segment=5", ZOOFLEET_BATCH_SIZES="classify=4")
    scheduler, worker = given
    assert isinstance(scheduler, SchedulerConfig) and scheduler.chunk_items == 3
    assert isinstance(worker, WorkerConfig)
    assert [worker.batch_size(kind) for kind in ("classify", "detect", "segment")] == [16, 3, 5]


def test_names_are_shared_by_nothing_but_the_same_setting() -> None:
    for config in CONFIGS.values():
        settings = settings_of(config)
        assert [each.name for each in settings] == [field.name for field in dataclasses.fields(config)]
        assert len({each.option for each in settings}) == len({each.variable for each in settings}) == len(settings)
    scheduler, worker = ({each.variable: each.name for each in settings_of(config)} for config in CONFIGS.values())
    assert {name for name in scheduler if name in worker} == {"ZOOFLEET_MAX_ITEM_BYTES"}


def test_a_field_without_a_description_is_noticed() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Sloppy(Settings):
        described: int = setting(1, "A number.", unit="items", minimum=1)
        forgotten: int = 2

    with pytest.raises(KeyError):
        Sloppy()


def test_batch_sizes_are_for_every_kind_of_task() -> None:
    assert WorkerConfig().batch_sizes.keys() == {kind.field for kind in TaskKind}


@pytest.mark.parametrize("program", CONFIGS)
def test_help_shows_every_setting_and_the_common_ones_first(program: str) -> None:
    output = CliRunner().invoke(_commands, [program, "--help"], env={"COLUMNS": "300"}).output
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    settings = settings_of(CONFIGS[program])
    places = [output.index(f" {each.option} ") for each in settings]
    assert places == sorted(places)
    assert all(
        f"[env var: {each.variable}]" in output and f"[default: {each.default_text()}]" in output for each in settings
    )
    panels = [panel for panel in dict.fromkeys(each.panel for each in settings) if panel]
    headings = re.findall(r"╭─ (.+?) ─", output)
    assert headings == ["Options", *panels]


@pytest.mark.parametrize(
    ("program", "arguments", "environment", "message"),
    [
        ("scheduler", ["--lease", "0"], {}, "--lease is 0.0; accepted: more than 0 seconds"),
        ("scheduler", ["--lease", "nan"], {}, "--lease is nan; accepted: more than 0 seconds"),
        ("scheduler", [], {"LEASE": "-1"}, "ZOOFLEET_LEASE is -1.0; accepted: more than 0 seconds"),
        ("scheduler", [], {"LEASE": "long"}, "ZOOFLEET_LEASE is 'long'; accepted: a number, more than 0 seconds"),
        ("worker", ["--threads", "1.5"], {}, "--threads is '1.5'; accepted: a whole number, 1 or more threads"),
        ("scheduler", ["--chunk-items", "257"], {}, "--chunk-items is 257; accepted: 1 to 256 items"),
        (
            "scheduler",
            ["--lease", "3"],
            {"REDIS_TIMEOUT": "4"},
            "ZOOFLEET_REDIS_TIMEOUT is 4 seconds; accepted: less than the --lease of 3 seconds",
        ),
        (
            "scheduler",
            [],
            {"HEARTBEAT_TIMEOUT": "1"},
            "ZOOFLEET_HEARTBEAT_TIMEOUT is 1 seconds; accepted: more than the --heartbeat-interval of 2 seconds",
        ),
        ("worker", [], {"DEVICE": "tpu"}, "ZOOFLEET_DEVICE is 'tpu'; accepted: auto, cpu, cuda:0 and so on"),
        (
            "worker",
            ["--uri-prefix", "ftp://a"],
            {},
            "--uri-prefix has 'ftp://a'; accepted: file:///, http:// and https://",
        ),
        (
            "worker",
            [],
            {"BATCH_SIZES": "detect=0"},
            "ZOOFLEET_BATCH_SIZES has detect=0; accepted: KIND=ITEMS, with KIND",
        ),
        ("worker", ["--batch-size", "dance=3"], {}, "--batch-size has dance=3; accepted: KIND=ITEMS, with KIND one of"),
        ("worker", ["--batch-size", "detect"], {}, "--batch-size is 'detect'; accepted: KIND=ITEMS, with KIND one of"),
        (
            "worker",
            ["--scheduler", "a:1,,b:2"],
            {},
            "--scheduler has '' among ['a:1', '', 'b:2']; accepted: host:port, or another gRPC target",
        ),
    ],
)
def test_a_bad_value_is_named_as_it_was_written(
    given: list[Settings], program: str, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(message)}"):
        command(program, *arguments, **{f"ZOOFLEET_{name}": value for name, value in environment.items()})
    assert not given


@pytest.mark.parametrize("program", ["scheduler", "up"])
def test_a_secret_is_in_no_message(given: list[Settings], program: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"ZOOFLEET_REDIS_URL .*redis://, rediss:// or unix://") as caught:
        command(program, ZOOFLEET_REDIS_URL="http://:hunter2@redis:6379")
    assert "hunter2" not in str(caught.value)


_WORKER = """
from torch.nn.modules.module import register_module_forward_pre_hook
from zoofleet._cli import app
from zoofleet.models.mobilenetv3 import MobileNetV3

def note(module, inputs):
    if isinstance(module, MobileNetV3):
        print("batch of", len(inputs[0]), flush=True)

register_module_forward_pre_hook(note)
app()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A worker process all of whose settings are variables: its address, and a file with the sizes of its batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {
        "ZOOFLEET_WORKER_ADDRESS": address,
        "ZOOFLEET_STANDALONE": "1",
        "ZOOFLEET_DEVICE": "cpu",
        "ZOOFLEET_THREADS": "1",
        "ZOOFLEET_BATCH_SIZES": "classify=2 detect=2,segment=3",
        "ZOOFLEET_MAX_STREAMS": "1",
    }
    batches = tmp_path / "batches"
    with batches.open("wb") as output:
        command = [sys.executable, "-c", _WORKER, "worker"]
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output)
    try:
        with Client(address) as client:
            client.wait_ready(timeout=60)
        yield address, batches
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_worker_process_obeys_its_variables(worker: tuple[str, Path], media: Path) -> None:
    address, batches = worker
    task = vision_pb2.ClassifyRequest(task=vision_pb2.Task(model="mobilenet_v3_small@random"))
    picture = vision_pb2.Media(data=(media / "rocket.jpg").read_bytes())
    over = threading.Event()

    def requests() -> Iterator[vision_pb2.ClassifyRequest]:
        yield task
        for i in range(24):
            yield vision_pb2.ClassifyRequest(item=vision_pb2.Item(item_id=str(i), media=[picture]))
        over.wait()

    with grpc.insecure_channel(address) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)
        first = stub.Classify(requests())
        assert all(next(first).result.HasField("classification") for _ in range(24))
        with pytest.raises(grpc.RpcError, match="1 streams are open, which is the limit"):
            next(stub.Classify(iter([task])))
        over.set()
        assert list(first) == []
    sizes = [int(line.split()[-1]) for line in batches.read_text().splitlines()]
    assert sum(sizes) == 24
    assert max(sizes) == 2  # 24 pictures are at hand long before the device is done with the first
