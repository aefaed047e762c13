"""A worker's membership in a fleet: registers, beats, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
import grpc.aio

from zoofleet._wire.backoff import backoff
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.status import from_rpc_error
from zoofleet.errors import UnavailableError
from zoofleet.v1 import fleet_pb2, fleet_pb2_grpc

__all__ = ["Registration"]

_log: Final = logging.getLogger(__name__)

_CALL_SECONDS: Final = 5.0
"""How long a call may take, less than the 8 s without a heartbeat after which a scheduler gives a worker up."""

_LEAVE_SECONDS: Final = 1.0
"""How long the worker waits to be unregistered when it stops."""

_pauses: Final = functools.partial(backoff, 0.2, 5.0, jitter=0.5)
"""Starts the pauses in seconds between attempts to reach a scheduler; workers that lost it together come back apart."""

_MIN_INTERVAL_SECONDS: Final = 0.05
"""Least seconds between heartbeats, whatever the scheduler asks for."""

_T = TypeVar("_T")


class Registration:
    """Keeps one worker registered with one scheduler, however often either loses the other.

    Args:
        scheduler: the scheduler's gRPC target.
        worker: the worker's description, without a status.
        status: returns the worker's status at the moment.
        drain: called when the scheduler asks the worker to take no further work, at each heartbeat until it leaves.
    """

    def __init__(
        self,
        scheduler: str,
        worker: fleet_pb2.Worker,
        status: Callable[[], fleet_pb2.WorkerStatus],
        drain: Callable[[], None],
    ) -> None:
        self.scheduler = scheduler
        self._worker = worker
        self._status = status
        self._drain = drain
        self._channel = grpc.aio.insecure_channel(scheduler, CHANNEL_OPTIONS)
        self._fleet = fleet_pb2_grpc.FleetStub(self._channel)
        self._changed = asyncio.Event()

    def beat(self) -> None:
        """Send a heartbeat now instead of at the end of the interval, since the status has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Register and beat until cancelled. What fails between worker and scheduler is logged and tried again."""
        pauses = _pauses()
        while True:
            try:
                interval = await self._register()
                _log.info("registered with %s as %s", self.scheduler, self._worker.name)
                pauses = _pauses()
                await self._beat_until_forgotten(interval)
                _log.warning("%s does not know %s any more; registering again", self.scheduler, self._worker.name)
            except (grpc.aio.AioRpcError, UnavailableError) as error:
                reason = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
                _log.warning("cannot reach %s, trying again: %s", self.scheduler, reason)
                await asyncio.sleep(next(pauses))

    async def close(self) -> None:
        """Leave the fleet, once `run` has ended. A scheduler that cannot be reached will notice by itself."""
        request = fleet_pb2.UnregisterWorkerRequest(name=self._worker.name, instance_id=self._worker.instance_id)
        try:
            await self._fleet.UnregisterWorker(request, timeout=_LEAVE_SECONDS)
        except grpc.aio.AioRpcError as error:
            _log.warning("cannot unregister from %s: %s", self.scheduler, from_rpc_error(error))
        finally:
            await self._channel.close()

    async def _register(self) -> float:
        """Register, and return the seconds between heartbeats."""
        worker = fleet_pb2.Worker()
        worker.CopyFrom(self._worker)
        worker.status.CopyFrom(self._status())
        request = fleet_pb2.RegisterWorkerRequest(worker=worker)
        response: fleet_pb2.RegisterWorkerResponse = await self._fleet.RegisterWorker(request, timeout=_CALL_SECONDS)
        interval = _readable(response).heartbeat_interval
        return max(interval.seconds + interval.nanos / 1e9, _MIN_INTERVAL_SECONDS)

    async def _beat_until_forgotten(self, interval: float) -> None:
        """Beat until the scheduler says that the worker is not registered."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), interval)
            self._changed.clear()
            request = fleet_pb2.HeartbeatWorkerRequest(
                name=self._worker.name, status=self._status(), instance_id=self._worker.instance_id
            )
            try:
                response = await self._fleet.HeartbeatWorker(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return
                raise
            if _readable(response).drain:
                self._drain()


def _readable(response: _T | None) -> _T:
    """Return the response, or raise UnavailableError for the None that grpc.aio gives for one that does not parse."""
    if response is None:
        raise UnavailableError("its answer cannot be read")
    return response
