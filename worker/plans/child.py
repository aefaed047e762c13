"""The process that builds plans: `python -m zoofleet.worker.plans.child REQUEST`, with a `Request` as JSON.

It writes a line of JSON to its standard output before each rung, `{"begins": NAME}`, and one after it, a `Trial`. Its
standard input is a pipe that nothing is written to: when that closes, whoever asked is gone, and it ends itself and its
compilers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from zoofleet._catalog import ModelName
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.worker.batcher import use_threads
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plan import EXACT, Plan
from zoofleet.worker.plans.assembly import Part, assemble, folds, part_of
from zoofleet.worker.plans.deviation import compare
from zoofleet.worker.plans.examples import examples
from zoofleet.worker.plans.guard import end_with_parent
from zoofleet.worker.plans.int8 import int8_builder, save_int8
from zoofleet.worker.plans.regions import Region, regions
from zoofleet.worker.plans.rungs import DTYPES, Rung, ladder
from zoofleet.worker.plans.trial import Request, Trial
from zoofleet.worker.runner import Prepared, Raw, Runner

_NICENESS: Final = 19
"""Serving goes first."""

_BATCHES: Final = (1, 4)
"""Items of the batches that are timed."""

_EXAMPLES: Final[Mapping[TaskKind, int]] = {TaskKind.CLASSIFY: 8}
"""Items on which a plan is held against EXACT; 2 of the kinds that are not here, whose outputs say more each."""

_CALIBRATION: Final = 32
"""Pictures on which the scales of INT8 activations are measured."""

_ROUNDS: Final = 7
_ROUNDS_SECONDS: Final = 20.0
"""A plan is measured that often, or for that long if that is less; twice at least. The least time counts, since what
disturbs a measurement only adds to it."""

_HOPELESS: Final = 1.5
"""A plan that takes that many times as long as EXACT in a round is not measured again."""


def main() -> None:
    """Climb the ladder, and report each rung."""
    request = Request.from_json(sys.argv[1])
    report = _reporter()
    end_with_parent()
    os.nice(_NICENESS)
    use_threads(request.threads)
    device = torch.device(request.device)
    runner = make_runner(ModelName.parse(request.model), device, WorkerConfig())
    with torch.no_grad():
        count = _EXAMPLES.get(kind_of(runner.name), 2)
        items = examples(runner, request.shape_class, count)
        upright = examples(runner, request.shape_class, 1, is_upright=True)
    builder = _Builder(runner, items, upright, request)
    for rung in ladder(device, int8=request.int8 and int8_builder(runner.name) is not None):
        report({"begins": rung.name})
        report(dataclasses.asdict(builder.trial(rung)))


class _Builder:
    """Builds and judges the plans of one model.

    Args:
        runner: the model.
        items: the examples, all of which may share a batch.
        others: further ones, of another size where the model takes several; plans are held against EXACT on them too.
        request: what to build, and where to put packages.
    """

    def __init__(self, runner: Runner[Any], items: list[Prepared], others: list[Prepared], request: Request) -> None:
        self._runner = runner
        self._request = request
        self._kind = kind_of(runner.name)
        most = items[0].max_batch
        self._timed = [items[:size] for size in dict.fromkeys(min(size, most) for size in _BATCHES)]
        size = min(4, most)
        self._compared = [*(items[start : start + size] for start in range(0, len(items), size)), others]
        with torch.no_grad():
            run = self._run_example
            self._regions = regions(self._kind, runner.module, run)
            self._folds = [folds(runner.module, region, run) for region in self._regions]

    def trial(self, rung: Rung) -> Trial:
        """Build a rung, hold it against EXACT, and measure both."""
        start = time.monotonic()
        try:
            parts = tuple(self._part(index, rung) for index in range(len(self._regions)))
            if not parts:
                return Trial(rung.name, message="no part of the model can be replaced")
            seconds = time.monotonic() - start
            form = assemble(self._runner.module, rung, parts, Path(self._request.folder))
            plan = Plan(rung.name, Precision.FAST)
            self._runner.forms[plan] = form
            coarsest = torch.bfloat16 if rung.tf32 else None if rung.dtype == "int8" else DTYPES[rung.dtype]
            deviation = compare(self._kind, self._runner.module, form, self._raw, coarsest)
        except Exception as error:  # noqa: BLE001 - a compiler may raise anything, and the next rung may do
            return Trial(rung.name, message=_shortened(error), seconds=time.monotonic() - start)
        trial = Trial(rung.name, parts=parts, deviation=1 - deviation.cosine, seconds=seconds, message=str(deviation))
        if not deviation.is_accepted:
            return dataclasses.replace(trial, message=f"strays from EXACT: {deviation}")
        return self._measured(trial, plan)

    def _part(self, index: int, rung: Rung) -> Part:
        region = self._regions[index]
        part = Part(region.path, self._folds[index])
        if rung.dtype == "int8":
            return self._int8(region)
        if not rung.is_compiled:
            return part
        name = f"{index}-{rung.dtype}"
        inner = part_of(self._runner.module, part, rung)
        _compile(inner, region, DTYPES[rung.dtype], Path(self._request.folder, name))
        return dataclasses.replace(part, package=name)

    def _int8(self, region: Region) -> Part:
        builder, name = int8_builder(self._runner.name), "int8.pt"
        assert builder is not None  # noqa: S101 - the ladder has no INT8 otherwise
        drawn = examples(self._runner, self._request.shape_class, _CALIBRATION + _EXAMPLES[self._kind])
        pictures = torch.stack([item.inputs[0] for item in drawn[-_CALIBRATION:]])  # others than those compared
        save_int8(self._runner.module, builder, torch.split(pictures, _BATCHES[-1]), Path(self._request.folder, name))
        return Part(region.path, package=name, int8_builder=builder)

    def _measured(self, trial: Trial, plan: Plan) -> Trial:
        """Time a plan and EXACT in turns, so that what disturbs the machine meets both."""
        for batch in self._timed:  # what is done once for each shape does not count
            self._outputs(batch, EXACT)
            self._outputs(batch, plan)
        best = {(one, size): float("inf") for one in (EXACT, plan) for size in range(len(self._timed))}
        deadline = time.monotonic() + _ROUNDS_SECONDS
        for done in range(_ROUNDS):
            for size, batch in enumerate(self._timed):
                for one in (EXACT, plan):
                    best[one, size] = min(best[one, size], self._seconds(batch, one))
            shares = [best[plan, size] / best[EXACT, size] for size in range(len(self._timed))]
            if max(shares) > _HOPELESS or (done and time.monotonic() > deadline):
                break
        count = len(self._timed[-1])
        last = len(self._timed) - 1
        return dataclasses.replace(
            trial,
            is_valid=True,
            milliseconds=best[plan, last] / count * 1e3,
            exact_milliseconds=best[EXACT, last] / count * 1e3,
            shares=tuple(shares),
        )

    def _seconds(self, batch: list[Prepared], plan: Plan) -> float:
        # The thread's own time leaves out what others took of the core, but is right for one thread alone.
        on_cpu = self._request.device == "cpu"
        clock = time.thread_time if on_cpu and self._request.threads == 1 else time.perf_counter
        start = clock()
        self._outputs(batch, plan)
        if not on_cpu:
            torch.cuda.synchronize()
        return clock() - start

    @torch.inference_mode()
    def _raw(self, module: torch.nn.Module) -> list[Raw]:
        plan = Plan("compared", Precision.FAST)
        self._runner.forms[plan] = module
        return [raw for batch in self._compared for raw in self._runner.forward(batch, plan)]

    def _run_example(self) -> Any:
        return self._runner.outputs(self._timed[-1], EXACT)

    @torch.inference_mode()
    def _outputs(self, batch: list[Prepared], plan: Plan) -> Any:
        return self._runner.outputs(batch, plan)


def _compile(module: torch.nn.Module, region: Region, dtype: torch.dtype, path: Path) -> None:
    """Compile a region into a package, with its weights frozen into it, and lay that out as a folder.

    A worker that loads a package file lays it out in the temporary directory, and leaves it there when it is killed.
    """
    import torch._inductor
    from torch._inductor import config

    config.compile_threads = 1
    config.freezing = True
    with torch.no_grad():
        file = torch._inductor.aoti_compile_and_package(
            region.export(module, dtype), package_path=str(path.with_suffix(".pt2"))
        )
    with zipfile.ZipFile(file) as package:
        package.extractall(path.parent)  # into a folder of the file's name without its ending
    Path(file).unlink()


def _reporter() -> Callable[[Any], None]:
    """Return what writes lines to the standard output, which nothing else writes to from now on."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(fields: Any) -> None:
        out.write(json.dumps(fields) + "\n")
        out.flush()

    return report


def _shortened(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


if __name__ == "__main__":
    main()
