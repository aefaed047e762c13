"""A scheduler's `Fleet` service that notes what workers say."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from zoofleet.v1 import fleet_pb2


class Fleet:
    """What workers have said, oldest first, and what to answer."""

    def __init__(self) -> None:
        self.address = ""
        self.registered: list[fleet_pb2.Worker] = []
        self.beats: list[fleet_pb2.HeartbeatWorkerRequest] = []
        self.left: list[fleet_pb2.UnregisterWorkerRequest] = []
        self.drain = False
        self.garbled = False

    @property
    def status(self) -> fleet_pb2.WorkerStatus:
        """The last status that a worker gave."""
        return self.beats[-1].status if self.beats else fleet_pb2.WorkerStatus()

    async def register(self, request: fleet_pb2.RegisterWorkerRequest, _: object) -> Any:
        self.registered.append(request.worker)
        response = fleet_pb2.RegisterWorkerResponse()
        response.heartbeat_interval.FromMilliseconds(50)
        return response

    async def beat(self, request: fleet_pb2.HeartbeatWorkerRequest, _: object) -> Any:
        self.beats.append(request)
        return fleet_pb2.HeartbeatWorkerResponse(drain=self.drain)

    async def unregister(self, request: fleet_pb2.UnregisterWorkerRequest, _: object) -> Any:
        self.left.append(request)
        return fleet_pb2.UnregisterWorkerResponse()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, whose answers are no messages while `garbled`."""

        def method(behavior: Any, request: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(behavior, request.FromString, self._serialize)

        methods = {
            "RegisterWorker": method(self.register, fleet_pb2.RegisterWorkerRequest),
            "HeartbeatWorker": method(self.beat, fleet_pb2.HeartbeatWorkerRequest),
            "UnregisterWorker": method(self.unregister, fleet_pb2.UnregisterWorkerRequest),
        }
        return grpc.method_handlers_generic_handler("zoofleet.v1.Fleet", methods)

    def _serialize(self, response: Any) -> bytes:
        serialized: bytes = response.SerializeToString()
        return b"\xff\xff" if self.garbled else serialized


@contextlib.asynccontextmanager
async def serving_fleet() -> AsyncIterator[Fleet]:
    """A `Fleet` that listens at its address."""
    fleet = Fleet()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((fleet.handler(),))
    fleet.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield fleet
    finally:
        await server.stop(None)
