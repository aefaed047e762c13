"""`make bench`, in small: that the harness works, and that nobody is faster by doing less."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import report
from benchmarks.contestants import Contestant
from benchmarks.serving import check_answers, same

from zoofleet import Classification, Detections, Result, Segmentation
from zoofleet._values.tasks import Precision

ROOT = Path(__file__).parents[2]


@pytest.mark.cluster
@pytest.mark.usefixtures("redis_installed")
@pytest.mark.timeout(600)
def test_all_contestants_answer_alike_and_are_measured(tmp_path: Path) -> None:
    """The run itself compares the answers of all contestants, and fails where they differ."""
    out = tmp_path / "bench.json"
    arguments = ("--quick", "--threads", "1", "--precisions", "EXACT", "--json", out, "--keep", tmp_path / "logs")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(out.read_text())
    (cell,) = run["cells"]
    assert cell["served"] == "EXACT"
    assert {way["contestant"] for way in cell["ways"]} == {"in-process", "plain gRPC", "LitServe", "Zoofleet"}
    assert len(cell["ways"]) == 3 + 3 + 2 + 4
    for way in cell["ways"]:
        for one in way["rounds"]:
            assert one["rate"] > 0 and sum(one["cpu_ms"].values()) > 0 and min(one["peak_bytes"].values()) > 0
    assert run["machine"]["torch"] in report.tables(run) + done.stdout
    assert report.chart(run).count("<rect") == 2 * len(report.SERIES)


def classified(*labels: int, scores: tuple[float, ...]) -> Result:
    outcome = Classification(np.array(labels), np.array(scores, dtype=np.float32), tuple(map(str, labels)))
    return Result("0", "m", outcome)


def test_answers_are_the_same_but_for_rounding() -> None:
    one = classified(1, 2, scores=(0.6, 0.3))
    assert same(one, classified(1, 2, scores=(0.6, 0.3)), 0.001)
    assert same(classified(2, 1, scores=(0.45001, 0.45)), classified(1, 2, scores=(0.45001, 0.45)), 0.001)
    assert not same(one, classified(2, 1, scores=(0.6, 0.3)), 0.001)
    maps = [Result("0", "m", Segmentation(np.full((10, 10), k, dtype=np.uint8), ("a", "b"))) for k in (0, 1)]
    assert same(maps[0], maps[0], 0.001) and not same(maps[0], maps[1], 0.001) and not same(maps[0], one, 0.001)


def test_objects_must_be_found_by_both() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 20, 40, 40]], dtype=np.float32)
    both = Detections((50, 50), boxes, np.array([0.9, 0.8], dtype=np.float32), np.array([1, 2]), ("a", "b"))
    one = Detections((50, 50), boxes[:1], both.scores[:1], both.labels[:1], ("a",))
    moved = replace(both, boxes=boxes + 5)
    near = replace(both, scores=np.array([0.9, 0.5001], dtype=np.float32))
    results = [Result("0", "m", outcome) for outcome in (both, one, moved, near)]
    assert same(results[0], results[0], 0.001)
    assert not same(results[0], results[1], 0.001) and not same(results[1], results[0], 0.001)
    assert not same(results[0], results[2], 0.001)
    assert same(results[3], results[1], 0.001)  # the threshold may drop it


class Liar(Contestant):
    """Answers what it is told to."""

    name = "liar"
    ways = ()

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    async def start(self) -> None: ...

    def roles(self, way: str) -> dict[str, Any]:
        return {}

    async def turn(self, way: str, count: int) -> Any: ...

    async def answers(self, count: int) -> list[Result]:
        return self._results


async def test_a_contestant_that_answers_otherwise_or_at_another_precision_ends_the_run() -> None:
    right = classified(1, 2, scores=(0.6, 0.3))
    assert await check_answers([Liar([right]), Liar([right])], Precision.EXACT, 1) == "EXACT"
    with pytest.raises(SystemExit, match="answers item 0"):
        await check_answers([Liar([right]), Liar([classified(3, 4, scores=(0.6, 0.3))])], Precision.EXACT, 1)
    fast = replace(right, precision="PRECISION_FAST")
    with pytest.raises(SystemExit, match="ran at PRECISION_FAST"):
        await check_answers([Liar([right]), Liar([fast])], Precision.FAST, 1)


def test_a_run_takes_the_place_of_the_same_cells(tmp_path: Path) -> None:
    def run(commit: str, *cells: tuple[str, int]) -> dict[str, Any]:
        of = [{"model": m, "media": "x", "precision": "EXACT", "n": n} for m, n in cells]
        return {"machine": {"commit": commit}, "cells": of}

    data = tmp_path / "data" / "bench.json"
    for one in (run("a", ("r", 1), ("s", 1)), run("b", ("r", 2)), run("a", ("r", 3))):
        report.add(one, data)
    found = {r["machine"]["commit"]: {c["model"]: c["n"] for c in r["cells"]} for r in json.loads(data.read_text())}
    assert found == {"a": {"r": 3, "s": 1}, "b": {"r": 2}}
