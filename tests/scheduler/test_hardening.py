"""What must hold at two schedulers and two workers, beside a Redis that fails, and where processes pause."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from typing import Any

import grpc.aio
import pytest
from tests.chaos.proxy import FaultProxy
from tests.scheduler.conftest import MODEL, OTHER_MODEL, Client, Cluster, job_of, messages, until
from tests.scheduler.fake_worker import label

from zoofleet import errors
from zoofleet._wire.status import from_rpc_error, from_status
from zoofleet.scheduler import keys, task_stream
from zoofleet.v1 import jobs_pb2, vision_pb2


def items(word: str, count: int) -> list[bytes]:
    return [f"{word} {index}".encode() for index in range(count)]


def assert_right(sent: list[bytes], results: dict[str, vision_pb2.Result]) -> None:
    """Every item has its own right answer."""
    assert {key: result.error.message for key, result in results.items() if result.HasField("error")} == {}
    assert {key: result.classification.labels[0] for key, result in results.items()} == {
        f"item-{index}": label(item) for index, item in enumerate(sent)
    }


async def ready(client: Client) -> bool:
    try:
        return (await client.workers()) is not None
    except grpc.aio.AioRpcError:
        return False


async def second_scheduler(cluster: Cluster, **changes: Any) -> tuple[subprocess.Popen[bytes], Client]:
    """Another replica, as a process of its own."""
    process, address = await cluster.start_process(**changes)
    client = cluster.connect(address)
    await until(lambda: ready(client))
    return process, client


async def test_a_redis_that_was_emptied_mixes_no_jobs(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--parallel", "4")
    for turn in range(3):
        lost = await cluster.client.create(items(f"sleep 0.3 lost {turn}", 32))

        async def begun(text: str = f"lost {turn}") -> bool:
            return any(text in line for line in cluster.executions())

        await until(begun)
        os.kill(cluster.redis.pid, signal.SIGKILL)
        cluster.redis.stop()
        shutil.rmtree(cluster.redis._data_dir)
        cluster.redis.start()
        sent = items(f"fresh {turn}", 16)

        async def created(sent: list[bytes] = sent) -> str:
            try:
                return await cluster.client.create(sent)
            except grpc.aio.AioRpcError:
                return ""

        name = await until(created)
        assert_right(sent, await cluster.client.results(name))
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await cluster.client.get(lost)


async def test_poison_takes_no_innocent_item_along_at_two_schedulers(cluster: Cluster) -> None:
    await cluster.start()
    _, other = await second_scheduler(cluster)
    addresses = [cluster.address, other.address]
    stop = asyncio.Event()

    async def keep_one_worker() -> None:
        number = 0
        while not stop.is_set():
            worker = await cluster.start_worker(f"w{number}", "--parallel", "64", addresses=addresses)
            number += 1
            while worker.poll() is None and not stop.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    keeping = asyncio.create_task(keep_one_worker())
    sent = [*items("fine", 4), b"poison 4", b"poison 5", *items("fine again", 4)]
    name = await other.create(sent)
    results = await cluster.client.results(name)
    stop.set()
    await keeping
    failed = {key for key, result in results.items() if result.HasField("error")}
    assert failed == {"item-4", "item-5"}
    assert all(cluster.executions().count(poison) <= 4 for poison in ("poison 4", "poison 5"))


@pytest.mark.parametrize("how", ["cancelled", "closed", "cut"])
async def test_an_upload_that_breaks_off_makes_no_job(cluster: Cluster, how: str) -> None:
    await cluster.start()
    sent = list(messages(job_of(), items("x", 20)))
    for turn in range(10):
        proxy = FaultProxy(lambda: asyncio.open_connection(*cluster.address.split(":")))
        await proxy.start()
        client = Client(proxy.address)
        call = client.jobs.CreateJob()
        for message in sent[:13]:
            await call.write(message)
        await asyncio.sleep(0.01 * turn)
        if how == "cancelled":
            call.cancel()
        elif how == "closed":
            await client.close()
        else:
            proxy.cut()
        await asyncio.sleep(0.02)
        await client.close()
        await proxy.close()

    async def cleared_away() -> bool:
        return not await cluster.store.call("EXISTS", f"{keys.ROOT}:uploads")

    await until(cleared_away)
    assert await cluster.queue.list_jobs("", None, 100) == ([], None)


async def test_schedulers_that_pause_or_die_count_against_no_item(cluster: Cluster) -> None:
    process, client = await second_scheduler(cluster)
    cluster.address, cluster.client = client.address, client
    await cluster.start_worker("a", "--parallel", "4")
    sent = [b"sleep 9 0", b"sleep 9 1"]
    name = await client.create(sent)

    async def begun() -> bool:
        return len(cluster.executions()) >= 2

    await until(begun)
    for _ in range(5):
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.0)  # longer than leases and heartbeats last
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)
    for _ in range(5):
        process.kill()
        process.wait()
        process, _ = await cluster.start_process(address=client.address)
        await until(lambda: ready(client))
        await asyncio.sleep(2.0)
    assert_right(sent, await client.results(name))


async def test_a_pause_of_the_scheduler_ends_no_work(cluster: Cluster) -> None:
    process, client = await second_scheduler(cluster)
    cluster.address, cluster.client = client.address, client
    await cluster.start_worker("a")
    name = await client.create([b"sleep 4"])

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    assert_right([b"sleep 4"], await client.results(name))
    assert cluster.executions() == ["sleep 4"]


async def test_a_fault_in_sending_is_not_for_ever(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    faults = iter([KeyError("x"), KeyError("y")])
    send = task_stream.TaskStream.send

    def faulty(stream: task_stream.TaskStream, chunk: task_stream.Chunk) -> None:
        for fault in faults:
            raise fault
        send(stream, chunk)

    monkeypatch.setattr(task_stream.TaskStream, "send", faulty)
    sent = items("fine", 6)
    assert_right(sent, await cluster.client.results(await cluster.client.create(sent)))


@pytest.mark.parametrize("method", ["_requests", "_settle"])
async def test_a_fault_in_a_stream_is_not_for_ever(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    faults = iter([KeyError("x"), KeyError("y")])
    original = getattr(task_stream.TaskStream, method)

    def faulty(*arguments: Any) -> Any:
        for fault in faults:
            raise fault
        return original(*arguments)

    monkeypatch.setattr(task_stream.TaskStream, method, faulty)
    sent = items("fine", 6)
    assert_right(sent, await cluster.client.results(await cluster.client.create(sent)))


async def test_a_failing_command_now_and_then_switches_nothing_off(cluster: Cluster) -> None:
    scheduler = await cluster.start()
    process, other = await second_scheduler(cluster)
    worker = await cluster.start_worker("a", addresses=[other.address])
    sent = items("sleep 0.05", 40)
    name = await other.create(sent)

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)

    async def fail() -> None:
        while True:
            with pytest.raises(errors.InternalError):
                await scheduler._store.call("NO-SUCH-COMMAND")
            await asyncio.sleep(0.05)

    failing = asyncio.create_task(fail())
    process.kill()
    worker.kill()
    await cluster.start_worker("b")

    async def a_is_gone() -> bool:
        return "a" not in scheduler._fleet.view

    await until(a_is_gone)
    assert_right(sent, await cluster.client.results(name))
    failing.cancel()


async def test_a_redis_that_is_full_says_so_and_nothing_is_lost(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    sent = items("sleep 0.1", 60)
    name = await cluster.client.create(sent)
    await cluster.store.call("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.client.create(items("more", 1000))
    error = from_rpc_error(caught.value)
    assert isinstance(error, errors.ResourceExhaustedError) and error.retry_after
    await asyncio.sleep(2.0)
    await cluster.store.call("CONFIG", "SET", "maxmemory", "0")
    assert_right(sent, await cluster.client.results(name))


async def test_a_script_that_fails_is_not_tried_for_ever(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    name = await cluster.client.create([b"sleep 0.5"])

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)
    stream = f"{keys.job(name.removeprefix('jobs/'))}:results"
    await cluster.store.call("SET", stream, "not a stream")  # WRONGTYPE for whoever commits

    async def tried() -> bool:
        return len(cluster.executions()) >= 3

    await until(tried)
    await cluster.store.call("DEL", stream)
    await cluster.client.read(name)
    job = await cluster.client.get(name)
    assert job.state == jobs_pb2.Job.STATE_SUCCEEDED


async def test_weights_that_cannot_be_fetched_are_waited_for(cluster: Cluster) -> None:
    await cluster.start(load_timeout=4.0)
    refusing = await cluster.start_worker("b", "--refuse", "WeightsUnavailableError")
    sent = items("x", 300)
    name = await cluster.client.create(sent)

    async def waits() -> jobs_pb2.Job | None:
        job = await cluster.client.get(name)
        return job if job.HasField("wait_reason") else None

    job = await until(waits)
    assert isinstance(from_status(job.wait_reason), errors.WeightsUnavailableError)
    await asyncio.sleep(2.0)
    assert (await cluster.client.get(name)).error_count == 0
    refusing.kill()
    await cluster.start_worker("c")
    assert_right(sent, await cluster.client.results(name))
    assert not (await cluster.client.get(name)).HasField("wait_reason")


async def test_a_job_whose_weights_never_come_fails_with_their_error(cluster: Cluster) -> None:
    await cluster.start(load_timeout=1.5)
    _, other = await second_scheduler(cluster, load_timeout=1.5)
    addresses = [cluster.address, other.address]
    await cluster.start_worker("a", "--refuse", "WeightsUnavailableError", addresses=addresses)
    await cluster.start_worker("b", "--refuse", "InvalidWeightsError", addresses=addresses[::-1])
    first, second = [await client.create(items("x", 50)) for client in (cluster.client, other)]
    for name in (first, second):
        results = await cluster.client.results(name)
        job = await cluster.client.get(name)
        assert job.state == jobs_pb2.Job.STATE_FAILED
        error = from_status(job.error)
        assert isinstance(error, errors.WeightsUnavailableError | errors.InvalidWeightsError)
        assert len(results) == 50
        assert {(type(from_status(result.error)), result.error.message) for result in results.values()} == {
            (type(error), str(error))
        }
        assert (job.committed_count, job.error_count) == (50, 50)
        rows = await cluster.client.read(name)
        assert [result.item_id for result, _ in await cluster.client.read(name, rows[20][1])] == [
            result.item_id for result, _ in rows[21:]
        ]


async def test_a_fleet_that_drains_or_is_gone_fails_no_job(cluster: Cluster) -> None:
    await cluster.start(load_timeout=0.5)
    refusing = await cluster.start_worker("a", "--refuse", "WeightsUnavailableError")
    name = await cluster.client.create(items("x", 20))
    await asyncio.sleep(0.2)
    refusing.terminate()
    await asyncio.to_thread(refusing.wait)
    await asyncio.sleep(1.5)
    job = await cluster.client.get(name)
    assert not job.error_count and job.state in (jobs_pb2.Job.STATE_QUEUED, jobs_pb2.Job.STATE_RUNNING)
    assert "no worker" in job.wait_reason.message
    await cluster.start_worker("b")
    assert_right(items("x", 20), await cluster.client.results(name))


async def test_a_job_that_no_worker_can_run_says_so(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--builders", "resnet50")
    name = await cluster.client.create([b"x"], MODEL, OTHER_MODEL)

    async def one_done() -> jobs_pb2.Job | None:
        job = await cluster.client.get(name)
        return job if job.committed_count == 1 else None

    job = await until(one_done)
    assert OTHER_MODEL in job.wait_reason.message
    runnable = await cluster.client.create([b"y"])
    assert_right([b"y"], await cluster.client.results(runnable))
    assert not (await cluster.client.get(runnable)).HasField("wait_reason")


async def test_a_dead_worker_leaves_the_view_while_others_beat(cluster: Cluster) -> None:
    scheduler = await cluster.start()
    await cluster.start_worker("a")
    dead = await cluster.start_worker("b")

    async def beat_like_a_large_fleet() -> None:
        while True:
            await cluster.store.call("PUBLISH", keys.EVENTS, "worker a")
            await asyncio.sleep(0.01)

    beating = asyncio.create_task(beat_like_a_large_fleet())
    dead.send_signal(signal.SIGSTOP)

    async def gone() -> bool:
        return "b" not in scheduler._fleet.view

    await until(gone)
    beating.cancel()


async def test_jobs_that_have_expired_are_forgotten_in_one_sweep(cluster: Cluster) -> None:
    for number in range(450):
        await cluster.store.call("ZADD", f"{keys.ROOT}:endings", 1, f"{number:032x}:default:0:")
        await cluster.store.call("ZADD", keys.JOBS, number, f"{number:032x}")
    await cluster.start(sweep_interval=60.0)

    async def forgotten() -> bool:
        return not await cluster.store.call("EXISTS", keys.JOBS)

    await until(forgotten)


async def test_a_redis_that_may_lose_jobs_is_warned_of(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    await cluster.store.call("CONFIG", "SET", "appendonly", "no")
    await cluster.store.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    await cluster.start()

    async def warned() -> bool:
        return "append-only" in caplog.text and "volatile-lru" in caplog.text

    await until(warned)
