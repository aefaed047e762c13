"""Each check sees what it is there to see: a check that never fails says nothing."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from itertools import islice

import pytest
from tests.chaos import checks, faults
from tests.chaos.checks import Emptying
from tests.chaos.plans import MODELS, Answer, Plan, make_plan, right_answer

from zoofleet import Job, JobState

PLAN = Plan(
    "j1x1", "red", MODELS, {"j1x1.0": b"image j1x1.0 ", "j1x1.1": b"bad j1x1.1 ", "j1x1.2": b"poison j1x1.2 "}, "uuid"
)
RIGHT = [right_answer(item_id, data, model) for item_id, data in PLAN.items.items() for model in MODELS]
JOB = Job("jobs/1", (), "red", 0, None, JobState.SUCCEEDED, 3, 6, 6, 4, None, None, None, None, None, None)


def changed(place: int, **fields: object) -> list[Answer]:
    answers = list(RIGHT)
    answers[place] = dataclasses.replace(answers[place], **fields)  # type: ignore[arg-type]
    return answers


def test_right_results_are_right() -> None:
    assert checks.check_results(PLAN, RIGHT) == []
    assert checks.check_job(PLAN, JOB, RIGHT) == []


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        (RIGHT[1:], "LOST"),
        ([*RIGHT, RIGHT[0]], "DOUBLED"),
        (changed(0, label=right_answer("x", b"image j2x1.0 ", MODELS[0]).label), "WRONG"),
        (changed(0, item_id="j2x1.0"), "FOREIGN"),
        (changed(0, model="vgg11@random"), "FOREIGN"),
        (changed(0, label=None, error="PoisonItemError"), "INNOCENT GIVEN UP"),
        (changed(0, label=None, error="CancelledError"), "UNEXPECTED ERROR"),
        (changed(2, label=7, error=""), "WRONG"),
        (changed(4, label=7, error=""), "WRONG"),
        (changed(4, error="InternalError"), "UNEXPECTED ERROR"),
    ],
)
def test_a_wrong_result_is_seen(answers: Sequence[Answer], word: str) -> None:
    assert word in "".join(checks.check_results(PLAN, answers))


def test_only_faults_excuse_an_item_that_was_given_up() -> None:
    answers = changed(0, label=None, error="PoisonItemError")
    assert checks.check_results(PLAN, answers, excused=lambda item_id: item_id == "j1x1.0") == []
    assert checks.check_results(PLAN, answers, excused=lambda item_id: item_id == "j1x1.1") != []


def test_cancelled_results_are_right_in_cancelled_jobs_alone() -> None:
    answers = changed(0, label=None, error="CancelledError")
    assert checks.check_results(PLAN, answers, cancelled=True) == []
    assert checks.check_results(PLAN, RIGHT[1:], cancelled=True) != []
    job = dataclasses.replace(JOB, state=JobState.CANCELLED)
    assert checks.check_job(PLAN, job, RIGHT, cancelling=True) == []
    assert "STATE" in "".join(checks.check_job(PLAN, job, RIGHT))


def test_a_lost_job_may_lack_results_but_has_no_wrong_ones() -> None:
    assert checks.check_results(PLAN, RIGHT[1:], complete=False) == []
    assert checks.check_results(PLAN, [*RIGHT, RIGHT[0]], complete=False) != []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"state": JobState.RUNNING}, "STUCK"),
        ({"state": JobState.FAILED}, "STATE"),
        ({"item_count": 2}, "TRUNCATED"),
        ({"committed_count": 5}, "COUNTS"),
        ({"error_count": 0}, "COUNTS"),
    ],
)
def test_a_wrong_job_is_seen(fields: dict[str, object], word: str) -> None:
    job = dataclasses.replace(JOB, **fields)  # type: ignore[arg-type]
    assert word in "".join(checks.check_job(PLAN, job, RIGHT))


def test_only_an_emptied_redis_may_lose_jobs_and_must() -> None:
    emptied = [Emptying(10.0, 11.0)]

    def problems(began: float, acknowledged: float, *, found: bool) -> str:
        return "".join(checks.check_existence("jobs/1", began, acknowledged, emptied, found=found))

    assert problems(12.0, 13.0, found=True) == problems(8.0, 9.0, found=False) == ""
    assert problems(9.5, 10.5, found=True) == problems(9.5, 10.5, found=False) == ""
    assert "LOST JOB" in problems(12.0, 13.0, found=False)
    assert "GHOST" in problems(8.0, 9.0, found=True)


def test_a_reader_that_goes_on_elsewhere_is_seen() -> None:
    whole = [("a", 1), ("b", 2), ("c", 3)]
    assert checks.check_cursor("j1x1", whole, 1, whole[1:]) == []
    for resumed in (whole, whole[2:], [("b", 2), ("c", 4)], [("c", 3), ("b", 2)]):
        assert "CURSOR" in "".join(checks.check_cursor("j1x1", whole, 1, resumed))


def test_a_job_made_twice_is_seen() -> None:
    assert checks.check_repeat("j1x1", "jobs/1", "jobs/1") == []
    assert checks.check_repeat("j1x1", "jobs/1", "jobs/2") != []
    assert checks.check_doubles({"j1x1": {"jobs/1"}}) == []
    assert checks.check_doubles({"j1x1": {"jobs/1", "jobs/2"}}) != []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("{zoofleet}:lease:7", {"job": b"1"}),
        ("{zoofleet}:leases", ["7"]),
        ("{zoofleet}:lane:red", ["1:0:0:5:0"]),
        ("{zoofleet}:quarantine", ["1:0:0:1:2"]),
        ("{zoofleet}:job:1:items", {}),
        ("{zoofleet}:tenant:red:active", ["1"]),
        ("{zoofleet}:uploads", ["1"]),
        ("{zoofleet}:bytes", {"*": b"12"}),
        ("{zoofleet}:worker:dead", {}),
        ("{zoofleet}:workers", ["dead", "w0-0"]),
    ],
)
def test_a_leftover_is_seen(key: str, value: object) -> None:
    clean: dict[str, object] = {
        "{zoofleet}:token": "9",
        "{zoofleet}:bytes": {"*": b"0"},
        "{zoofleet}:workers": ["w0-0"],
        "{zoofleet}:worker:w0-0": {},
    }
    assert checks.check_leftovers(clean, ["w0-0"]) == []
    assert "LEFTOVER" in "".join(checks.check_leftovers(clean | {key: value}, ["w0-0"]))


def test_workers_that_are_busy_missing_or_dead_are_seen() -> None:
    assert checks.check_fleet({"workers/a": 0}, {"workers/a"}) == []
    assert "BUSY" in "".join(checks.check_fleet({"workers/a": 1}, {"workers/a"}))
    assert "FLEET" in "".join(checks.check_fleet({}, {"workers/a"}))
    assert "FLEET" in "".join(checks.check_fleet({"workers/a": 0, "workers/b": 0}, {"workers/a"}))


def test_a_traceback_is_seen_with_its_cause() -> None:
    log = ["ready", "a fault in claiming", "Traceback (most recent call last):", "  File x", "    y()", "TypeError: z"]
    assert checks.check_log("scheduler-0", ["ready"]) == []
    (problem,) = checks.check_log("scheduler-0", [*log, *log])
    assert "2 in scheduler-0" in problem and "a fault in claiming" in problem and "TypeError: z" in problem


def test_a_seed_chooses_faults_and_plans() -> None:
    first, again, other = (list(islice(faults.schedule(random.Random(seed), 1.0), 200)) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in first} == set(faults.WEIGHTS)
    assert make_plan("j1x1", random.Random(1)) == make_plan("j1x1", random.Random(1))
    assert sum(data.startswith(b"poison") for data in make_plan("j1x1", random.Random(1), "poison").items.values()) == 1
