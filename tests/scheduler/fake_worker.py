"""A worker without models: a real process that serves `Vision.Classify` and answers what the item's bytes say.

An item's data is a word and arguments: `poison` kills the process, `freeze` stops it, `sleep 0.2` takes so long, `bad`
is an error result, `large` a result of 3 MiB, anything else a label made of its checksum. Each item that begins is
noted in the log, a line each: worker, the data. It knows batches with `--batches` only, and notes their sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from zoofleet import errors
from zoofleet._catalog import ModelName
from zoofleet._serving.handlers import SERVER_OPTIONS, aborting
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.kinds import resolve
from zoofleet._wire.parts import Joiner, cut, pack
from zoofleet._wire.status import error_result
from zoofleet.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    vision_pb2,
    vision_pb2_grpc,
)


def label(data: bytes) -> int:
    return zlib.crc32(data) % 1000


def _cut_all(
    envelope: type[vision_pb2.ClassifyResponse], results: Sequence[vision_pb2.Result]
) -> Iterator[vision_pb2.ClassifyResponse]:
    return (response for result in results for response in cut(envelope, result))


class FakeWorker(vision_pb2_grpc.VisionServicer, models_pb2_grpc.ModelsServicer):
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.name = f"workers/{arguments.name}"
        self.instance_id = secrets.token_hex(8)
        self.status = fleet_pb2.WorkerStatus()
        self.running = asyncio.Semaphore(arguments.parallel)
        self.streams = 0
        for model in arguments.loaded:
            self.status.loaded_models.add(model=model, worker=self.name, memory_bytes=1)

    def note(self, text: str) -> None:
        with self.arguments.log.open("a") as log:
            log.write(f"{self.arguments.name} {text}\n")

    async def Classify(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[vision_pb2.ClassifyResponse]:
        async with aborting(context):
            first = await anext(requests)
            task, _, _ = resolve(first.task)
            self.note(f"stream {task.model}")
            if self.status.draining:
                raise errors.UnavailableError("draining")
            if self.arguments.refuse:
                raise getattr(errors, self.arguments.refuse)(f"{self.name} refuses {task.model}")
            answers: asyncio.Queue[vision_pb2.Result | None] = asyncio.Queue()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.read(requests, task, answers, group))
                    while (result := await answers.get()) is not None:
                        for response in self.responses(result, first.accepts_batches):
                            yield response
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            finally:
                self.note("stream ended")

    async def read(self, requests: Any, task: vision_pb2.Task, answers: Any, group: asyncio.TaskGroup) -> None:
        joiner = Joiner(vision_pb2.Item, 64 * 1024 * 1024)
        pending: list[asyncio.Task[None]] = []
        async for request in requests:
            if request.batch.items:
                self.note(f"batch {len(request.batch.items)}")
            joined = joiner.take(request) if self.arguments.batches else [joiner.add(request)]
            for item_id, item in filter(None, joined):
                assert isinstance(item, vision_pb2.Item)
                item.item_id = item_id or str(len(pending))
                self.status.inflight_items += 1
                pending.append(group.create_task(self.answer(item, task, answers)))
        for running in pending:
            await running
        answers.put_nowait(None)

    async def answer(self, item: vision_pb2.Item, task: vision_pb2.Task, answers: Any) -> None:
        try:
            async with self.running:
                data = item.media[0].data
                word, *arguments = data[:40].decode("latin-1").split() or [""]
                self.note(f"item {data[:40].decode('latin-1')}")
                if word == "poison":
                    os.kill(os.getpid(), signal.SIGKILL)
                if word == "freeze":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if word == "sleep":
                    await asyncio.sleep(float(arguments[0]))
                result = vision_pb2.Result(item_id=item.item_id, model=task.model, precision=task.precision)
                result.classification.labels.append(label(data))
                result.classification.scores.append(1.0)
                result.classification.categories.append(self.name if word != "large" else "x" * (3 * 1024 * 1024))
                if word == "bad":
                    result = error_result(item.item_id, task.model, errors.InvalidMediaError("bad"))
        finally:
            self.status.inflight_items -= 1
        answers.put_nowait(result)

    def responses(self, result: vision_pb2.Result, accepts_batches: bool) -> Sequence[vision_pb2.ClassifyResponse]:
        make = pack if self.arguments.batches and accepts_batches else _cut_all
        return list(make(vision_pb2.ClassifyResponse, [result]))

    async def LoadModel(  # noqa: N802
        self, request: models_pb2.LoadModelRequest, context: Any
    ) -> models_pb2.LoadModelResponse:
        async with aborting(context):
            if ModelName.parse(request.model).builder == "vgg11":
                raise errors.ResourceExhaustedError("too large")
            loaded = self.status.loaded_models.add(model=request.model, worker=self.name, pinned=request.pin)
            return models_pb2.LoadModelResponse(loaded_model=loaded)

    async def UnloadModel(  # noqa: N802
        self, request: models_pb2.UnloadModelRequest, context: Any
    ) -> models_pb2.UnloadModelResponse:
        async with aborting(context):
            kept = [model for model in self.status.loaded_models if model.model != request.model]
            del self.status.loaded_models[:]
            self.status.loaded_models.extend(kept)
            return models_pb2.UnloadModelResponse(workers=[self.name], freed_bytes=7)

    async def PinModel(  # noqa: N802
        self, request: models_pb2.PinModelRequest, context: Any
    ) -> models_pb2.PinModelResponse:
        async with aborting(context):
            return models_pb2.PinModelResponse(
                loaded_model=models_pb2.LoadedModel(model=request.model, worker=self.name, pinned=request.pinned)
            )

    async def beat(self, address: str) -> None:
        worker = fleet_pb2.Worker(
            name=self.name,
            instance_id=self.instance_id,
            address=address,
            builders=self.arguments.builders,
            max_inflight_items=self.arguments.max_inflight,
            memory_budget_bytes=self.arguments.memory,
            status=self.status,
        )
        targets = self.arguments.schedulers
        interval = 0.1
        turn = 0
        while True:
            async with grpc.aio.insecure_channel(targets[turn % len(targets)], CHANNEL_OPTIONS) as channel:
                fleet = fleet_pb2_grpc.FleetStub(channel)
                try:
                    worker.status.CopyFrom(self.status)
                    answer = await fleet.RegisterWorker(fleet_pb2.RegisterWorkerRequest(worker=worker), timeout=3)
                    interval = answer.heartbeat_interval.ToMilliseconds() / 1000
                    while True:
                        request = fleet_pb2.HeartbeatWorkerRequest(
                            name=self.name, status=self.status, instance_id=self.instance_id
                        )
                        if (await fleet.HeartbeatWorker(request, timeout=3)).drain:
                            self.status.draining = True
                        await asyncio.sleep(interval)
                except grpc.aio.AioRpcError:
                    turn += 1
                    await asyncio.sleep(interval)

    async def leave(self) -> None:
        for target in self.arguments.schedulers:
            async with grpc.aio.insecure_channel(target, CHANNEL_OPTIONS) as channel:
                fleet = fleet_pb2_grpc.FleetStub(channel)
                try:
                    await fleet.HeartbeatWorker(
                        fleet_pb2.HeartbeatWorkerRequest(
                            name=self.name, status=self.status, instance_id=self.instance_id
                        ),
                        timeout=3,
                    )
                    while self.status.inflight_items:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    request = fleet_pb2.UnregisterWorkerRequest(name=self.name, instance_id=self.instance_id)
                    await fleet.UnregisterWorker(request, timeout=3)
                except grpc.aio.AioRpcError:
                    continue
                return


async def main(arguments: argparse.Namespace) -> None:
    worker = FakeWorker(arguments)  # type: ignore[abstract]  # it serves no more than tests use
    server = grpc.aio.server(options=SERVER_OPTIONS)
    vision_pb2_grpc.add_VisionServicer_to_server(worker, server)
    models_pb2_grpc.add_ModelsServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    beating = asyncio.create_task(worker.beat(f"127.0.0.1:{port}"))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    worker.status.draining = True
    await worker.leave()
    beating.cancel()
    await server.stop(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--schedulers", required=True, nargs="+")
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--builders", nargs="*", default=["resnet50", "mobilenet_v3_large"])
    parser.add_argument("--loaded", nargs="*", default=[])
    parser.add_argument("--refuse", default="")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--max-inflight", type=int, default=64)
    parser.add_argument("--memory", type=int, default=1000)
    asyncio.run(main(parser.parse_args()))
