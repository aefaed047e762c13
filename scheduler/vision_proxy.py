"""Routes each client's `Vision` stream to a worker, as raw bytes: only its first message is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from zoofleet import _tasks
from zoofleet._calls import Ending
from zoofleet._catalog import ModelName
from zoofleet._grpc import aborting
from zoofleet._status import DETAILS_KEY
from zoofleet._tasks import TASK_KINDS, TaskKind
from zoofleet.errors import InvalidArgumentError, UnavailableError
from zoofleet.scheduler.fleet import Fleet
from zoofleet.v1 import vision_pb2

_log: Final = logging.getLogger(__name__)

SERVICE: Final = "zoofleet.v1.Vision"

MAX_TASKS: Final = 8
"""Most tasks of a job or of a video."""

_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
_ReadModels: TypeAlias = Callable[[bytes], Sequence[ModelName]]


def handler(fleet: Fleet) -> grpc.GenericRpcHandler:
    """The service as a handler that neither parses nor serializes."""

    def method(path: str, read_models: _ReadModels) -> grpc.RpcMethodHandler[Any, Any]:
        async def behavior(requests: AsyncIterator[bytes], context: _Context) -> None:
            async with aborting(context):
                await _route(fleet, path, read_models, requests, context)

        return grpc.stream_stream_rpc_method_handler(behavior)

    methods = {kind.method: method(kind.path, _task_reader(kind)) for kind in TASK_KINDS}
    methods["AnalyzeVideo"] = method(f"/{SERVICE}/AnalyzeVideo", _read_header)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def resolve_all(tasks: Sequence[vision_pb2.Task]) -> list[tuple[vision_pb2.Task, ModelName, TaskKind]]:
    """Validate 1 to 8 tasks, as `_tasks.resolve` does each."""
    if not 1 <= len(tasks) <= MAX_TASKS:
        raise InvalidArgumentError(f"{len(tasks)} tasks; accepted: 1 to {MAX_TASKS}")
    return [_tasks.resolve(task) for task in tasks]


def _parse(message: Any, data: bytes, field: str) -> Any:
    try:
        request = message.FromString(data)
    except DecodeError:
        raise InvalidArgumentError(f"the stream's first message is no {message.DESCRIPTOR.name}") from None
    _tasks.check_first(request, field)
    return request


def _task_reader(kind: TaskKind) -> _ReadModels:
    def read_models(first: bytes) -> Sequence[ModelName]:
        _, model, found = _tasks.resolve(_parse(kind.request, first, "task").task)
        if found is not kind:
            raise InvalidArgumentError(f"{model} is served by {found.method}, not {kind.method}")
        return [model]

    return read_models


def _read_header(first: bytes) -> Sequence[ModelName]:
    header = _parse(vision_pb2.AnalyzeVideoRequest, first, "header").header
    return [model for _, model, _ in resolve_all(header.tasks)]


async def _route(
    fleet: Fleet, path: str, read_models: _ReadModels, requests: AsyncIterator[bytes], context: _Context
) -> None:
    first = await anext(requests, None)
    if first is None:
        raise InvalidArgumentError("the stream has no message; accepted: a task or header first")
    with fleet.route(read_models(first)) as (worker, channel):
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(path)(timeout=context.time_remaining())
        ending = Ending(call)
        sender = asyncio.create_task(_send(call, first, requests))
        try:
            async for response in call:
                await context.write(response)
        except grpc.aio.AioRpcError as raised:
            error = ending.restore(raised)
            trailing = error.trailing_metadata() or ()
            if error.code() is grpc.StatusCode.UNAVAILABLE and not any(key == DETAILS_KEY for key, _ in trailing):
                raise UnavailableError(f"{worker.name} went away; try again") from None
            await context.abort(error.code(), error.details() or "", tuple(trailing))
        finally:
            # The client may be gone, or the worker: either way the other side must not go on for nobody.
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
