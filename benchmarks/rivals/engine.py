"""A model as a worker runs it, without the worker: decoding, preset, plan, and the outcome as a message."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from zoofleet import Result
from zoofleet._catalog import ModelName
from zoofleet._values.tasks import TASK_CLASSES, Precision, Task
from zoofleet._wire.kinds import kind_of, resolve
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plan import Plan, PlanState
from zoofleet.worker.plans.planner import Planner
from zoofleet.worker.runner import Prepared, Raw
from zoofleet.worker.vision_task import VisionTask

FAST_WITHIN = 900.0
"""Seconds after which a plan that is still not there fails the benchmark."""


def task_of(model: str, precision: Precision) -> Task:
    """The task that everything is measured on, with the default options of its kind."""
    return TASK_CLASSES[kind_of(ModelName.parse(model))](model, precision=precision)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    parser.add_argument("--precision", default="EXACT", choices=["EXACT", "FAST"])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--media", type=Path, required=True, help="a folder")


def media_of(arguments: argparse.Namespace) -> list[bytes]:
    return [path.read_bytes() for path in sorted(arguments.media.iterdir())]


class Engine:
    """A loaded model. `forward` must be called in one thread, the rest may be in any.

    Args:
        model: its name.
        precision: what to run it at.
        threads: CPU threads of a forward pass.
    """

    def __init__(self, model: str, precision: Precision, threads: int) -> None:
        torch.set_num_threads(threads)
        message, name, kind = resolve(task_of(model, precision).to_proto())
        self._task = VisionTask.from_resolved(message, name, kind)
        self._config = WorkerConfig(device="cpu", threads=threads)
        self._runner = make_runner(name, torch.device("cpu"), self._config)
        self._precision = precision

    def prepare(self, media: bytes) -> Prepared:
        return self._runner.prepare(self._runner.decode([media], self._task.options), self._task.options)

    def plan(self, prepared: Prepared) -> Plan:
        return self._runner.plan(self._precision, prepared)

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        """Run items of equal keys and plans, at most `max_batch` of them."""
        with torch.inference_mode():
            return self._runner.forward(batch, plan)

    def finish(self, prepared: Prepared, raw: Raw, plan: Plan) -> vision_pb2.Result:
        """The message that Zoofleet's client would get."""
        outcome = self._runner.finish(prepared, raw, self._task.options)
        result = vision_pb2.Result(model=self._task.message.model, precision=plan.precision.value)
        getattr(result, outcome.field).CopyFrom(outcome.to_proto())
        return result

    def wait(self, media: bytes) -> None:
        """Wait until the plan of the precision is there, from the cache that workers have too, and warm up."""
        prepared = self.prepare(media)
        if self._precision is Precision.FAST:
            shape_class = self._runner.shape_class(prepared)
            planner = Planner(self._config)
            planner.ask(self._runner, shape_class)
            deadline = time.monotonic() + FAST_WITHIN
            while self._runner.plans[shape_class].state is PlanState.BUILDING:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self._task.model} has no plan after {FAST_WITHIN:g} s")
                time.sleep(0.2)
            planner.close()
        plan = self.plan(prepared)
        for size in (1, prepared.max_batch):
            self.finish(prepared, self.forward([prepared] * size, plan)[0], plan)


def result_of(answer: bytes) -> Result:
    """What a client makes of a server's answer."""
    return Result.from_proto(vision_pb2.Result.FromString(answer))
