"""`Vision` for clients: reads a stream's first message, and passes the stream to workers as bytes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from zoofleet._serving.handlers import aborting, check_first
from zoofleet._wire import kinds
from zoofleet._wire.calls import Ending
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.status import DETAILS_KEY
from zoofleet._wire.traffic import traffic_metadata
from zoofleet.errors import InvalidArgumentError, UnavailableError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.fleet import Fleet
from zoofleet.scheduler.routing import Router, WorkerLostError, losing
from zoofleet.scheduler.spread import Context, SpreadStream
from zoofleet.v1 import vision_pb2

SERVICE: Final = "zoofleet.v1.Vision"

_VIDEO_ITEMS: Final = 8
"""Number of items that a video counts for in its worker's load. It keeps about so many frames in flight."""

_Serve: TypeAlias = Callable[[bytes, AsyncIterator[bytes], Context], Awaitable[None]]


def handler(fleet: Fleet, config: SchedulerConfig) -> grpc.GenericRpcHandler:
    """Return the service as a handler of bytes.

    Args:
        fleet: the live workers.
        config: the operator's choice of a precision.
    """
    precision = kinds.precision_of(config.default_precision)
    router = Router(fleet)

    def method(serve: _Serve) -> grpc.RpcMethodHandler[Any, Any]:
        async def behavior(requests: AsyncIterator[bytes], context: Context) -> None:
            async with aborting(context):
                first = await anext(requests, None)
                if first is None:
                    raise InvalidArgumentError("the stream has no message; accepted: a task or header first")
                try:
                    await serve(first, requests, context)
                except WorkerLostError as lost:
                    await _abort(context, lost)

        return grpc.stream_stream_rpc_method_handler(behavior)

    methods = {kind.method: method(functools.partial(_serve_items, router, precision, kind)) for kind in TaskKind}
    methods["AnalyzeVideo"] = method(functools.partial(_analyze_video, router, precision))
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _parse(message: Any, data: bytes, field: str) -> Any:
    try:
        request = message.FromString(data)
    except DecodeError:
        raise InvalidArgumentError(f"the stream's first message is no {message.DESCRIPTOR.name}") from None
    check_first(request, field)
    return request


def _with_precision(
    request: Any, tasks: Sequence[vision_pb2.Task], precision: vision_pb2.Precision.ValueType, data: bytes
) -> bytes:
    """Return a first message whose tasks all say their precision, since workers may have another default."""
    if all(task.precision for task in tasks):
        return data
    for task in tasks:
        task.precision = task.precision or precision
    serialized: bytes = request.SerializeToString()
    return serialized


async def _serve_items(
    router: Router,
    precision: vision_pb2.Precision.ValueType,
    kind: TaskKind,
    first: bytes,
    requests: AsyncIterator[bytes],
    context: Context,
) -> None:
    request = _parse(kind.request, first, "task")
    _, model, found = kinds.resolve(request.task)
    if found is not kind:
        raise InvalidArgumentError(f"{model} is served by {found.method}, not {kind.method}")
    first = _with_precision(request, [request.task], precision, first)
    await SpreadStream(router, kind, model, first, context).run(requests)


async def _analyze_video(
    router: Router,
    precision: vision_pb2.Precision.ValueType,
    first: bytes,
    requests: AsyncIterator[bytes],
    context: Context,
) -> None:
    request = _parse(vision_pb2.AnalyzeVideoRequest, first, "header")
    tasks = request.header.tasks
    worker = router.choose([model for _, model, _ in kinds.resolve_all(tasks)])
    first = _with_precision(request, tasks, precision, first)
    with router.share(worker) as share:
        share.add(_VIDEO_ITEMS)
        path, timeout = f"/{SERVICE}/AnalyzeVideo", context.time_remaining()
        metadata = traffic_metadata(context.invocation_metadata())
        call: grpc.aio.StreamStreamCall[bytes, bytes] = router.channel(worker).stream_stream(path)(
            timeout=timeout, metadata=metadata
        )
        ending = Ending(call)
        sender = asyncio.create_task(_send(call, first, requests))
        try:
            with losing(worker, ending):
                async for response in call:
                    await context.write(response)
        finally:
            # Whichever side is gone, the client or the worker, the other one must not go on for nobody.
            sender.cancel()
            call.cancel()
            await asyncio.gather(sender, return_exceptions=True)


async def _send(call: grpc.aio.StreamStreamCall[bytes, bytes], first: bytes, requests: AsyncIterator[bytes]) -> None:
    try:
        await call.write(first)
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the call has ended; whoever reads it learns why


async def _abort(context: Context, lost: WorkerLostError) -> None:
    """End the client's stream with the status with which the worker has ended its own."""
    error = lost.error
    trailing = () if error is None else tuple(error.trailing_metadata() or ())
    said = any(key == DETAILS_KEY for key, _ in trailing)
    if error is None or (error.code() is grpc.StatusCode.UNAVAILABLE and not said):
        raise UnavailableError(f"{lost.worker.name} went away; try again") from None
    await context.abort(error.code(), error.details() or "", trailing)
