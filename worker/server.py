"""The worker process: its parts, the order in which they start, and the order in which they stop.

A batch that hangs cannot be ended, nor can its thread: the process ends its streams with an error and itself with
`HUNG_EXIT_CODE`, so that its supervisor starts a fresh one. A CUDA context that fails at everything once it has failed
ends the process with `POISONED_EXIT_CODE`, without an answer to anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
import socket
from typing import Final, NoReturn

import grpc.aio
import psutil
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import zoofleet
from zoofleet import _catalog
from zoofleet._serving.handlers import SERVER_OPTIONS, RequestCheck
from zoofleet._serving.lifecycle import Parts, in_order, serve_until_signal, together
from zoofleet._wire.names import worker_name
from zoofleet.errors import DeviceHungError, InternalError, InvalidArgumentError, UnavailableError
from zoofleet.models.ops import verify_kernels
from zoofleet.v1 import fleet_pb2, models_pb2_grpc
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.devices import default_memory_budget, device_memory, find_device, free_memory
from zoofleet.worker.host_tier import HostTier
from zoofleet.worker.models_service import ModelsService, loaded_model
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.registration import Registration
from zoofleet.worker.residency import Residency
from zoofleet.worker.vision_service import VisionService

__all__ = ["HUNG_EXIT_CODE", "POISONED_EXIT_CODE", "Worker", "serve"]

_log: Final = logging.getLogger(__name__)

_LAST_WORDS_SECONDS: Final = 0.5
"""How long the final statuses of streams that have just ended may take to be sent."""

_WATCH_SECONDS: Final = 1.0
"""How often the device is looked at; it is looked at more often where `hang_timeout` is below 10 s."""

HUNG_EXIT_CODE: Final = os.EX_SOFTWARE
"""The exit code of a worker whose device hung, 70."""

POISONED_EXIT_CODE: Final = os.EX_OSERR
"""The exit code of a worker whose CUDA context is poisoned, so that every later call would fail, 71."""

_WILDCARDS: Final = ("0.0.0.0", "[::]", "")  # noqa: S104 - they are listened on, and cannot be dialled


class Worker:
    """A worker in this process. Must be made in the event loop.

    Args:
        config: the worker's settings.

    Attributes:
        name: the worker's resource name, `workers/{worker}`.

    Raises:
        InvalidArgumentError: the device is not there, or the address is a wildcard and there is none to advertise.
        InternalError: the device does not compute what a CPU does.
    """

    def __init__(self, config: WorkerConfig) -> None:
        host = config.address.rpartition(":")[0]
        if config.schedulers and config.advertise_address is None and host in _WILDCARDS:
            raise InvalidArgumentError(
                f"address is {config.address!r}, which schedulers cannot dial; set advertise_address too"
            )
        self._device = find_device(config.device)
        self._kernels = verify_kernels(self._device)
        self._config = config = dataclasses.replace(config, device=str(self._device))
        self.name = worker_name(config.name or f"{_host_id()}-{os.getpid()}-{secrets.token_hex(3)}")
        self._instance_id = secrets.token_hex(16)
        self._draining = asyncio.Event()  # set once no further work is taken
        free = free_memory(self._device)
        budget = config.memory_budget_bytes or default_memory_budget(free, config.device_sharers)
        spare = free // config.device_sharers - budget
        tier = None
        if self._device.type == "cuda":
            tier = HostTier.of_free(free_memory(torch.device("cpu")), config.device_sharers)
        self._residency = Residency(self._device, budget, config, spare=spare, tier=tier)
        self._pipeline = Pipeline(config, self._residency, self._end_poisoned)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(RequestCheck(),), options=SERVER_OPTIONS)
        self._vision = VisionService(config, self._pipeline, self._residency, self._draining)
        self._server.add_generic_rpc_handlers((self._vision.handler(),))
        models_pb2_grpc.add_ModelsServicer_to_server(ModelsService(self.name, self._residency), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._registrations: list[Registration] = []
        self._parts = Parts()
        self._address = config.address

    @property
    def address(self) -> str:
        """host:port at which the worker listens; the port is 0 until `start` where any free one was asked for."""
        return self._address

    async def start(self) -> None:
        """Listen, and register with the schedulers in the background.

        Raises:
            UnavailableError: the address is taken, or is not this machine's.
        """
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_insecure_port(self._config.address)
        except RuntimeError as error:
            raise UnavailableError(f"cannot listen on {self._config.address}: {error}") from None
        self._address = f"{self._config.address.rpartition(':')[0]}:{port}"
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        _log.info("%s listening on %s, device %s, kernels: %s", self.name, self._address, self._device, self._kernels)
        self._parts.start("watch over the device", self._watch_device())
        for scheduler in dict.fromkeys(self._config.schedulers):
            registration = Registration(scheduler, self._present(), self.status, self._drain)
            self._registrations.append(registration)
            self._parts.start(f"registration with {scheduler}", registration.run())

    async def run(self) -> None:
        """Wait until a part fails, and raise its error.

        Raises:
            DeviceHungError: a batch does not end. The streams have been ended with this error.
            InternalError: the device's thread, or another part, has ended.
        """
        await self._parts.watch()

    async def stop(self) -> None:
        """Stop in good order, within the configured grace and a little more."""
        await in_order(
            # 1. Load balancers look elsewhere, and so do the schedulers.
            self._health.enter_graceful_shutdown,
            self._drain,
            # 2. New streams are refused and no more items are read. Streams end as soon as nothing of theirs is in
            #    flight.
            self._streams_ended,
            # 3. What is left is cut off, and clients see UNAVAILABLE: streams that were not done in time, and calls
            #    that would never end, such as watches of our health.
            lambda: self._server.stop(_LAST_WORDS_SECONDS),
            # 4. Only now may the schedulers forget us: until here heartbeats kept the leases on what was in flight.
            self._parts.cancel,
            lambda: together(*(registration.close() for registration in self._registrations)),
            # 5. The threads, which nobody waits for any more, in a thread because they may be in a long forward pass.
            lambda: asyncio.to_thread(self._pipeline.close),
        )
        _log.info("%s stopped", self.name)

    def status(self) -> fleet_pb2.WorkerStatus:
        """Return what a heartbeat says: the loaded models, and the items in flight and answered."""
        memory = device_memory(self._device)
        status = fleet_pb2.WorkerStatus(
            loaded_models=[loaded_model(resident, self.name) for resident in self._residency.residents],
            inflight_items=self._pipeline.inflight_count,
            item_count=self._pipeline.item_count,
            error_count=self._pipeline.error_count,
            resident_bytes=psutil.Process().memory_info().rss,
            device_bytes_used=memory.used,
            device_bytes_total=memory.total,
            device_bytes_reserved=memory.reserved,
            draining=self._draining.is_set(),
        )
        if (batch := self._pipeline.batcher.running) is not None:
            status.batch_start_time.FromNanoseconds(int(batch.start_time * 1e9))
        return status

    async def _streams_ended(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._vision.ended(), self._config.grace)

    def _drain(self) -> None:
        if not self._draining.is_set():
            _log.info("%s draining", self.name)
            self._draining.set()
            for registration in self._registrations:
                registration.beat()

    async def _watch_device(self) -> None:
        """End all streams, and raise the error, as soon as nothing can be expected of the device any more."""
        error = await self._device_failure()
        self._vision.fail(error)
        self._pipeline.batcher.abandon()
        self._drain()
        raise error

    async def _device_failure(self) -> InternalError:
        """Wait until the device hangs or its thread ends, and return the error that says so."""
        limit = self._config.hang_timeout
        pause = min(_WATCH_SECONDS, limit / 10)
        batcher = self._pipeline.batcher
        batch, waited = batcher.running, 0.0
        while batcher.is_alive:
            await asyncio.sleep(pause)
            # Time in which the whole process stood still, as on a machine that slept, does not count.
            batch, waited = (batch, waited + pause) if batcher.running is batch else (batcher.running, 0.0)
            if batch is not None and waited >= limit:
                return DeviceHungError(
                    f"{self._device} has been in one batch of {batch.model} for {waited:.1f} s; the limit is "
                    f"{limit:g} s (hang_timeout)"
                )
        return InternalError("the device's thread has ended")

    def _end_poisoned(self, error: BaseException) -> NoReturn:
        """End the process at once, before anything is answered: what is in flight runs on another worker.

        Everything that the device computes from now on would be an error, and errors are final.
        """
        _log.critical("%s fails whatever it is given, after: %s; ending the process", self._device, error)
        logging.shutdown()
        os._exit(POISONED_EXIT_CODE)

    def _present(self) -> fleet_pb2.Worker:
        """Return how the worker presents itself to schedulers."""
        on_cpu = self._device.type == "cpu"
        return fleet_pb2.Worker(
            name=self.name,
            address=self._config.advertise_address or self._address,
            device="cpu" if on_cpu else f"{self._device} [{torch.cuda.get_device_name(self._device)}]",
            version=zoofleet.__version__,
            builders=sorted(name for name, b in _catalog.builders().items() if on_cpu or b.task != "quantization"),
            instance_id=self._instance_id,
            max_inflight_items=self._config.resolved_inflight_items(),
            memory_budget_bytes=self._residency.budget,
            kernels=self._kernels,
        )


def _host_id() -> str:
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname().lower())
    return name[:40] or "host"


async def serve(config: WorkerConfig) -> None:
    """Run a worker until SIGTERM or SIGINT, then stop it in good order. Where the device hangs, this ends the process.

    Raises:
        InvalidArgumentError: the device is not there, or the address is a wildcard and there is none to advertise.
        UnavailableError: the address is taken, or is not this machine's.
    """
    # EXACT means float32; cuDNN would otherwise convolve in TF32.
    torch.backends.cudnn.allow_tf32 = False
    try:
        await serve_until_signal(Worker(config))
    except DeviceHungError:
        os._exit(HUNG_EXIT_CODE)  # the interpreter, and CUDA, would wait for the device's thread
