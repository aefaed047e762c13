"""`Vision` through the scheduler: routed, unchanged, and ended on either side when the other one ends."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.scheduler.conftest import MODEL, OTHER_MODEL, Client, Cluster, until
from tests.scheduler.fake_worker import label

from zoofleet import errors
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.limits import PART_BYTES
from zoofleet._wire.parts import Joiner, cut
from zoofleet._wire.status import from_rpc_error
from zoofleet.errors import ZoofleetError
from zoofleet.scheduler import spread, vision_proxy
from zoofleet.scheduler.fleet import Fleet
from zoofleet.scheduler.routing import Router
from zoofleet.v1 import fleet_pb2, vision_pb2, vision_pb2_grpc


def task(model: str = MODEL) -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(task=vision_pb2.Task(model=model))


def item(data: bytes, item_id: str = "0") -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(item=vision_pb2.Item(item_id=item_id, media=[vision_pb2.Media(data=data)]))


def stub(cluster: Cluster) -> Any:
    return vision_pb2_grpc.VisionStub(cluster.client.channel)


async def ask(cluster: Cluster, *requests: vision_pb2.ClassifyRequest) -> list[vision_pb2.Result]:
    return [response.result async for response in stub(cluster).Classify(iter(requests))]


async def failure(cluster: Cluster, *requests: Any, method: str = "Classify") -> ZoofleetError:
    call = getattr(stub(cluster), method)(iter(requests))
    with pytest.raises(ZoofleetError) as caught, typed_errors(Ending(call)):
        async for _ in call:
            pass
    return caught.value


async def see(cluster: Cluster, model: str = MODEL) -> None:
    """Wait until the scheduler's own view has a worker for the model."""

    async def answered() -> bool:
        try:
            return bool(await ask(cluster, task(model), item(b"x")))
        except grpc.aio.AioRpcError:
            return False

    await until(answered)


async def test_a_task_that_asks_for_no_precision_gets_the_operators(cluster: Cluster) -> None:
    """Whatever the default of the worker that it comes to."""
    await cluster.start(default_precision="fast")
    await cluster.start_worker("a")
    await see(cluster)
    (result,) = await ask(cluster, task(), item(b"x"))
    assert result.precision == vision_pb2.PRECISION_FAST
    exact = vision_pb2.ClassifyRequest(task=vision_pb2.Task(model=MODEL, precision=vision_pb2.PRECISION_EXACT))
    (result,) = await ask(cluster, exact, item(b"x"))
    assert result.precision == vision_pb2.PRECISION_EXACT


async def test_a_stream_goes_to_a_worker_and_back(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await see(cluster)
    results = await ask(cluster, task(), *(item(f"{i}".encode(), f"id {i}") for i in range(100)))
    assert {result.item_id: result.classification.labels[0] for result in results} == {
        f"id {i}": label(f"{i}".encode()) for i in range(100)
    }
    assert await ask(cluster, task()) == []


async def test_a_worker_that_has_the_model_is_preferred(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", OTHER_MODEL)
    await cluster.start_worker("b", "--loaded", MODEL)
    await cluster.start_worker("c", "--builders", "resnet50")
    await see(cluster)
    for model, name in ((MODEL, "workers/b"), (OTHER_MODEL, "workers/a")):
        for _ in range(5):
            [result] = await ask(cluster, task(model), item(b"x"))
            assert result.classification.categories[0] == name


async def test_load_is_spread(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await cluster.start_worker("b")
    await see(cluster)

    async def is_spread() -> bool:
        results = await asyncio.gather(*(ask(cluster, task(), item(b"sleep 0.1")) for _ in range(8)))
        return {result[0].classification.categories[0] for result in results} == {"workers/a", "workers/b"}

    await until(is_spread)  # once both are reached


async def test_errors_are_typed_before_any_worker_is_asked(cluster: Cluster) -> None:
    await cluster.start()
    for requests, expected in (
        ((), errors.InvalidArgumentError),
        ((item(b"x"),), errors.InvalidArgumentError),
        ((task("resnet_50"),), errors.UnknownModelError),
        ((task("resnet50@V9"),), errors.UnknownWeightsError),
        ((task("raft_small@random"),), errors.InvalidArgumentError),
        ((task(),), errors.UnavailableError),  # there is no worker
    ):
        assert type(await failure(cluster, *requests)) is expected
    header = vision_pb2.VideoHeader(tasks=[vision_pb2.Task(model=MODEL), vision_pb2.Task(model="no_such")])
    request = vision_pb2.AnalyzeVideoRequest(header=header)
    assert type(await failure(cluster, request, method="AnalyzeVideo")) is errors.UnknownModelError
    empty = vision_pb2.AnalyzeVideoRequest(header=vision_pb2.VideoHeader())
    assert type(await failure(cluster, empty, method="AnalyzeVideo")) is errors.InvalidArgumentError
    raw: Any = cluster.client.channel.stream_stream("/zoofleet.v1.Vision/Classify")
    call = raw(iter([b"\xff\xff"]))
    with pytest.raises(errors.InvalidArgumentError), typed_errors(Ending(call)):
        await call.read()


async def test_what_a_worker_says_arrives_unchanged(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--refuse", "ResourceExhaustedError")
    for _ in range(20):
        error = await failure_from_worker(cluster)
        assert type(error) is errors.ResourceExhaustedError
        assert str(error) == f"workers/a refuses {MODEL}"


async def failure_from_worker(cluster: Cluster) -> ZoofleetError:
    async def typed() -> ZoofleetError | None:
        error = await failure(cluster, task(), *(item(bytes(1000), str(i)) for i in range(50)))
        return None if isinstance(error, errors.UnavailableError) else error

    error = await until(typed)
    assert isinstance(error, ZoofleetError)
    return error


async def test_a_client_that_leaves_frees_the_worker(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--parallel", "1")
    await see(cluster)
    ended = cluster.log.read_text().count("stream ended")
    call = stub(cluster).Classify(iter([task(), *(item(b"sleep 30", str(i)) for i in range(5))]))

    async def begun() -> bool:
        return "sleep 30" in cluster.executions()

    await until(begun)
    call.cancel()

    async def freed() -> bool:
        return cluster.log.read_text().count("stream ended") == ended + 1

    await until(freed)
    assert len(await ask(cluster, task(), item(b"next"))) == 1


async def test_a_worker_that_dies_ends_the_clients_stream(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a")
    await see(cluster)
    call = stub(cluster).Classify(iter([task(), item(b"sleep 30")]))

    async def begun() -> bool:
        return "sleep 30" in cluster.executions()

    await until(begun)
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    error = from_rpc_error(caught.value)
    assert type(error) is errors.UnavailableError and "workers/a" in str(error)


async def test_draining_workers_get_no_streams(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await see(cluster)
    await cluster.client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(name="workers/a"))

    async def refused() -> bool:
        try:
            await ask(cluster, task(), item(b"x"))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    await until(refused)


async def test_streams_outlive_an_outage_in_which_registrations_expire(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a")
    await see(cluster)
    call = stub(cluster).Classify(iter([task(), item(b"sleep 0.5")]))

    async def begun() -> bool:
        return "sleep 0.5" in cluster.executions()

    await until(begun)
    worker.send_signal(signal.SIGSTOP)  # so that no heartbeat comes before the fleet is read again
    cluster.redis.stop()
    await asyncio.sleep(cluster.config.heartbeat_timeout)
    cluster.redis.start()

    async def read_again() -> bool:
        try:
            return not await cluster.client.workers()
        except grpc.aio.AioRpcError:
            return False

    await until(read_again)
    await asyncio.sleep(2 * cluster.config.sweep_interval)
    worker.send_signal(signal.SIGCONT)
    assert len([response async for response in call]) == 1


async def test_streams_go_on_without_redis(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await see(cluster)
    cluster.redis.stop()
    assert len(await ask(cluster, task(), item(b"x"))) == 1
    cluster.redis.start()


def names(results: Iterable[vision_pb2.Result]) -> Counter[str]:
    """How many results each worker gave."""
    return Counter(result.classification.categories[0] for result in results)


async def at_once(cluster: Cluster, clients: Sequence[Client], count: int) -> Counter[str]:
    """How many of so many calls at once each worker answered; the clients take turns."""

    async def call(client: Client) -> vision_pb2.Result:
        classify = vision_pb2_grpc.VisionStub(client.channel).Classify
        [response] = [response async for response in classify(iter([task(), item(b"sleep 0.05")]))]
        result: vision_pb2.Result = response.result
        return result

    return names(await asyncio.gather(*(call(clients[i % len(clients)]) for i in range(count))))


async def see_both(cluster: Cluster, *names: str) -> None:
    """Wait until the scheduler gives calls to both workers."""

    async def answered() -> bool:
        return (await at_once(cluster, [cluster.client], 32)).keys() == {f"workers/{name}" for name in names}

    await until(answered)


async def test_calls_at_once_use_workers_that_lack_the_model(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await cluster.start_worker("b", "--loaded", MODEL)
    await see(cluster)

    async def is_spread() -> bool:
        answered = await at_once(cluster, [cluster.client], 32)
        return min(answered["workers/a"], answered["workers/b"]) >= 12

    await until(is_spread)
    [loaded] = [worker.status.loaded_models for name, worker in (await cluster.client.workers()).items() if "a" in name]
    assert [model.model for model in loaded] == [MODEL]


async def test_a_model_that_has_no_room_beside_others_is_not_loaded_for_load(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", OTHER_MODEL, "--memory", "1")
    await cluster.start_worker("b", "--loaded", MODEL)

    async def b_is_reached() -> bool:
        return (await at_once(cluster, [cluster.client], 1)).keys() == {"workers/b"}

    await until(b_is_reached)
    for _ in range(5):
        assert await at_once(cluster, [cluster.client], 16) == {"workers/b": 16}


async def test_calls_through_two_schedulers_use_both_workers(cluster: Cluster) -> None:
    await cluster.start()
    _, address = await cluster.start_process()
    await cluster.start_worker("a", "--loaded", MODEL)
    await cluster.start_worker("b", addresses=[cluster.address, address])
    clients = [cluster.client, cluster.connect(address)]
    await clients[1].channel.channel_ready()
    await see(cluster)

    async def is_spread() -> bool:
        answered = await at_once(cluster, clients, 32)
        return min(answered["workers/a"], answered["workers/b"]) >= 10

    await until(is_spread)


async def test_one_stream_is_spread_over_workers_under_its_own_ids(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await cluster.start_worker("b")
    await see_both(cluster, "a", "b")
    sent = [f"sleep 0.02 {i}".encode() for i in range(200)]
    results = await ask(cluster, task(), *(item(data, "" if i % 2 else f"id {i}") for i, data in enumerate(sent)))
    assert {result.item_id: result.classification.labels[0] for result in results} == {
        str(i) if i % 2 else f"id {i}": label(data) for i, data in enumerate(sent)
    }
    assert len(results) == len(sent)
    assert min(names(results)[f"workers/{name}"] for name in "ab") >= 20


async def test_a_stream_with_little_to_do_stays_on_one_worker(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await cluster.start_worker("b", "--loaded", MODEL)
    await see(cluster)
    call = stub(cluster).Classify()
    await call.write(task())
    results = []
    for i in range(50):
        await call.write(item(b"x", str(i)))
        results.append((await call.read()).result)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert len(names(results)) == 1


class MeteredRouter(Router):
    """Knows the most bytes that streams ever kept."""

    peak = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "kept_bytes":
            super().__setattr__("peak", max(self.peak, value))


@pytest.mark.parametrize("most", [64 * 1024 * 1024, 1024 * 1024])
async def test_parts_of_items_and_results_stay_together(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    routers: list[MeteredRouter] = []

    def metered(fleet: Fleet) -> Router:
        routers.append(MeteredRouter(fleet))
        return routers[-1]

    monkeypatch.setattr(vision_proxy, "Router", metered)
    monkeypatch.setattr(spread, "_MAX_KEPT_BYTES", most)
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await cluster.start_worker("b", "--loaded", MODEL)
    await see(cluster)
    sent = [f"large {i}".encode().ljust(5 * 1024 * 1024) for i in range(24)]

    def requests() -> Iterator[vision_pb2.ClassifyRequest]:
        yield task()
        for data in sent:
            yield from cut(vision_pb2.ClassifyRequest, vision_pb2.Item(media=[vision_pb2.Media(data=data)]))

    joiner = Joiner(vision_pb2.Result, 2**30)
    results = {}
    async for response in stub(cluster).Classify(requests()):
        joined = joiner.add(response)
        if joined is not None:
            item_id, result = joined
            assert isinstance(result, vision_pb2.Result)
            results[item_id] = result.classification.labels[0]
    assert results == {str(i): label(data) for i, data in enumerate(sent)}
    workers = Counter(line.split()[0] for line in cluster.log.read_text().splitlines() if " item large " in line)
    assert workers.keys() == {"a", "b"} and workers.total() == len(sent)
    assert 0 < routers[0].peak <= 2 * most + PART_BYTES + 100 and routers[0].kept_bytes == 0


async def test_a_stream_goes_on_where_a_further_worker_cannot_load_the_model(cluster: Cluster) -> None:
    model = "vgg11@random"  # which fake workers refuse to load
    await cluster.start()
    await cluster.start_worker("a", "--builders", "vgg11", "--loaded", model)
    await cluster.start_worker("b", "--builders", "vgg11")
    await see(cluster, model)
    results = await ask(cluster, task(model), *(item(b"sleep 0.01", str(i)) for i in range(200)))
    assert names(results) == {"workers/a": 200}


async def test_a_stream_goes_on_where_a_further_worker_refuses_it(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await see(cluster)
    await cluster.start_worker("b", "--refuse", "ResourceExhaustedError")

    async def refused() -> bool:
        results = await ask(cluster, task(), *(item(b"sleep 0.02", str(i)) for i in range(200)))
        assert names(results) == {"workers/a": 200}
        return f"b stream {MODEL}\n" in cluster.log.read_text()

    await until(refused)


async def read_to_end(call: Any) -> list[vision_pb2.Result]:
    """The results of a call that has been read from already, which its iterator does not allow."""
    results = []
    while (response := await call.read()) is not grpc.aio.EOF:
        results.append(response.result)
    return results


async def shared_stream(cluster: Cluster, first: str, further: str, sleep: str) -> tuple[Any, list[vision_pb2.Result]]:
    """A stream of 300 items that has begun on the first worker and reached the further one, and its results so far."""

    async def opened() -> tuple[Any, list[vision_pb2.Result], str] | None:
        before = cluster.log.read_text()
        call = stub(cluster).Classify(iter([task(), *(item(f"{sleep} {i}".encode(), str(i)) for i in range(300))]))
        results = [(await call.read()).result]
        while results[-1].item_id != "0":  # which the first worker answers
            results.append((await call.read()).result)
        if results[-1].classification.categories[0] == f"workers/{first}":
            return call, results, before
        call.cancel()  # the load of earlier calls had the scheduler begin with the other one
        return None

    call, results, before = await until(opened)

    async def reached() -> bool:
        return f"{further} item {sleep}" in cluster.log.read_text().removeprefix(before)

    await until(reached)
    return call, results


async def test_a_further_worker_that_dies_or_drains_takes_nothing_along(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await see(cluster)
    for name, number in (("b", signal.SIGKILL), ("c", signal.SIGTERM)):
        worker = await cluster.start_worker(name)
        await see_both(cluster, "a", name)
        call, results = await shared_stream(cluster, "a", name, "sleep 0.03")
        worker.send_signal(number)
        results += await read_to_end(call)
        assert sorted(int(result.item_id) for result in results) == list(range(300))
        assert set(names(results)) <= {"workers/a", f"workers/{name}"}
        worker.wait()


async def test_the_first_worker_ends_a_stream_that_others_share(cluster: Cluster) -> None:
    await cluster.start()
    first = await cluster.start_worker("a", "--loaded", MODEL)
    await see(cluster)
    await cluster.start_worker("b")
    await see_both(cluster, "a", "b")
    call, _ = await shared_stream(cluster, "a", "b", "sleep 0.04")
    first.send_signal(signal.SIGKILL)
    with pytest.raises(errors.UnavailableError, match="workers/a"), typed_errors(Ending(call)):
        await read_to_end(call)


async def test_broken_parts_end_a_shared_stream_as_the_worker_says(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await cluster.start_worker("b", "--loaded", MODEL)
    await see(cluster)
    parts = [vision_pb2.ClassifyRequest(part=vision_pb2.Part(item_id=item_id, data=b"x")) for item_id in ("p", "q")]
    error = await failure(cluster, task(), *(item(b"sleep 0.1", str(i)) for i in range(20)), *parts)
    assert type(error) is errors.InvalidArgumentError
    assert str(error) == "a part of item 'q' came before the last part of item 'p'"


class Caller:
    """A client's call, without a network that would hide when it ends."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def time_remaining(self) -> None:
        return None

    async def write(self, message: bytes) -> None:
        await asyncio.sleep(0)
        self.answers.append(message)

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        raise grpc.aio.AbortError(details)


async def test_a_client_that_vanishes_at_any_moment_leaves_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    routers: list[Router] = []

    def recorded(fleet: Fleet) -> Router:
        routers.append(Router(fleet))
        return routers[-1]

    monkeypatch.setattr(vision_proxy, "Router", recorded)
    scheduler = await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    await cluster.start_worker("b", "--loaded", MODEL)
    await see(cluster)
    handler: Any = vision_proxy.handler(scheduler._fleet, scheduler._config)
    serve = handler.service(SimpleNamespace(method="/zoofleet.v1.Vision/Classify")).stream_stream

    async def requests() -> AsyncIterator[bytes]:
        yield task().SerializeToString()
        for i in range(100):
            yield item(b"sleep 0.002", str(i)).SerializeToString()
            await asyncio.sleep(0)
        await asyncio.sleep(3600)

    async def quiet() -> bool:
        log = cluster.log.read_text()
        return log.count(" stream resnet50") == log.count(" stream ended")

    tasks = len(asyncio.all_tasks())
    answered = set()
    for turn in range(120):
        caller = Caller()
        call = asyncio.create_task(serve(requests(), caller))
        for _ in range(turn * 2):
            await asyncio.sleep(0)
        await asyncio.sleep(max(turn - 60, 0) / 1000)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert not any(load.items for load in routers[-1]._loads.values()) and routers[-1].kept_bytes == 0
        answered.add(len(caller.answers))
    assert 0 in answered and len(answered) > 10  # they vanished before, amid and after
    await until(quiet)
    assert {line.split()[0] for line in cluster.log.read_text().splitlines() if " stream " in line} == {"a", "b"}

    async def settled() -> bool:
        return len(asyncio.all_tasks()) <= tasks

    await until(settled)
