"""How much memory forward passes take beside the model, measured."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import torch

from zoofleet._catalog import ModelName
from zoofleet.worker.plan import Plan

__all__ = ["Activations"]

_SHAPES: Final = 1024
"""How many shapes are remembered, the last ones seen; images of detectors come in any size."""

_RUNS: Final = 2
"""How often a shape is measured. The least counts: on a CPU, what other threads took meanwhile is in the number."""

_RESET_PEAK: Final = "5"
"""What resets a process's peak resident memory, written to its clear_refs (proc_pid_clear_refs(5))."""

_Shape: TypeAlias = tuple[ModelName, Plan, tuple[int, ...], int]


class Activations:
    """The memory that forward passes have taken by (model, plan, key, batch).

    On a CUDA device that is the peak of torch's allocator, on a CPU the peak of the process's resident memory, both
    beyond what there was before. A forward pass of a shape that has been measured costs nothing.

    Args:
        device: the device that models run on.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_growth: Callable[[], object] = lambda: None
        """Called in the device's thread when a forward pass has taken more than any of its model before."""
        self._device = device
        self._taken: OrderedDict[_Shape, tuple[int, int]] = OrderedDict()  # bytes, and how often measured
        self._lock = threading.Lock()

    def most(self, model: ModelName) -> int:
        """Return the most bytes that a forward pass of a model has taken; 0 before the first one."""
        with self._lock:
            return max((size for (name, *_), (size, _) in self._taken.items() if name == model), default=0)

    def note(self, model: ModelName, plan: Plan, key: tuple[int, ...], count: int, size: int) -> None:
        """Remember that a forward pass of `count` items has taken `size` bytes."""
        before = self.most(model)
        with self._lock:
            least, runs = self._taken.pop((model, plan, key, count), (size, 0))
            self._taken[model, plan, key, count] = (min(least, size), runs + 1)
            while len(self._taken) > _SHAPES:
                self._taken.popitem(last=False)
        if self.most(model) > before:
            self.on_growth()

    @contextlib.contextmanager
    def measured(self, model: ModelName, plan: Plan, key: tuple[int, ...], count: int) -> Iterator[None]:
        """Measure the forward pass of the block, in the device's thread, unless its shape is known well enough."""
        with self._lock:
            _, runs = self._taken.get((model, plan, key, count), (0, 0))
        if runs >= _RUNS:
            yield
            return
        before = self._start()
        yield  # a pass that fails tells nothing
        self.note(model, plan, key, count, max(self._peak() - before, 0))

    def _start(self) -> int:
        """Forget the peak until now, and return the bytes in use."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        with contextlib.suppress(OSError):  # a kernel without it, or one that does not let us
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        return _status("VmRSS")

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status("VmHWM")


def _status(field: str) -> int:
    """Return the bytes in a field of the process's status; 0 where there is no such thing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024  # in kB, which are KiB (proc_pid_status(5))
    return 0
