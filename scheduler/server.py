"""The scheduler process: its parts, the order in which they start, and the order in which they stop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from zoofleet._serving.handlers import SERVER_OPTIONS, RequestCheck
from zoofleet._serving.lifecycle import Parts, in_order, serve_until_signal, together
from zoofleet.errors import UnavailableError, ZoofleetError
from zoofleet.scheduler import vision_proxy
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.dispatcher import Dispatcher
from zoofleet.scheduler.fleet import Fleet
from zoofleet.scheduler.fleet_service import FleetService
from zoofleet.scheduler.jobs_service import JobsService
from zoofleet.scheduler.models_service import ModelsService
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.store import Store
from zoofleet.v1 import fleet_pb2_grpc, jobs_pb2_grpc, models_pb2_grpc

_log: Final = logging.getLogger(__name__)

_JOBS: Final = "zoofleet.v1.Jobs"
"""The health service's name for what needs Redis. The name "" stands for the whole process."""


class Scheduler:
    """A scheduler in this process.

    Args:
        config: the scheduler's settings.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._store = Store(
            config.redis_url,
            config.redis_timeout,
            pulse=config.sweep_interval,
            longest_grace=max(config.lease, config.heartbeat_timeout),
        )
        self._fleet = Fleet(self._store, config)
        queue = Queue(self._store, config)
        self._dispatcher = Dispatcher(queue, self._fleet, self._store, config)
        self._jobs = JobsService(queue, self._fleet, self._store, config)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(RequestCheck(),), options=SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((vision_proxy.handler(self._fleet, config),))
        jobs_pb2_grpc.add_JobsServicer_to_server(self._jobs, self._server)
        models_pb2_grpc.add_ModelsServicer_to_server(ModelsService(self._fleet), self._server)
        fleet_pb2_grpc.add_FleetServicer_to_server(FleetService(self._fleet, config), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._parts = Parts()
        self._address = config.address

    @property
    def address(self) -> str:
        """The host:port at which it listens. The port is known once it has started."""
        return self._address

    async def start(self) -> None:
        """Begin to listen and work. Until Redis answers, the health service says NOT_SERVING, and calls UNAVAILABLE.

        Raises:
            UnavailableError: the address is taken, or is not one of this machine.
        """
        for service in ("", _JOBS):
            await self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_insecure_port(self._config.address)
        except RuntimeError as error:
            raise UnavailableError(f"cannot listen on {self._config.address}: {error}") from None
        self._address = f"{self._config.address.rpartition(':')[0]}:{port}"
        await self._server.start()
        self._parts.start("listener to Redis", self._store.listen())
        self._parts.start("fleet", self._fleet.run())
        self._parts.start("dispatcher", self._dispatcher.run())
        self._parts.start("watch over Redis", self._watch_redis())
        _log.info("listening on %s", self._address)

    async def run(self) -> None:
        """Wait until a part fails, and raise its error."""
        await self._parts.watch()

    async def stop(self) -> None:
        """Stop in good order, within the configured grace and a little more."""
        grace = self._config.shutdown_grace
        await in_order(
            # 1. Load balancers look elsewhere.
            self._health.enter_graceful_shutdown,
            # 2. Streams that only wait would keep the server up for nothing; their readers go on elsewhere.
            self._jobs.close,
            # 3. No new calls and no new chunks. Those in flight may end; leases are still renewed meanwhile. What is
            #    not done in time is handed back, so that another replica has it at once, and not when its lease
            #    expires.
            lambda: together(self._server.stop(grace), self._dispatcher.stop(grace)),
            # 4. Nothing is left that events, sweeps or the fleet's view are for.
            self._parts.cancel,
            # 5. What all of them stood on.
            self._fleet.close,
            self._store.close,
        )
        _log.info("stopped")

    async def _watch_redis(self) -> None:
        """Keep the health service's answers up to date."""
        serving: bool | None = None
        while True:
            try:
                await self._store.check()
                if not serving:
                    await self._store.warn_of_data_loss()
                answers = True
            except ZoofleetError as error:
                _log.warning("%s", error)
                answers = False
            if answers != serving:
                await self._set_health(answers)
                serving = answers
            await asyncio.sleep(self._config.sweep_interval)

    async def _set_health(self, answers: bool) -> None:
        status: Any = health_pb2.HealthCheckResponse
        await self._health.set(_JOBS, status.SERVING if answers else status.NOT_SERVING)
        if answers:
            # Later outages of Redis leave this as it is: interactive calls go on without it.
            await self._health.set("", status.SERVING)
            _log.info("ready")


async def serve(config: SchedulerConfig) -> None:
    """Run a scheduler until SIGTERM or SIGINT, then stop it in good order.

    Raises:
        UnavailableError: the address is taken or not this machine's.
    """
    await serve_until_signal(Scheduler(config))
