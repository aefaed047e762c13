"""`make test` and what `.ci/run` runs after it take each test once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.models import parts

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", parts.builders(["squeezenet1_1", "vgg11", "vgg11_bn", "fcos_resnet50_fpn"]))
def test_large_builders_have_the_mark(name: str, request: pytest.FixtureRequest) -> None:
    large = name in ("vgg11", "fcos_resnet50_fpn")
    assert (request.node.get_closest_marker("rest") is not None) == large
    assert parts.takes(parts.chosen(), request.node)


def collected(part: str) -> list[str]:
    """The builders for which a run of that part has the test above."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ | {parts.VARIABLE: part},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return re.findall(r"have_the_mark\[(\w+)]", run.stdout)


def test_each_test_is_in_one_part_and_in_all() -> None:
    assert collected("sample") == ["squeezenet1_1", "vgg11_bn"]
    assert collected("rest") == ["vgg11", "fcos_resnet50_fpn"]
    assert collected("all") == ["squeezenet1_1", "vgg11", "vgg11_bn", "fcos_resnet50_fpn"]


def test_ci_runs_both_parts_of_all_tests() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "test" in line and line[0] != "#"]
    assert commands == ["make test", f"{parts.VARIABLE}=rest scripts/test"]


def test_the_sample_is_of_large_builders() -> None:
    assert all(parts.is_large(name) for name in parts.SAMPLE)


def test_other_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parts.VARIABLE, "some")
    with pytest.raises(pytest.UsageError, match="must be sample, rest or all, got 'some'"):
        parts.chosen()
