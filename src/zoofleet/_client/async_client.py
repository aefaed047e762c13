"""The client for asyncio."""

from __future__ import annotations

from zoofleet._client.fleet import FleetCalls
from zoofleet._client.jobs import JobsCalls
from zoofleet._client.vision import VisionCalls

__all__ = ["AsyncClient"]


class AsyncClient(VisionCalls, JobsCalls, FleetCalls):
    """A connection to a Zoofleet scheduler, or to a single worker, which serves `Vision` and `Models` alone.

    Calls that fail because the server cannot be reached are repeated, with growing pauses. Use the client as an
    asynchronous context manager, within one event loop:

        async with AsyncClient() as client:
            result = await client.classify("cat.jpg", model="resnet50")

    Args:
        address: the server as `host:port`. None for the value of the environment variable ZOOFLEET_ADDRESS, or
            127.0.0.1:50051 without one.
        retry_timeout: seconds without progress after which a call that the server does not answer fails. With 0, no
            call is repeated.

    Every method raises errors of `zoofleet.errors` only, and what the caller's own iterables raise.
    """
