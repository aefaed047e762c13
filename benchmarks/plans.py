"""Searches the fastest plan of each builder as a worker does, and writes what it finds to docs/data/plans.json.

Each model is searched in a process of its own, and its row is written at once: a run that was ended goes on where it
was. Rows of the same machine and torch are skipped, unless they failed and `--again` is given. The table in
docs/benchmarks.md is drawn from the file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.machine import Machine

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plan import PlanState
from zoofleet.worker.plans.planner import Planner

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "data" / "plans.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- plans: begin -->", "<!-- plans: end -->"

LIMIT_SECONDS = 3600.0
"""A search that takes longer is given up."""

INT8 = os.environ.get("ZOOFLEET_QUANTIZED_PLANS", "no")
"""Whether plans may be in INT8, as workers take it from their environment."""

FRAMES = 16
"""Frames of the clips, the tasks' default."""


def machine() -> dict[str, str]:
    """What rows depend on."""
    here = Machine.here()
    return {"cpu": here.cpu, "torch": torch.__version__}


def search(name: str) -> dict[str, Any]:
    """Search one model's plan, in this process and the child that it starts."""
    model = ModelName.parse(f"{name}@{_catalog.RANDOM}")
    shape_class = (FRAMES,) if model.info.task == "video" else ()
    with tempfile.TemporaryDirectory() as folder:
        config = WorkerConfig(
            schedulers=(), device="cpu", threads=1, plan_cache=folder, plan_timeout=LIMIT_SECONDS, quantized_plans=INT8
        )
        runner = make_runner(model, torch.device("cpu"), config)
        planner = Planner(config)
        try:
            planner.ask(runner, shape_class)
            while (status := runner.plans[shape_class]).state is PlanState.BUILDING:
                time.sleep(0.1)
            trials = [
                trial for file in Path(folder).glob("*/entry.json") for trial in json.loads(file.read_text())["trials"]
            ]
        finally:
            planner.close()
    faster = {trial["name"]: trial for trial in trials}
    return {
        "state": status.state.name,
        "plan": status.plan.name,
        "milliseconds": status.milliseconds,
        "exact_milliseconds": status.exact_milliseconds,
        "shares": faster[status.plan.name]["shares"] if status.plan.name in faster else [],
        "deviation": status.deviation,
        "memory_bytes": status.memory_bytes,
        "seconds": {trial["name"]: trial["seconds"] for trial in trials},
        "trials": {trial["name"]: trial["shares"] if trial["is_valid"] else trial["message"] for trial in trials},
        "message": status.message,
    }


def row(name: str) -> dict[str, Any]:
    """Search one model's plan in a process of its own, and return its row, which may say that there is none."""
    command = [sys.executable, "-m", "benchmarks.plans", "--one", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS + 600, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        found = {"state": "FAILED", "message": f"exit code {error.returncode}: {error.stderr[-300:]}"}
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        found = {"state": "FAILED", "message": str(error)[:300]}
    return {**machine(), **found}


def write(rows: Mapping[str, Any]) -> None:
    """Write the rows and the table, each file in one step."""
    DATA.parent.mkdir(exist_ok=True)
    _replace(DATA, json.dumps(rows, indent=1, sort_keys=True) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    _replace(PAGE, f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


def table(rows: Mapping[str, Any]) -> str:
    """Draw the rows in Markdown, by name."""
    lines = [
        "| model | plan | EXACT, ms | FAST, ms | speed-up | deviation | built in |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in sorted(rows.items()):
        if each["state"] != "READY":
            lines.append(
                f"| {name} | none: {each['message'].splitlines()[0][:80] if each['message'] else ''} | | | | | |"
            )
            continue
        exact, fast = each["exact_milliseconds"], each["milliseconds"]
        built = math.fsum(each["seconds"].values())
        times = f"{exact:.2f} | {fast:.2f} | {exact / fast:.2f} | {each['deviation']:.1e}" if fast else "| | |"
        lines.append(f"| {name} | {each['plan']} | {times} | {built:.0f} s |")
    machines = sorted({f"{each['cpu']}, torch {each['torch']}" for each in rows.values()})
    return "\n".join([*lines, "", f"{len(rows)} models; {'; '.join(machines)}; one thread, batches of up to 4."])


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.staged")
    staged.write_text(text)
    staged.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="builders; all of them by default")
    parser.add_argument("--again", action="store_true", help="search again where the last search failed")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(search(given.one)))
        return
    rows: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {}
    here = machine()
    for name in given.names or sorted(_catalog.builders(), key=lambda each: _catalog.builders()[each].num_params):
        known = rows.get(name)
        if known and {key: known[key] for key in here} == here and (known["state"] == "READY" or not given.again):
            continue
        rows[name] = row(name)
        write(rows)
        print(name, rows[name]["state"], rows[name].get("plan"), rows[name].get("shares"), flush=True)


if __name__ == "__main__":
    main()
