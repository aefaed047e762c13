"""What the machine has for a worker: a device, and memory on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import torch

from zoofleet.errors import InvalidArgumentError

_BUDGET_SHARE: Final = 0.6
"""Share of the free memory that models may take by default; the rest is for inputs, activations and outputs."""

_CGROUP_MEMORY: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Files that hold the limit and the use of the process's own cgroup, for versions 2 and 1 of cgroups."""


def find_device(name: str) -> torch.device:
    """Return the device of a name that `WorkerConfig.device` accepts: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InvalidArgumentError: this machine has no such CUDA device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise InvalidArgumentError(f"device is {name!r}; CUDA devices here: {torch.cuda.device_count()}")
    return torch.device("cuda", index)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on the device, on a CPU in the machine or the process's cgroup if that is less."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return int(min(psutil.virtual_memory().available, _cgroup_available()))


def default_memory_budget(free: int, sharers: int) -> int:
    """Return the bytes that the models' parameters and buffers may take where no setting says it.

    Args:
        free: bytes that are free on the device.
        sharers: number of workers that start on the device at once, of which this is one.
    """
    return int(_BUDGET_SHARE * free / sharers)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a device, in bytes.

    Attributes:
        used: what is in use, by whatever process; on a CPU, in the machine.
        total: all there is.
        reserved: what this process has taken: on a CUDA device through torch's allocator, else its resident memory.
    """

    used: int
    total: int
    reserved: int


def device_memory(device: torch.device) -> DeviceMemory:
    """Return how the device's memory is used now."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total - free, total, torch.cuda.memory_reserved(device))
    machine = psutil.virtual_memory()
    return DeviceMemory(machine.total - machine.available, machine.total, psutil.Process().memory_info().rss)


def _cgroup_available() -> float:
    """Return the bytes left in the process's own memory cgroup; infinite where it has no limit."""
    for limit, used in _CGROUP_MEMORY:
        try:
            return max(int(limit.read_text()) - int(used.read_text()), 1)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return float("inf")
