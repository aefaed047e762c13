"""Streams that are cancelled at any moment give back all that they held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import torch
from tests.worker import cancel_streams
from tests.worker.calls import item, png, run, until
from tests.worker.fake_runner import never

from zoofleet._catalog import ModelName
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.parts import split
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import vision_pb2
from zoofleet.worker import Worker, WorkerConfig
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.residency import Residency
from zoofleet.worker.vision_service import VisionService

TASK = vision_pb2.Task(model="shufflenet_v2_x0_5@random")
CLIP = vision_pb2.Task(model="r3d_18@random", classify_clip=vision_pb2.ClassifyClipOptions(num_frames=3))
IMAGE = png(32, 32, [bytes(32)] * 32)


class CountedLoop(asyncio.SelectorEventLoop):
    """An event loop that does something of the test's after a given number of its callbacks."""

    countdown = 0
    action: Callable[[], object] = staticmethod(lambda: None)

    def call_soon(  # type: ignore[override]  # the stub is generic in the arguments
        self, callback: Callable[..., object], *arguments: Any, context: Any = None
    ) -> asyncio.Handle:
        return super().call_soon(self._counted, callback, arguments, context=context)

    def _counted(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        callback(*arguments)
        self.countdown -= 1
        if self.countdown == 0:
            self.action()


class Context:
    """The side of a call that a handler sees."""

    def __init__(self) -> None:
        self.responses: list[Any] = []

    async def write(self, response: Any) -> None:
        await asyncio.sleep(0)
        self.responses.append(response)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: grpc.StatusCode, details: str, _: object) -> None:
        raise grpc.aio.AbortError(f"{code}: {details}")


class Service:
    """The worker's `Vision` with one slot for an item, one for a stream: losing a single one shows at once."""

    def __init__(self) -> None:
        config = WorkerConfig(schedulers=(), device="cpu", threads=1, max_inflight_items=1, max_streams=1)
        self.residency = Residency(torch.device("cpu"), 1 << 30, config)
        self.pipeline = Pipeline(config, self.residency, never)
        self._vision = VisionService(config, self.pipeline, self.residency, asyncio.Event())

    def call(self, method: str, requests: Iterable[Any], context: Context) -> Coroutine[Any, Any, None]:
        """What gRPC awaits for a call."""

        async def messages() -> AsyncIterator[Any]:
            for request in requests:
                await asyncio.sleep(0)
                yield request

        details: Any = SimpleNamespace(method=f"/zoofleet.v1.Vision/{method}")
        found: Any = self._vision.handler().service(details)
        handled: Coroutine[Any, Any, None] = found.stream_stream(messages(), context)
        return handled

    async def check(self) -> None:
        """All that a stream may hold is free, and the next stream is served."""
        async with asyncio.timeout(20):
            await self._vision.ended()
            await until(lambda: self.pipeline.inflight_count == 0)
            assert [resident.use_count for resident in self.residency.residents if resident.use_count] == []
            context = Context()
            requests = [vision_pb2.ClassifyRequest(task=TASK), vision_pb2.ClassifyRequest(item=item(b""))]
            await self.call("Classify", requests, context)
            assert [response.result.error.code for response in context.responses] == [3]


def cancel_after_each_step(
    method: str, requests: list[Any], responses: int, prepare: Callable[[Service], Coroutine[Any, Any, None]]
) -> int:
    """Cancel a call after 1, 2, 3 … steps of the event loop, until it comes to its end first; returns how many."""

    async def main() -> int:
        service = Service()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountedLoop)
        await service.check()
        for steps in range(1, 10_000):
            await prepare(service)
            context = Context()
            call = asyncio.create_task(service.call(method, requests, context))
            loop.action, loop.countdown = call.cancel, steps
            await asyncio.wait([call])
            loop.countdown = 0
            await service.check()
            if not call.cancelled():
                call.result()
                assert len(context.responses) == responses
                break
        service.pipeline.close()
        return steps

    with asyncio.Runner(loop_factory=CountedLoop) as runner:
        return runner.run(main())


async def nothing(_: Service) -> None:
    pass


async def unload(service: Service) -> None:
    with contextlib.suppress(ZoofleetError):  # not loaded: the call before was cancelled early
        await service.residency.unload(ModelName.parse(TASK.model))


ITEMS: list[Any] = [
    vision_pb2.ClassifyRequest(task=TASK),
    vision_pb2.ClassifyRequest(item=item(b"no image")),
    vision_pb2.ClassifyRequest(item=item(IMAGE)),
    *(vision_pb2.ClassifyRequest(part=part) for part in split("parts", item(IMAGE).SerializeToString())),
    vision_pb2.ClassifyRequest(item=item(b"")),
]


def test_a_stream_of_items_cancelled_at_any_step_loses_nothing() -> None:
    assert cancel_after_each_step("Classify", ITEMS, 4, nothing) > 20


def test_a_stream_cancelled_at_any_step_of_loading_loses_nothing() -> None:
    assert cancel_after_each_step("Classify", ITEMS[:2], 1, unload) > 20


def test_a_video_cancelled_at_any_step_loses_nothing(clip: bytes) -> None:
    header = vision_pb2.VideoHeader(tasks=[TASK, CLIP], max_frames=2)  # the clip has one frame too few to run
    requests: list[Any] = [vision_pb2.AnalyzeVideoRequest(header=header), vision_pb2.AnalyzeVideoRequest(data=clip)]
    assert cancel_after_each_step("AnalyzeVideo", requests, 4, nothing) > 20


async def test_an_unloading_that_nobody_waits_for_any_more_goes_on() -> None:
    models = Residency(torch.device("cpu"), 1 << 30, WorkerConfig(schedulers=(), device="cpu"))
    name = ModelName.parse(TASK.model)
    lease = await models.acquire(name)
    unloading = asyncio.create_task(models.unload(name))
    await until(lambda: models.residents[0].is_retiring)
    unloading.cancel()
    await asyncio.wait([unloading])
    lease.release()
    async with asyncio.timeout(20), models.use(name):
        pass


async def test_hundreds_of_streams_hung_up_at_random_moments_cost_no_slot() -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", threads=1, max_inflight_items=3))
    await worker.start()
    await cancel_streams.cancel(worker.address, 400, at_once=4)
    await until(lambda: worker.status().inflight_items == 0)
    assert all(resident.use_count == 0 for resident in worker._residency.residents)
    pictures = [item(IMAGE, item_id=str(i)) for i in range(6)]
    assert len(await asyncio.wait_for(run(worker.address, TaskKind.CLASSIFY, TASK, pictures), 20)) == 6
    await worker.stop()


async def test_all_slots_of_a_process_can_be_filled_after_cancelled_streams() -> None:
    filled, slots = await cancel_streams.check(300)
    assert filled == slots == WorkerConfig().resolved_inflight_items()
