"""Whatever dies in the middle of a job, it ends with one result for each item."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from tests.cluster.conftest import Cluster, jpegs

from zoofleet import Client, Job, JobState, Task

pytestmark = pytest.mark.cluster

MODEL = "mobilenet_v3_large@random"
COUNT = 500


def wait_until_committed(client: Client, name: str, count: int) -> Job:
    """The job, once at least `count` and not all of its results are in."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = client.get_job(name)
        if job.committed_count >= count:
            assert job.state is JobState.RUNNING
            return job
        time.sleep(0.02)
    raise AssertionError(f"no {count} results within 120 s: {client.get_job(name)}")


def assert_complete(client: Client, name: str) -> None:
    """500 results, each item exactly once, none of them an error."""
    job = client.wait_job(name, timeout=180)
    results = list(client.read_results(name))
    assert job.state is JobState.SUCCEEDED
    assert job.committed_count == COUNT
    assert Counter(result.item_id for result in results) == Counter(str(i) for i in range(COUNT))
    assert [result.error for result in results if result.error] == []


def test_worker_killed_in_the_middle_of_a_job(cluster: Cluster) -> None:
    cluster.start_scheduler()
    worker = cluster.start_worker()
    with Client(cluster.address) as client:
        job = client.create_job(jpegs(COUNT), [Task(MODEL)])
        killed_at = wait_until_committed(client, job.name, 40)
        worker.kill()
        worker.wait()
        assert killed_at.committed_count < COUNT
        cluster.start_worker()
        assert_complete(client, job.name)


def test_scheduler_killed_in_the_middle_of_a_job(cluster: Cluster) -> None:
    scheduler = cluster.start_scheduler()
    cluster.start_worker()
    with Client(cluster.address) as client:
        job = client.create_job(jpegs(COUNT), [Task(MODEL)])
        killed_at = wait_until_committed(client, job.name, 40)
        scheduler.kill()
        scheduler.wait()
        assert killed_at.committed_count < COUNT
        cluster.start_scheduler()
        assert_complete(client, job.name)
