"""The way of tensors to the device and back.

On CUDA both ways go through slabs: pinned buffers that are used again once the copy from or to them is over. Then
copies overlap with what the device computes, and two batches may be in flight.

Shapes: N items in a batch.
"""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = ["CudaTransfer", "Event", "HostTransfer", "SlabTransfer", "Transfer", "transfer_for"]

_Outputs: TypeAlias = Sequence[Mapping[str, Tensor]]

_SLABS: Final = 6
"""Most slabs to copy from: two batches in flight of the two pictures of a pair, and two to be filled meanwhile."""


class Transfer(ABC):
    """Copies between the host and a device. Everything but `released` is called in the device's thread alone."""

    depth: int = 1
    """How many batches may be in flight."""

    @abstractmethod
    def to_device(self, tensors: Sequence[Tensor], memory_format: torch.memory_format) -> Tensor:
        """Stack tensors of one shape and dtype to (N, ...) on the device."""

    @abstractmethod
    def to_host(self, outputs: _Outputs) -> Callable[[], _Outputs]:
        """Begin to copy the outputs of a batch to the host.

        Returns:
            What waits for the copy, and with it for the batch, and returns the outputs, then on the CPU. Errors of the
            device show there.
        """

    def is_lost(self) -> bool:
        """Return whether nothing can be expected of the device any more. Asked after an exception."""
        return False

    @abstractmethod
    def release(self) -> None:
        """Give memory that is kept for later back to the device."""


class HostTransfer(Transfer):
    """Where the device is the CPU, nothing is copied but into the batch."""

    def to_device(self, tensors: Sequence[Tensor], memory_format: torch.memory_format) -> Tensor:
        """Stack tensors of one shape and dtype to (N, ...), in one pass."""
        if len(tensors) == 1:
            return tensors[0][None].contiguous(memory_format=memory_format)
        first = tensors[0]
        batch = torch.empty((len(tensors), *first.shape), dtype=first.dtype, memory_format=memory_format)
        for place, tensor in zip(batch, tensors, strict=True):
            place.copy_(tensor)
        return batch

    def to_host(self, outputs: _Outputs) -> Callable[[], _Outputs]:
        """Return the outputs as they are."""
        return lambda: outputs

    def release(self) -> None:
        """Do nothing: the host's allocator keeps no large memory."""


class Event(Protocol):
    """A place in what the device has been given to do, such as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Return whether the device has come there."""

    def synchronize(self) -> None:
        """Wait until it has."""


@dataclass(slots=True)
class _Slab:
    """A buffer to copy from.

    Attributes:
        buffer: uint8 (bytes,), pinned.
        free: the last copy from it is over.
    """

    buffer: Tensor
    free: Event


class SlabTransfer(Transfer):
    """Copies through slabs. Subclasses say what a buffer, a copy and an event are."""

    depth = 2

    def __init__(self) -> None:
        self._up: deque[_Slab] = deque()  # the one whose copy began first is first
        self._uploading = threading.Lock()  # models are warmed up in threads that load, beside the device's thread
        self._down: list[Tensor] = []  # the buffers that nobody waits for

    @abstractmethod
    def allocate(self, nbytes: int) -> Tensor:
        """Return a pinned buffer, uint8 (nbytes,)."""

    @abstractmethod
    def upload(self, tensor: Tensor) -> Tensor:
        """Begin to copy a tensor in a slab to the device, and return the copy."""

    @abstractmethod
    def download(self, tensor: Tensor, into: Tensor) -> None:
        """Begin to copy a tensor from the device into a slab."""

    @abstractmethod
    def record(self) -> Event:
        """Return the event that all that was given to the device so far is done."""

    def is_away(self, tensor: Tensor) -> bool:
        """Return whether a tensor is on the device."""
        return tensor.device.type != "cpu"

    def to_device(self, tensors: Sequence[Tensor], memory_format: torch.memory_format) -> Tensor:
        """Stack tensors of one shape and dtype in a slab, and copy it to (N, ...) on the device."""
        first = tensors[0]
        nbytes = first.nbytes * len(tensors)
        with self._uploading:
            slab = self._slab(nbytes)
            stacked = slab.buffer[:nbytes].view(first.dtype).view(len(tensors), *first.shape)
            torch.stack(list(tensors), out=stacked)
            batch = self.upload(stacked)
            slab.free = self.record()
        return batch.contiguous(memory_format=memory_format)

    def to_host(self, outputs: _Outputs) -> Callable[[], _Outputs]:
        """Pack the outputs into one run of bytes, and begin to copy that to the host."""
        tensors = [value for output in outputs for value in output.values() if self.is_away(value)]
        tensors.sort(key=lambda tensor: -tensor.element_size())  # then each begins where its type may
        if not tensors:
            return lambda: outputs
        packed = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors])
        buffer = self._down.pop() if self._down else None
        if buffer is None or buffer.nbytes < packed.nbytes:
            buffer = self.allocate(packed.nbytes)
        self.download(packed, buffer[: packed.nbytes])
        done = self.record()

        def wait() -> _Outputs:
            done.synchronize()
            # Outputs live until their items are finished, which is longer than a slab may be kept.
            runs = torch.split(buffer[: packed.nbytes].clone(), [tensor.nbytes for tensor in tensors])
            self._down.append(buffer)
            hosts = {
                id(tensor): run.view(tensor.dtype).view(tensor.shape) for tensor, run in zip(tensors, runs, strict=True)
            }
            return [{name: hosts.get(id(value), value) for name, value in output.items()} for output in outputs]

        return wait

    def _slab(self, nbytes: int) -> _Slab:
        """Return a slab of at least `nbytes` from which nothing is copied any more."""
        if not self._up or (len(self._up) < _SLABS and not self._up[0].free.query()):
            slab = _Slab(self.allocate(nbytes), self.record())
        else:
            slab = self._up.popleft()
            slab.free.synchronize()
            if slab.buffer.nbytes < nbytes:
                slab.buffer = self.allocate(nbytes)
        self._up.append(slab)
        return slab


class CudaTransfer(SlabTransfer):
    """Copies between the host and a CUDA device, on the current stream.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def allocate(self, nbytes: int) -> Tensor:
        """Return a pinned buffer, uint8 (nbytes,)."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def upload(self, tensor: Tensor) -> Tensor:
        """Begin to copy a tensor in a slab to the device, and return the copy."""
        return tensor.to(self._device, non_blocking=True)

    def download(self, tensor: Tensor, into: Tensor) -> None:
        """Begin to copy a tensor from the device into a slab."""
        into.copy_(tensor, non_blocking=True)

    def record(self) -> Event:
        """Return the event that all that was given to the device so far is done."""
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for it
        event.record(torch.cuda.current_stream(self._device))
        done: Event = event
        return done

    def is_lost(self) -> bool:
        """Return whether the context is poisoned: after an illegal access, say, every later call fails too."""
        try:
            torch.cuda.synchronize(self._device)
        except Exception:  # noqa: BLE001 - torch raises several kinds, by version
            return True
        return False

    def release(self) -> None:
        """Give memory that is kept for later back to the device."""
        torch.cuda.empty_cache()


@functools.cache
def transfer_for(device: torch.device) -> Transfer:
    """Return the one transfer of a device."""
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()
