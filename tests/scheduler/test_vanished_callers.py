"""Callers that go away while they are written to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from zoofleet._serving.handlers import RequestCheck, aborting
from zoofleet.v1 import jobs_pb2, jobs_pb2_grpc


class _Yielding(jobs_pb2_grpc.JobsServicer):
    async def ReadResults(  # noqa: N802
        self, request: jobs_pb2.ReadResultsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[jobs_pb2.ReadResultsResponse]:
        async with aborting(context):
            while True:
                yield jobs_pb2.ReadResultsResponse(cursor="x" * 500_000)


class _Writing(jobs_pb2_grpc.JobsServicer):
    async def ReadResults(  # type: ignore[override]  # noqa: N802
        self, request: jobs_pb2.ReadResultsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        async with aborting(context):
            while True:
                await context.write(jobs_pb2.ReadResultsResponse(cursor="x" * 500_000))


@pytest.mark.parametrize("servicer", [_Yielding, _Writing])
async def test_a_write_to_a_caller_who_has_gone_is_no_fault(
    servicer: type[jobs_pb2_grpc.JobsServicer], caplog: pytest.LogCaptureFixture
) -> None:
    server = grpc.aio.server(interceptors=[RequestCheck()])
    jobs_pb2_grpc.add_JobsServicer_to_server(servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        for _ in range(300):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = jobs_pb2_grpc.JobsStub(channel).ReadResults(jobs_pb2.ReadResultsRequest())
                await anext(aiter(call))
                await asyncio.sleep(0)
                call.cancel()
    finally:
        await server.stop(None)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [message for message in said if "servicer method" in message or "a call" in message] == []
