"""The public namespace, and what it costs to import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import zoofleet
from zoofleet import errors

HEAVY = {"torch", "redis", "av"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules in memory after `code` ran in an interpreter of its own."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_every_public_name_is_there() -> None:
    for name in zoofleet.__all__:
        assert getattr(zoofleet, name) is not None, name
    assert sorted(zoofleet.__all__) == zoofleet.__all__
    assert set(dir(zoofleet)) >= set(zoofleet.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        zoofleet.nothing  # noqa: B018


def test_every_error_is_there() -> None:
    public = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert public == set(errors.__all__)


def test_importing_zoofleet_loads_next_to_nothing() -> None:
    assert not (HEAVY | {"grpc", "numpy", "PIL"}) & loaded_by("import zoofleet")


def test_all_of_the_client_loads_nothing_heavy() -> None:
    loaded = loaded_by("import zoofleet; [getattr(zoofleet, name) for name in zoofleet.__all__]")
    assert {"grpc", "numpy"} <= loaded
    assert not HEAVY & loaded


def test_the_zoo_loads_nothing_of_the_cluster() -> None:
    code = "import zoofleet.io, zoofleet.models, zoofleet.ops, zoofleet.transforms, zoofleet.utils"
    assert not {"grpc", "grpc_health", "google", "redis", "psutil"} & loaded_by(code)


@pytest.mark.parametrize("arguments", [[], ["submit"], ["jobs", "list"], ["worker"], ["scheduler"], ["up"], ["video"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['zoofleet', *arguments, '--help']!r}\n"
        "from zoofleet._cli import app\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert not (HEAVY | {"grpc", "numpy", "PIL"}) & loaded_by(code)


def test_an_abandoned_client_does_not_hold_up_the_exit() -> None:
    code = (
        "from zoofleet import Client, Classify\n"
        "client = Client('127.0.0.1:1')\n"
        "stream = client.stream(Classify('resnet50'), [b'x'])\n"
        "import threading; threading.Thread(target=lambda: next(stream), daemon=True).start()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
