"""Which models are in memory: loaded on demand, kept while in use, unloaded least recently used first."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
import torch

from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError, ZoofleetError
from zoofleet.worker.activations import Activations
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.host_tier import HostTier, move_to_host
from zoofleet.worker.loading import make_runner, memory_bytes, runner_of
from zoofleet.worker.plan import PlanStatus
from zoofleet.worker.runner import Runner

__all__ = ["ModelUse", "Residency", "Resident"]

_log: Final = logging.getLogger(__name__)

_FLOAT_BYTES: Final = 4
"""Bytes of a float32, by which the size of a model that was never loaded is estimated."""


@dataclass(eq=False)
class Resident:
    """A model in memory.

    Attributes:
        name: the model's name.
        runner: the model itself. The attribute is gone once the model is unloaded.
        model_bytes: bytes of its parameters and buffers, measured.
        pinned: whether it is never unloaded to make room.
        use_count: number of uses at the moment. It is not unloaded before the last one ends.
        idle: set while there are no uses.
        unloading: the task that unloads it, once it has to leave. Its result is the number of bytes that came back.
    """

    name: ModelName
    runner: Runner[Any]
    model_bytes: int
    pinned: bool = False
    use_count: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    unloading: asyncio.Task[int] | None = None

    @property
    def plans(self) -> list[PlanStatus]:
        """What serves FAST; nothing once the model is unloaded."""
        return list(self.runner.plans.values()) if hasattr(self, "runner") else []

    @property
    def memory_bytes(self) -> int:
        """Bytes of the model, and of what its plans take beside it."""
        return self.model_bytes + sum(status.memory_bytes for status in self.plans)

    @property
    def is_retiring(self) -> bool:
        """Whether it has to leave and gets no new uses."""
        return self.unloading is not None


class ModelUse:
    """The use of a resident model, which stays in memory for as long.

    Attributes:
        runner: the model. The attribute is gone after `release`.
    """

    __slots__ = ("_resident", "runner")

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self.runner = resident.runner
        resident.use_count += 1
        resident.idle.clear()

    def release(self) -> None:
        """End the use. Must be called once, in the event loop."""
        del self.runner
        self._resident.use_count -= 1
        if self._resident.use_count == 0:
            self._resident.idle.set()


class Residency:
    """The models of one device, within a memory budget.

    A model that has to leave gets no new uses and is unloaded when its last one ends, so that a model in constant use
    cannot keep another one out. All methods must be called in the event loop; loading runs in threads.

    What forward passes take beside the models is measured. One runs at a time, so that the most that one of the present
    models takes is kept free: beyond the budget, and where that is too little, within it.

    Args:
        device: the device that models are loaded to.
        budget: bytes that the parameters and buffers of all models may take.
        config: the worker's settings, which runners need.
        spare: bytes of the device beyond the budget, for forward passes.
        tier: keeps the models that left the device to make room; None where the device's memory is the host's.
    """

    def __init__(
        self,
        device: torch.device,
        budget: int,
        config: WorkerConfig,
        *,
        spare: int = 0,
        tier: HostTier | None = None,
    ) -> None:
        self.budget = budget
        self.activations = Activations(device)
        self.activations.on_growth = self._grown
        self._loop = asyncio.get_running_loop()
        self._spare = max(spare, 0)
        self._tier = tier
        self._device = device
        self._config = config
        self._residents: OrderedDict[ModelName, Resident] = OrderedDict()  # least recently used first
        self._loading: dict[ModelName, asyncio.Task[None]] = {}
        self._reserved: dict[ModelName, int] = {}
        self._measured: dict[ModelName, int] = {}
        self._room = asyncio.Lock()

    @property
    def residents(self) -> list[Resident]:
        """The models that are loaded now, least recently used first."""
        return list(self._residents.values())

    @contextlib.asynccontextmanager
    async def use(self, name: ModelName) -> AsyncIterator[Runner[Any]]:
        """Use a model within a scope. It is loaded first if need be, once for all concurrent callers.

        Raises:
            ResourceExhaustedError: the model does not fit into the budget beside pinned models.
            WeightsUnavailableError: its weights cannot be fetched.
            InvalidWeightsError: its weights are not the model's.
            UnimplementedError: it does not run on this device.
        """
        use = await self.acquire(name)
        try:
            yield use.runner
        finally:
            use.release()

    async def acquire(self, name: ModelName) -> ModelUse:
        """Use a model beyond a scope. It is loaded first if need be, once for all concurrent callers.

        Must be awaited in the task that keeps the use: were it awaited in a task of its own, a cancellation could lose
        that task's result, and the use would never end.

        Raises:
            ResourceExhaustedError: the model does not fit into the budget beside pinned models.
            WeightsUnavailableError: its weights cannot be fetched.
            InvalidWeightsError: its weights are not the model's.
            UnimplementedError: it does not run on this device.
        """
        return ModelUse(await self._resident(name))

    async def load(self, name: ModelName, *, pin: bool = False) -> Resident:
        """Load a model unless it is loaded, and pin it if asked to.

        Args:
            name: the model.
            pin: whether to pin it; otherwise a pinned model stays pinned.

        Raises:
            ResourceExhaustedError: the model does not fit into the budget beside pinned models.
            WeightsUnavailableError: its weights cannot be fetched.
            InvalidWeightsError: its weights are not the model's.
            UnimplementedError: it does not run on this device.
        """
        resident = await self._resident(name)
        resident.pinned |= pin
        return resident

    def pin(self, name: ModelName, *, pinned: bool) -> Resident:
        """Pin or unpin a model.

        Raises:
            NotFoundError: the model is not loaded.
        """
        resident = self._loaded(name)
        resident.pinned = pinned
        return resident

    async def unload(self, name: ModelName) -> int:
        """Unload a model once its last use has ended.

        Returns:
            Bytes by which the memory in use fell, measured: the process's resident memory, on a CUDA device the memory
            that torch's allocator has given out.

        Raises:
            NotFoundError: the model is not loaded.
            FailedPreconditionError: the model is pinned.
        """
        resident = self._loaded(name)
        if resident.pinned:
            raise FailedPreconditionError(f"{name} is pinned; unpin it first")
        freed = await asyncio.shield(self._retire(resident))  # once begun it goes on, whoever waits for it
        if self._tier is not None and self._tier.take(name) is not None:
            await asyncio.to_thread(_release_memory)
        return freed

    def _loaded(self, name: ModelName) -> Resident:
        resident = self._residents.get(name)
        if resident is None or resident.is_retiring:
            raise NotFoundError(f"{name} is not loaded here")
        return resident

    async def _resident(self, name: ModelName) -> Resident:
        while (resident := self._residents.get(name)) is None or resident.unloading is not None:
            if resident is not None and resident.unloading is not None:
                await asyncio.wait([resident.unloading])
                continue
            if name not in self._loading:
                task = asyncio.create_task(self._load(name))
                self._loading[name] = task
                task.add_done_callback(lambda done: self._loaded_or_failed(name, done))
            await asyncio.shield(self._loading[name])  # others may wait for it too
        self._residents.move_to_end(name)
        return resident

    def _loaded_or_failed(self, name: ModelName, done: asyncio.Task[None]) -> None:
        del self._loading[name]
        self._reserved.pop(name, None)
        if not done.cancelled() and done.exception() is not None:
            _log.warning("cannot load %s: %s", name, done.exception())

    async def _load(self, name: ModelName) -> None:
        await self._make_room(name, self._measured.get(name, _FLOAT_BYTES * name.info.num_params))
        try:
            kept = self._tier.take(name) if self._tier is not None else None
            if kept is None:
                runner = await asyncio.to_thread(make_runner, name, self._device, self._config)
            else:
                runner = await asyncio.to_thread(runner_of, name, kept, self._device, self._config)
            del kept
            size = memory_bytes(runner)
        except ZoofleetError:
            raise
        except Exception:  # noqa: BLE001 - a builder may raise anything
            raise fault(f"loading {name}") from None
        self._measured[name] = size
        try:
            await self._make_room(name, size)
        except ResourceExhaustedError:
            del runner
            await asyncio.to_thread(_release_memory)
            raise
        self._residents[name] = Resident(name, runner, size)
        del self._reserved[name]
        _log.info("loaded %s: %.1f MB", name, size / 1e6)

    async def _make_room(self, name: ModelName, size: int) -> None:
        """Reserve `size` bytes for a model, and unload others if need be."""
        self._reserved.pop(name, None)
        while True:
            async with self._room:  # or two loads would count on the same model's memory
                victims = self._victims(size, name)
                if victims is not None:
                    self._reserved[name] = size
                    await asyncio.gather(*(asyncio.shield(self._retire(resident)) for resident in victims))
                    return
                pinned = sum(r.memory_bytes for r in self._residents.values() if r.pinned)
                loading = [task for other, task in self._loading.items() if other in self._reserved]
            if size > self.budget - pinned or not loading:
                raise ResourceExhaustedError(
                    f"{name} takes {size} bytes; the budget is {self.budget} bytes, {pinned} of them pinned"
                )
            await asyncio.wait(loading, return_when=asyncio.FIRST_COMPLETED)

    def _victims(self, size: int, *coming: ModelName) -> list[Resident] | None:
        """Return what to unload for `size` bytes more to fit; None where pinned and loading models leave too little.

        Room for forward passes is made as far as it can be made by unloading. No model is refused for want of it, since
        a smaller item may need less.
        """
        staying = list(self._residents.values())
        victims: list[Resident] = []
        for resident in (None, *(r for r in self._residents.values() if not r.pinned)):
            if resident is not None:
                victims.append(resident)
                staying.remove(resident)
            free = self.budget - sum(self._reserved.values()) - sum(r.memory_bytes for r in staying)
            if free - self._activation_bytes(*(r.name for r in staying), *coming) >= size:
                return victims
        return victims if free >= size else None

    def _activation_bytes(self, *models: ModelName) -> int:
        """Return the bytes that must be kept within the budget for the largest forward pass of these models."""
        return max(max(map(self.activations.most, models), default=0) - self._spare, 0)

    def _grown(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: a batch has outlived the worker
            self._loop.call_soon_threadsafe(self._make_room_for_activations)

    def _make_room_for_activations(self) -> None:
        """Unload the least recently used models where a forward pass has turned out to need their memory."""
        for resident in (self._victims(0) or [])[: len(self._residents) - 1]:  # the last one is what ran
            self._retire(resident)

    def _retire(self, resident: Resident) -> asyncio.Task[int]:
        if resident.unloading is None:
            resident.unloading = asyncio.create_task(self._unload(resident))
        return resident.unloading

    async def _unload(self, resident: Resident) -> int:
        if resident.use_count:
            await resident.idle.wait()
        before = _used_bytes(self._device)
        if self._tier is not None and self._tier.make_room(resident.model_bytes):
            module = await asyncio.to_thread(move_to_host, resident.runner.module)
            self._tier.put(resident.name, module, resident.model_bytes)
            del module
        del self._residents[resident.name]
        del resident.runner  # whoever still holds the record must not hold the model
        await asyncio.to_thread(_release_memory)
        freed = max(before - _used_bytes(self._device), 0)
        _log.info("unloaded %s: memory in use fell by %.1f MB", resident.name, freed / 1e6)
        return freed


def _used_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _release_memory() -> None:
    """Give the memory that models left behind back to the system; the allocators would keep it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
