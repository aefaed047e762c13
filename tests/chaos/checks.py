"""What must hold whatever fails, as pure functions: each returns the violations that it sees, a sentence each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.plans import Answer, Plan, right_answer

from zoofleet import Job, JobState

# Keys that may stand in Redis once all jobs are deleted. Their names change; this is the one place that knows them.
ALLOWED: Final = tuple(
    re.compile(rf"\{{zoofleet\}}:{name}")
    for name in (
        *("sequence", "token", "dead_letters", "bytes", "workers", r"worker:(?P<worker>[^:]+)"),
        *("blame:[^:]+", "departed:[^:]+"),  # of processes that have ended, for a while
    )
)
"""The group `worker` must be the name of a live worker."""
ZERO: Final = re.compile(r"\{zoofleet\}:bytes")
"""Counters that must then be 0, by field."""
WORKERS: Final = re.compile(r"\{zoofleet\}:workers")
"""Collections whose members must then be live workers."""

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Emptying:
    """A time at which Redis lost all it had.

    Attributes:
        began: on the harness's clock.
        ended: when Redis was empty and answered; infinite before.
    """

    began: float
    ended: float


def may_be_gone(began: float, emptyings: Collection[Emptying]) -> bool:
    """Whether a job whose creation began then may have been lost with Redis's data."""
    return any(emptying.ended >= began for emptying in emptyings)


def check_existence(
    name: str, began: float, acknowledged: float, emptyings: Collection[Emptying], *, found: bool
) -> list[str]:
    """Check that an acknowledged job, never deleted, is there, or NOT_FOUND where Redis was emptied since."""
    if not found and not may_be_gone(began, emptyings):
        return [f"{name}: LOST JOB: acknowledged, and Redis was not emptied since, yet it is NOT_FOUND"]
    if found and any(emptying.began > acknowledged for emptying in emptyings):
        return [f"{name}: GHOST: Redis was emptied after it was acknowledged, yet it is there"]
    return []


def check_results(
    plan: Plan,
    answers: Sequence[Answer],
    *,
    cancelled: bool = False,
    complete: bool = True,
    excused: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Check a finished job's results.

    Args:
        plan: what was asked for.
        answers: all that were read.
        cancelled: whether the job was.
        complete: whether each item and task must have its answer.
        excused: whether faults alone may have killed an item's workers so often that it was given up.
    """
    right = {
        (item_id, model): right_answer(item_id, data, model)
        for item_id, data in plan.items.items()
        for model in plan.models
    }
    counts = Counter((answer.item_id, answer.model) for answer in answers)
    problems = [f"DOUBLED: {key} has {count} results" for key, count in counts.items() if count > 1]
    if complete:
        problems += [f"LOST: {key} has no result" for key in right.keys() - counts.keys()]
    for answer in answers:
        expected = right.get((answer.item_id, answer.model))
        if expected is None:
            problems.append(f"FOREIGN: {answer} is of no item and task of this job")
        elif answer == expected or (cancelled and answer.error == "CancelledError"):
            continue
        elif answer.error == "PoisonItemError":
            if not excused(answer.item_id):
                data = plan.items[answer.item_id][:40].rstrip(b" \0")
                problems.append(f"INNOCENT GIVEN UP: {data!r} by {answer.model}")
        elif answer.error:
            problems.append(f"UNEXPECTED ERROR: {answer}, expected {expected}")
        else:
            problems.append(f"WRONG: {answer}, expected {expected}")
    return _named(plan.name, problems)


def check_job(
    plan: Plan,
    job: Job,
    answers: Sequence[Answer],
    *,
    cancelling: bool = False,
    excused: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Check that a job has ended as it must, that its results are right, and that its counts agree with them.

    Args:
        plan: what was asked for.
        job: as it stands.
        answers: all that were read.
        cancelling: whether anybody asked to cancel it.
        excused: as `check_results`.
    """
    said = f"{job.name} is {job.state.name}, {job.committed_count} of {job.result_count}"
    stuck = [] if job.finished else [f"{plan.name}: STUCK: {said}"]
    if job.item_count != len(plan.items):
        return [f"{plan.name}: TRUNCATED: {job.name} has {job.item_count} of {len(plan.items)} items", *stuck]
    cancelled = job.state is JobState.CANCELLED
    problems = check_results(plan, answers, cancelled=cancelled, complete=job.finished, excused=excused)
    if stuck:
        return problems + stuck
    if job.state is not JobState.SUCCEEDED and not (cancelling and cancelled):
        problems.append(f"{plan.name}: STATE: {job.name} is {job.state.name}: {job.error}")
    results = len(plan.items) * len(plan.models)
    errors = sum(bool(answer.error) for answer in answers)
    told = (job.result_count, job.committed_count, job.error_count)
    if told != (results, results, errors):
        problems.append(f"{plan.name}: COUNTS: {job.name} says {told}, its results say {(results, results, errors)}")
    return problems


def check_cursor(
    name: str, whole: Sequence[tuple[str, int]], position: int, resumed: Sequence[tuple[str, int]]
) -> list[str]:
    """Check that reading on from the cursor after `position` results gives the rest, in the same order."""
    if list(whole[position:]) == list(resumed):
        return []
    return [f"{name}: CURSOR: after {position} of {len(whole)} results {len(resumed)} follow, or others"]


def check_repeat(name: str, first: str, again: str) -> list[str]:
    """Check that a repeated request_id gave the same job."""
    return [] if first == again else [f"{name}: REPEATED: its request_id made {first} and {again}"]


def check_doubles(jobs: Mapping[str, Collection[str]]) -> list[str]:
    """Check that no plan, all of which have request_ids, became two jobs."""
    return [f"{plan}: TWO JOBS: {sorted(names)}" for plan, names in jobs.items() if len(names) > 1]


def check_leftovers(content: Mapping[str, object], workers: Collection[str]) -> list[str]:
    """Check what is in Redis once all jobs are deleted.

    Args:
        content: by key; members where it is a collection.
        workers: names of those that live.
    """
    problems = []
    for key, value in content.items():
        match = next((found for allowed in ALLOWED if (found := allowed.fullmatch(key))), None)
        owner = match.groupdict().get("worker") if match else None
        dead = set(value) - set(workers) if WORKERS.fullmatch(key) and isinstance(value, list) else ()
        if match is None or (owner is not None and owner not in workers) or dead:
            problems.append(f"LEFTOVER: {key} = {str(value)[:200]}")
        elif ZERO.fullmatch(key) and (not isinstance(value, Mapping) or any(map(int, value.values()))):
            problems.append(f"LEFTOVER: {key} is {value}, not 0")
    return problems


def check_fleet(inflight: Mapping[str, int], workers: Collection[str]) -> list[str]:
    """Check that exactly the live workers are known, and idle."""
    problems = (
        [f"FLEET: known are {sorted(inflight)}, alive {sorted(workers)}"] if set(inflight) != set(workers) else []
    )
    return problems + [f"BUSY: {name} has {count} items with no job left" for name, count in inflight.items() if count]


def check_log(name: str, lines: Sequence[str]) -> list[str]:
    """Check that a scheduler's log has no traceback; shows the first ones, and of what kind the others are."""
    tracebacks = list(_tracebacks(lines))
    kinds = Counter(traceback[-1] for traceback in tracebacks)
    shown = ["\n    ".join(traceback[:2] + traceback[-3:]) for traceback in tracebacks[:2]]
    return [f"TRACEBACKS: {len(tracebacks)} in {name}: {dict(kinds)}\n    " + "\n    ".join(shown)] if shown else []


def _tracebacks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Each with the line before it, which says where it was caught, and the error."""
    for number, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            end = number + 1
            while end < len(lines) and lines[end].startswith(" "):
                end += 1
            yield [text.strip()[:300] for text in lines[max(number - 1, 0) : end + 1]]


def _named(name: str, problems: list[str]) -> list[str]:
    """The problems of a plan, a few of each kind."""
    kinds = Counter(problem.partition(":")[0] for problem in problems)
    shown: Counter[str] = Counter()
    named = []
    for problem in problems:
        kind = problem.partition(":")[0]
        shown[kind] += 1
        if shown[kind] <= _SHOWN:
            more = f" ({kinds[kind]} like it)" if shown[kind] == _SHOWN < kinds[kind] else ""
            named.append(f"{name}: {problem}{more}")
    return named
