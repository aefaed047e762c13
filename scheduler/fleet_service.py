"""The `Fleet` service: workers register, and operators look at them and drain them."""

from __future__ import annotations

import re
from typing import Any, Final

import grpc.aio

from zoofleet._serving.handlers import aborting
from zoofleet._wire import pages
from zoofleet._wire.names import parse_worker_name
from zoofleet.errors import InvalidArgumentError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.fleet import Fleet
from zoofleet.v1 import fleet_pb2, fleet_pb2_grpc

_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.%]{2,64}\]):([0-9]{1,5})")
_INSTANCE: Final = re.compile(r"[A-Za-z0-9-]{0,64}")
_DEFAULT_PAGE: Final = 200

_Context = grpc.aio.ServicerContext[Any, Any]


class FleetService(fleet_pb2_grpc.FleetServicer):
    """Registers workers, and shows them to operators.

    Args:
        fleet: the registry.
        config: the heartbeat times that workers are told.
    """

    def __init__(self, fleet: Fleet, config: SchedulerConfig) -> None:
        self._fleet = fleet
        self._config = config

    async def RegisterWorker(  # noqa: D102, N802
        self, request: fleet_pb2.RegisterWorkerRequest, context: _Context
    ) -> fleet_pb2.RegisterWorkerResponse:
        async with aborting(context):
            worker_id = parse_worker_name(request.worker.name)
            address = _ADDRESS.fullmatch(request.worker.address)
            if address is None or not 1 <= int(address[1]) <= 65535:
                raise InvalidArgumentError(f"address {request.worker.address[:80]!r} is not written 'host:port'")
            if not _INSTANCE.fullmatch(request.worker.instance_id):
                raise InvalidArgumentError(
                    f"instance_id {request.worker.instance_id[:80]!r} is not at most 64 letters, digits and dashes"
                )
            await self._fleet.register(worker_id, request.worker)
        response = fleet_pb2.RegisterWorkerResponse()
        response.heartbeat_interval.FromMilliseconds(round(self._config.heartbeat_interval * 1000))
        response.heartbeat_timeout.FromMilliseconds(round(self._config.heartbeat_timeout * 1000))
        return response

    async def HeartbeatWorker(  # noqa: D102, N802
        self, request: fleet_pb2.HeartbeatWorkerRequest, context: _Context
    ) -> fleet_pb2.HeartbeatWorkerResponse:
        async with aborting(context):
            drain = await self._fleet.beat(parse_worker_name(request.name), request.instance_id, request.status)
        return fleet_pb2.HeartbeatWorkerResponse(drain=drain)

    async def UnregisterWorker(  # noqa: D102, N802
        self, request: fleet_pb2.UnregisterWorkerRequest, context: _Context
    ) -> fleet_pb2.UnregisterWorkerResponse:
        async with aborting(context):
            await self._fleet.unregister(parse_worker_name(request.name), request.instance_id)
        return fleet_pb2.UnregisterWorkerResponse()

    async def GetWorker(  # noqa: D102, N802
        self, request: fleet_pb2.GetWorkerRequest, context: _Context
    ) -> fleet_pb2.Worker:
        async with aborting(context):
            worker = await self._fleet.get(parse_worker_name(request.name))
        return worker.message

    async def ListWorkers(  # noqa: D102, N802
        self, request: fleet_pb2.ListWorkersRequest, context: _Context
    ) -> fleet_pb2.ListWorkersResponse:
        async with aborting(context):
            workers = await self._fleet.read()
            names, token = pages.page("workers", list(workers), request.page_size, request.page_token, _DEFAULT_PAGE)
        return fleet_pb2.ListWorkersResponse(workers=[workers[name].message for name in names], next_page_token=token)

    async def DrainWorker(  # noqa: D102, N802
        self, request: fleet_pb2.DrainWorkerRequest, context: _Context
    ) -> fleet_pb2.Worker:
        async with aborting(context):
            worker = await self._fleet.drain(parse_worker_name(request.name))
        return worker.message
