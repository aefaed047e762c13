"""The worker's search for plans: one model after the other, in the background, by a process of its own for each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from zoofleet._serving.faults import fault
from zoofleet._values.tasks import Precision
from zoofleet.errors import InternalError, ZoofleetError
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.plan import EXACT, Plan, PlanState, PlanStatus
from zoofleet.worker.plans import regions
from zoofleet.worker.plans.assembly import assemble, memory_bytes
from zoofleet.worker.plans.cache import Entry, PlanCache
from zoofleet.worker.plans.rungs import compiler, hardware, ladder
from zoofleet.worker.plans.trial import Request, Trial
from zoofleet.worker.runner import Runner

__all__ = ["Planner"]

_log: Final = logging.getLogger(__name__)

_VERSION: Final = 1
"""Raised with each change by which older entries of the cache are no longer right."""

_MAX_SHAPE_CLASSES: Final = 4
"""Most classes of shapes of one loaded model that get plans; clips may have 64 lengths. The others run by EXACT."""

_COMMAND: Final = (sys.executable, "-P", "-m", "zoofleet.worker.plans.child")

_LAST_WORDS: Final = 300
"""Characters of what a process that failed wrote at last, which its error quotes."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What to search a plan for. It does not keep the model in memory."""

    runner: weakref.ref[Runner[Any]]
    shape_class: tuple[int, ...]


class Planner:
    """Searches plans for the models of one worker. Its methods may be called in any thread.

    Args:
        config: the worker's settings, for threads, the cache and the time limit.
        on_ready: called, in the planner's thread, once a plan takes memory.
    """

    def __init__(self, config: WorkerConfig, on_ready: Callable[[], object] = lambda: None) -> None:
        self._config = config
        self._int8 = config.quantized_plans == "yes"
        self._on_ready = on_ready
        self._wishes: queue.SimpleQueue[_Wish | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def ask(self, runner: Runner[Any], shape_class: tuple[int, ...]) -> None:
        """Have a plan searched for a model's items of a class of shapes, unless that was asked for before."""
        with self._lock:
            if self._is_stopped or shape_class in runner.plans or len(runner.plans) >= _MAX_SHAPE_CLASSES:
                return
            if runner.name.info.task == "quantization":
                message = "an INT8 model has no other plan"
                runner.plans[shape_class] = PlanStatus(PlanState.READY, EXACT, shape_class, message=message)
                return
            runner.plans[shape_class] = PlanStatus(PlanState.BUILDING, EXACT, shape_class)
            self._wishes.put(_Wish(weakref.ref(runner), shape_class))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the search, and the process that builds. Blocks until that is done."""
        with self._lock:
            self._is_stopped = True
            self._wishes.put(None)
            if self._child is not None:
                _kill(self._child)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (wish := self._wishes.get()) is not None and not self._is_stopped:
            self._serve(wish)

    def _serve(self, wish: _Wish) -> None:
        """Search, and let the runner know what came of it."""
        runner = wish.runner()
        if runner is None:
            return
        try:
            key = self._key(runner, wish.shape_class)
            runner = None  # a search takes minutes, in which the model may be unloaded
            cache = PlanCache(self._config.plan_cache)
            entry = cache.read(key) or self._search(cache, key)
            runner = wish.runner()
            if entry is None or runner is None:
                return
            status = _status(entry, runner, wish.shape_class, cache.path(key))
        except Exception as error:  # noqa: BLE001 - whatever it is, EXACT serves, and so do other models' plans
            known = error if isinstance(error, ZoofleetError) else fault("the search for a plan")
            status = PlanStatus(PlanState.FAILED, EXACT, wish.shape_class, message=str(known))
            runner = wish.runner()
        if runner is None:
            return
        runner.plans[wish.shape_class] = status
        if status.state is PlanState.FAILED:
            _log.warning("no fast plan of %s; it runs by %s: %s", runner.name, EXACT.name, status.message)
        else:
            self._on_ready()
            _log.info("%s runs by %s where FAST is asked for. %s", runner.name, status.plan.name, status.message)

    def _key(self, runner: Runner[Any], shape_class: tuple[int, ...]) -> dict[str, Any]:
        """Return all that a search's result depends on."""
        device = runner.device
        return {
            "version": [_VERSION, regions.VERSION],
            "model": str(runner.name),
            "weights": _weights_digest(runner),
            "shape_class": list(shape_class),
            "torch": torch.__version__,
            "device": str(device),
            "hardware": hardware(device),
            "threads": self._config.resolved_threads(),
            "rungs": [rung.name for rung in ladder(device, int8=self._int8)],
        }

    def _search(self, cache: PlanCache, key: dict[str, Any]) -> Entry | None:
        """Build and measure plans, unless another worker does so at the same time. None where it was stopped."""
        with cache.lock(key, lambda: self._is_stopped) as locked:
            if not locked:
                return None
            entry = cache.read(key)  # of the worker that had the lock before
            if entry is not None:
                return entry
            with cache.staged() as folder:
                trials, failure = self._build(key, folder)
                if self._is_stopped:
                    return None
                faster = [trial for trial in trials if trial.is_faster]
                best = min(faster, key=lambda trial: math.prod(trial.shares), default=None)
                entry = Entry(tuple(trials), best.name if best else None, failure, time.time())
                cache.write(key, entry, folder)
        return entry

    def _build(self, key: dict[str, Any], folder: Path) -> tuple[list[Trial], str]:
        """Climb the ladder in a process. Return the rungs that it came to, and why it ended early, if it did."""
        request = Request(
            key["model"], tuple(key["shape_class"]), key["device"], key["threads"], str(folder), self._int8
        )
        with (folder / "log").open("w+b") as log:
            with self._child_of(request, folder, log) as child:
                try:
                    written, _ = child.communicate(timeout=self._config.plan_timeout)
                    failure = "" if child.returncode == 0 else f"the process ended with exit code {child.returncode}"
                except subprocess.TimeoutExpired:
                    _kill(child)
                    written, _ = child.communicate()
                    failure = f"not done after {self._config.plan_timeout:g} s (plan_timeout)"
            log.seek(0)
            said = log.read().decode(errors="replace")[-_LAST_WORDS:].strip()
        trials, rung = [], "the start"
        for line in written.splitlines():
            with contextlib.suppress(ValueError):  # cut off
                fields = json.loads(line)
                if "begins" in fields:
                    rung = fields["begins"]
                else:
                    trials.append(Trial.from_json(fields))
        return trials, f"at {rung}, {failure}" + (f": {said}" if child.returncode > 0 else "") if failure else ""

    @contextlib.contextmanager
    def _child_of(self, request: Request, folder: Path, log: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start the process that builds. It ends with this one, since it holds the other end of a pipe."""
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TMPDIR": str(folder)}
        reader, writer = os.pipe()
        try:
            with self._lock:
                if self._is_stopped:
                    raise InternalError("the worker is shutting down")
                child = subprocess.Popen(
                    [*_COMMAND, request.to_json()],
                    stdin=reader,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
                self._child = child
            yield child
        finally:
            if self._child is not None:
                _kill(self._child)
            with self._lock:
                self._child = None
            os.close(reader)
            os.close(writer)


def _status(entry: Entry, runner: Runner[Any], shape_class: tuple[int, ...], folder: Path) -> PlanStatus:
    """Make a search's result ready to serve."""
    notes = [f"{trial.name}: {trial.message}" for trial in entry.trials if not trial.is_valid]
    if runner.device.type == "cpu" and compiler() is None:
        notes.append("nothing was compiled, since there is no C++ compiler")
    if entry.failure:
        notes.append(entry.failure)
    trial = entry.trial
    if trial is None:
        state = PlanState.FAILED if entry.failure else PlanState.READY
        exact = min((each.exact_milliseconds for each in entry.trials if each.is_valid), default=0.0)
        return PlanStatus(state, EXACT, shape_class, exact, exact, message="; ".join(notes))
    rung = next(rung for rung in ladder(runner.device, int8=True) if rung.name == trial.name)
    form = assemble(runner.module, rung, trial.parts, folder)
    size = memory_bytes(form, runner.module, [folder / name for name in trial.packages])
    plan = Plan(trial.name, Precision.FAST, shape_class)
    runner.forms[plan] = form
    return PlanStatus(
        PlanState.READY,
        plan,
        shape_class,
        trial.milliseconds,
        trial.exact_milliseconds,
        trial.deviation,
        size,
        "; ".join(notes),
    )


def _weights_digest(runner: Runner[Any]) -> str:
    """Return a hash of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in runner.module.state_dict().items():
        if isinstance(value, Tensor) and not value.is_quantized:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a process and its compilers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
