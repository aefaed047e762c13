"""A plain gRPC server with a batcher written by hand: what one would write who needs one model and nothing else.

No validation, no limits, no queue on disk, no scheduler, one model. `Call` takes the encoded bytes of one item;
`Stream` many, each behind four bytes of a number that comes back before its answer. Threads decode and write answers,
one thread runs whatever is ready as soon as it is idle.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
from benchmarks.rivals.engine import Engine, add_arguments, media_of

from zoofleet._values.tasks import Precision
from zoofleet.worker.batcher import use_threads
from zoofleet.worker.plan import Plan
from zoofleet.worker.runner import Prepared, Raw

SERVICE = "zoofleet.bench.Plain"
NUMBER_BYTES = 4
STREAM_ITEMS = 64
"""Items of a stream that are worked on at once."""

Waiting = tuple[Prepared, "asyncio.Future[bytes]"]


class Batcher:
    """Decodes in threads, and runs batches in a thread of its own."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(threads, initializer=use_threads, initargs=(1,))
        self._ready: OrderedDict[tuple[Plan, tuple[int, ...]], deque[Waiting]] = OrderedDict()
        self._some = threading.Condition()
        threading.Thread(target=self._run, args=(threads,), daemon=True).start()

    async def answer(self, media: bytes) -> bytes:
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._pool.submit(self._prepare, media, future)
        return await future

    def _prepare(self, media: bytes, future: asyncio.Future[bytes]) -> None:
        try:
            prepared = self._engine.prepare(media)
            key = self._engine.plan(prepared), prepared.key
        except Exception as error:  # noqa: BLE001 - one item must not end the others
            self._loop.call_soon_threadsafe(self._set, future, error)
            return
        with self._some:
            self._ready.setdefault(key, deque()).append((prepared, future))
            self._some.notify()

    def _run(self, threads: int) -> None:
        use_threads(threads)
        while True:
            with self._some:
                while not self._ready:
                    self._some.wait()
                (plan, key), waiting = self._ready.popitem(last=False)
                batch = [waiting.popleft() for _ in range(min(len(waiting), waiting[0][0].max_batch))]
                if waiting:
                    self._ready[plan, key] = waiting  # behind the others
            try:
                raws = self._engine.forward([prepared for prepared, _ in batch], plan)
            except Exception as error:  # noqa: BLE001 - one batch must not end the others
                for _, future in batch:
                    self._loop.call_soon_threadsafe(self._set, future, error)
                continue
            for (prepared, future), raw in zip(batch, raws, strict=True):
                self._pool.submit(self._finish, prepared, raw, plan, future)

    def _finish(self, prepared: Prepared, raw: Raw, plan: Plan, future: asyncio.Future[bytes]) -> None:
        answer: bytes | Exception
        try:
            answer = self._engine.finish(prepared, raw, plan).SerializeToString()
        except Exception as error:  # noqa: BLE001 - one item must not end the others
            answer = error
        self._loop.call_soon_threadsafe(self._set, future, answer)

    @staticmethod
    def _set(future: asyncio.Future[bytes], answer: bytes | Exception) -> None:
        if future.done():
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Plain(grpc.GenericRpcHandler):
    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/Call"):
            return grpc.unary_unary_rpc_method_handler(self._call)
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _call(self, media: bytes, context: Any) -> bytes:
        return await self._batcher.answer(media)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        slots = asyncio.Semaphore(STREAM_ITEMS)
        answers: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def work(request: bytes) -> None:
            answer = await self._batcher.answer(request[NUMBER_BYTES:])
            answers.put_nowait(request[:NUMBER_BYTES] + answer)
            slots.release()

        async def read() -> None:
            async with asyncio.TaskGroup() as items:
                async for request in requests:
                    await slots.acquire()
                    items.create_task(work(request))
            answers.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader


async def serve(arguments: argparse.Namespace) -> None:
    engine = Engine(arguments.model, Precision[arguments.precision], arguments.threads)
    engine.wait(media_of(arguments)[0])
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Plain(Batcher(engine, arguments.threads)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready {port}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
