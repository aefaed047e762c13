"""The search for plans, by real processes: what serves meanwhile, afterwards, and where it fails."""

import json
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import torch
from tests.worker.calls import item, png, run, until
from torch import Tensor

from zoofleet._catalog import ModelName
from zoofleet._values.resources import LoadedModel
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import TaskKind
from zoofleet.errors import FailedPreconditionError
from zoofleet.v1 import vision_pb2
from zoofleet.worker import Worker
from zoofleet.worker.batcher import Batcher, Entry
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plan import EXACT, Plan, PlanState, PlanStatus
from zoofleet.worker.plans import planner as planner_module
from zoofleet.worker.plans.assembly import Part, assemble
from zoofleet.worker.plans.cache import Entry as Found
from zoofleet.worker.plans.cache import PlanCache
from zoofleet.worker.plans.examples import examples
from zoofleet.worker.plans.planner import Planner
from zoofleet.worker.plans.rungs import Rung
from zoofleet.worker.runner import Prepared, Runner
from zoofleet.worker.transfer import transfer_for

NAME = "mobilenet_v3_small@random"
CHILD = str(Path(__file__).with_name("faulty_child.py"))
SECONDS = 240.0
"""How long a search may take on a machine that is busy with other things."""


@pytest.fixture
def runner() -> Runner[Any]:
    return make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig())


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Callable[..., PlanStatus]]:
    """Search in the folder `cache`, and return what came of it."""
    planners = []

    def searched(runner: Runner[Any], **settings: Any) -> PlanStatus:
        planners.append(Planner(config(tmp_path, **settings)))
        planners[-1].ask(runner, ())
        return status_of(runner)

    yield searched
    for each in planners:
        each.close()


def config(tmp_path: Path, **settings: Any) -> WorkerConfig:
    return WorkerConfig(threads=1, plan_cache=str(tmp_path / "cache"), **settings)


def status_of(runner: Runner[Any]) -> PlanStatus:
    deadline = time.monotonic() + SECONDS
    while runner.plans[()].state is PlanState.BUILDING and time.monotonic() < deadline:
        time.sleep(0.02)
    return runner.plans[()]


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(planner_module, "_COMMAND", (sys.executable, CHILD, fault))


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no search be made: what is asked for must come from the cache."""
    monkeypatch.setattr(planner_module, "_COMMAND", ("false",))


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


def prepared(runner: Runner[Any], count: int) -> list[Prepared]:
    return examples(runner, (), count)


def logits(runner: Runner[Any], items: list[Prepared], precision: Precision) -> Tensor:
    with torch.inference_mode():
        outputs: Tensor = runner.outputs(items, runner.plan(precision, items[0]))
    return outputs


def entry_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache").glob("*/entry.json")
    return file


def test_the_plain_plan_serves_until_a_faster_one_is_found_and_kept(
    runner: Runner[Any], search: Callable[..., PlanStatus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler(monkeypatch)
    (item,) = prepared(runner, 1)
    assert runner.plan(Precision.FAST, item) is EXACT
    status = search(runner)
    assert status.state is PlanState.READY and "no C++ compiler" in status.message
    assert status.plan == runner.plan(Precision.FAST, item) and runner.plan(Precision.EXACT, item) is EXACT
    assert status.plan.name in ("folded float32", "eager bfloat16", EXACT.name) and status.deviation < 1e-3
    assert status.milliseconds <= status.exact_milliseconds
    assert status.plan is EXACT or 0 < status.memory_bytes < 12e6

    never(monkeypatch)  # a second worker finds the same in the cache
    again = make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig())
    found = search(again)
    assert (found.plan.name, found.milliseconds) == (status.plan.name, status.milliseconds)
    items = prepared(runner, 3)
    torch.testing.assert_close(
        logits(runner, items, Precision.FAST), logits(again, items, Precision.FAST), rtol=0, atol=0
    )


@pytest.mark.parametrize("fault", ["strays", "slow"])
def test_a_plan_that_strays_or_is_slower_is_not_taken(
    runner: Runner[Any], search: Callable[..., PlanStatus], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    without_compiler(monkeypatch)
    faulty(monkeypatch, fault)
    status = search(runner)
    assert status.state is PlanState.READY and status.plan is EXACT
    assert ("folded float32: strays from EXACT" in status.message) == (fault == "strays")


def test_what_was_found_before_the_process_crashed_serves(
    runner: Runner[Any], search: Callable[..., PlanStatus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, "crashes")
    status = search(runner)
    assert f"at bad, the process ended with exit code {-signal.SIGABRT}" in status.message
    content = json.loads(entry_file(tmp_path).read_text())
    assert [trial["name"] for trial in content["trials"]] == ["folded float32"]
    assert (status.plan.name == "folded float32") == (content["chosen"] is not None)


def test_a_compiler_that_hangs_is_ended_and_the_failure_is_remembered(
    runner: Runner[Any], search: Callable[..., PlanStatus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, "hangs")
    status = search(runner, plan_timeout=5.0)
    assert status.state is PlanState.FAILED and status.plan is EXACT
    assert "at compiled float32, not done after 5 s (plan_timeout)" in status.message
    gone(int((tmp_path / "cache" / "compiler").read_text()))

    never(monkeypatch)
    again = make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig())
    assert "not done after 5 s" in search(again).message


def test_a_search_ends_with_its_worker(tmp_path: Path) -> None:
    """Also with one that is killed: the compiler that it started is gone too."""
    program = f"""
import torch, sys
from zoofleet._catalog import ModelName
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.plans import planner
from zoofleet.worker.loading import make_runner
planner._COMMAND = (sys.executable, {CHILD!r}, "hangs")
config = WorkerConfig(threads=1, plan_cache={str(tmp_path / "cache")!r})
runner = make_runner(ModelName.parse({NAME!r}), torch.device("cpu"), config)
planner.Planner(config).ask(runner, ())
import time; time.sleep(1000)
"""
    worker = subprocess.Popen([sys.executable, "-c", program])
    file = tmp_path / "cache" / "compiler"
    try:
        deadline = time.monotonic() + SECONDS
        while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        worker.kill()
        worker.wait()
    gone(int(file.read_text()))


def unexpected(error: BaseException) -> NoReturn:
    raise error


def gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the compiler is still there"
        time.sleep(0.05)


def test_a_damaged_or_foreign_entry_is_built_again(
    runner: Runner[Any], search: Callable[..., PlanStatus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler(monkeypatch)
    search(runner)
    file = entry_file(tmp_path)
    whole = file.read_text()
    content = json.loads(whole)
    cache, key = PlanCache(str(tmp_path / "cache")), content["key"]
    assert cache.read(key) is not None
    package = {"path": "", "folds": [], "package": "0.pt2"}
    trials = [{**content["trials"][0], "parts": [package]}]
    (file.parent / "0.pt2").write_bytes(b"not what it was")
    for damaged in (
        whole[: len(whole) // 2],
        "",
        "[]",
        json.dumps({**content, "key": {**key, "torch": "1.0"}}),
        json.dumps({**content, "chosen": "another"}),
        json.dumps({**content, "chosen": trials[0]["name"], "trials": trials, "files": {"0.pt2": "0" * 64}}),
        json.dumps({**content, "chosen": trials[0]["name"], "trials": trials, "files": {}}),
    ):
        file.write_text(damaged)
        assert cache.read(key) is None
    again = make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig())
    assert search(again).state is PlanState.READY
    assert cache.read(key) is not None


def test_old_failures_are_tried_again(tmp_path: Path) -> None:
    cache = PlanCache(str(tmp_path / "cache"))
    for age, is_kept in ((0.0, True), (25 * 3600.0, False)):
        with cache.staged() as folder:
            cache.write({"a": 1}, Found((), None, "no reason", time.time() - age), folder)
        assert (cache.read({"a": 1}) is not None) is is_kept


def test_a_cache_that_others_may_write_to_is_refused(
    runner: Runner[Any], search: Callable[..., PlanStatus], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(FailedPreconditionError, match="0700"):
        PlanCache(str(tmp_path / "cache"))
    status = search(runner)
    assert status.state is PlanState.FAILED and "0700" in status.message and status.plan is EXACT


def test_two_workers_build_a_plan_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    runners = [make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig()) for _ in range(2)]
    workers = [Planner(config(tmp_path)) for _ in range(2)]
    started = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    try:
        for worker, runner in zip(workers, runners, strict=True):
            worker.ask(runner, ())
        one, other = (status_of(runner) for runner in runners)
    finally:
        for worker in workers:
            worker.close()
    assert len(started) == 1
    assert (one.state, one.plan.name, one.milliseconds) == (other.state, other.plan.name, other.milliseconds)


def test_a_model_that_leaves_meanwhile_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    faulty(monkeypatch, "hangs")
    runner = make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig())
    worker = Planner(config(tmp_path))
    try:
        worker.ask(runner, ())
        while not (tmp_path / "cache" / "compiler").exists():
            time.sleep(0.02)
        left = weakref.ref(runner)
        del runner
        gc.collect()
        assert left() is None
    finally:
        worker.close()


def test_a_compiled_model_is_loaded_without_the_compiler(
    runner: Runner[Any], search: Callable[..., PlanStatus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, "compiles")
    search(runner)
    content = json.loads(entry_file(tmp_path).read_text())
    (trial,) = content["trials"]
    assert trial["is_valid"] and trial["deviation"] < 1e-6, trial["message"]
    packages = [part["package"] for part in trial["parts"]]
    if content["chosen"] is None:  # a busy machine found it slower, and dropped it
        pytest.skip(f"compiled was slower: {trial['shares']}")
    loaded = set(sys.modules)
    laid_out = set(Path(tempfile.gettempdir()).glob("aotinductor_*"))
    form = assemble(
        runner.module,
        Rung("compiled float32", "float32", is_compiled=True),
        [Part.from_json(part) for part in trial["parts"]],
        entry_file(tmp_path).parent,
    )
    assert set(Path(tempfile.gettempdir()).glob("aotinductor_*")) == laid_out  # a killed worker would leave them
    assert packages
    assert not {name for name in set(sys.modules) - loaded if name.startswith(("torch._dynamo", "torch._inductor"))}
    with torch.inference_mode():
        for count in (1, 2, 3, 16):
            batch = torch.stack([item.inputs[0] for item in prepared(runner, count)])
            exact = runner.module(batch.contiguous(memory_format=torch.channels_last))
            spread = float(exact.abs().max())
            torch.testing.assert_close(form(batch) / spread, exact / spread, rtol=0, atol=1e-4)
    never(monkeypatch)
    again = make_runner(ModelName.parse(NAME), torch.device("cpu"), WorkerConfig())
    start = time.monotonic()
    assert search(again).plan.name == "compiled float32"
    print(f"from the cache in {time.monotonic() - start:.2f} s")


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    faulty(monkeypatch, "pretends")
    plain = WorkerConfig(schedulers=(), device="cpu", threads=1, plan_cache=str(tmp_path / "cache"))
    worker = Worker(plain)
    await worker.start()
    yield worker
    await worker.stop()


def fast(precision: vision_pb2.Precision.ValueType = vision_pb2.PRECISION_FAST) -> vision_pb2.Task:
    return vision_pb2.Task(model=NAME, precision=precision)


async def test_results_say_what_they_ran_at_and_the_worker_says_what_serves(worker: Worker) -> None:
    async def precision_of(task: vision_pb2.Task) -> str:
        results = await run(worker.address, TaskKind.CLASSIFY, task, [item(png(64, 48, [bytes(64)] * 48))])
        (result,) = results.values()
        assert not isinstance(result.outcome, Exception), result.outcome
        return result.precision

    first = await precision_of(fast())
    assert first in ("PRECISION_EXACT", "PRECISION_FAST")

    async def is_ready() -> bool:
        return await precision_of(fast()) == "PRECISION_FAST"

    await until(is_ready)
    assert await precision_of(fast(vision_pb2.PRECISION_EXACT)) == "PRECISION_EXACT"
    assert await precision_of(fast(vision_pb2.PRECISION_UNSPECIFIED)) == "PRECISION_EXACT"
    (loaded,) = worker.status().loaded_models
    (plan,) = LoadedModel.from_proto(loaded).plans
    assert (plan.name, plan.state.name, plan.precision) == ("folded float32", "READY", Precision.FAST)
    assert (plan.milliseconds, plan.exact_milliseconds, plan.deviation) == (1.0, 4.0, 1e-6)


async def test_the_operator_chooses_for_tasks_that_ask_for_no_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, "pretends")
    worker = Worker(WorkerConfig(schedulers=(), threads=1, plan_cache=str(tmp_path / "c"), default_precision="fast"))
    await worker.start()
    try:

        async def is_fast() -> bool:
            task = fast(vision_pb2.PRECISION_UNSPECIFIED)
            results = await run(worker.address, TaskKind.CLASSIFY, task, [item(png(64, 48, [bytes(64)] * 48))])
            return results["0"].precision == "PRECISION_FAST"

        await until(is_fast)
    finally:
        await worker.stop()


def test_exact_serves_in_place_of_a_plan_that_fails_in_a_forward_pass(
    runner: Runner[Any], caplog: pytest.LogCaptureFixture
) -> None:
    class _Failing(torch.nn.Module):
        def forward(self, *_: Any) -> Any:
            raise RuntimeError("a shape that was not compiled")

    bad = Plan("compiled float32", Precision.FAST)
    runner.forms[bad] = _Failing()
    runner.plans[()] = PlanStatus(PlanState.READY, bad, ())
    batcher = Batcher(1, 1 << 30, transfer_for(torch.device("cpu")), unexpected)
    outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        entries = [Entry(runner, bad, each, outcomes.put) for each in prepared(runner, 3)]
        for entry in entries:
            batcher.add(entry)
        raws = [outcomes.get(timeout=60) for _ in entries]
    finally:
        batcher.close()
    assert all("scores" in raw for raw in raws) and all(entry.plan is EXACT for entry in entries)
    status = runner.plans[()]
    assert status.state is PlanState.FAILED and "was not compiled" in status.message and status.plan is EXACT
    assert sum("serves from now on" in record.message for record in caplog.records) == 1
