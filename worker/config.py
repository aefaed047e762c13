"""What an operator can set on a worker."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psutil
import torch

from zoofleet._wire.kinds import TASK_KINDS
from zoofleet.errors import InvalidArgumentError

__all__ = ["WorkerConfig"]

_BATCH_SIZES: Final = MappingProxyType(
    {"classify": 16, "segment": 4, "detect": 4, "classify_clip": 2, "estimate_flow": 2}
)

_CGROUP_MEMORY: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """A worker's settings.

    Attributes:
        schedulers: gRPC targets of the schedulers to register with, mostly host:port; none to serve on its own.
        address: host:port to listen on; port 0 for any free one.
        advertise_address: host:port at which schedulers dial this worker; None for the one it listens on.
        name: the worker's id, unique in its fleet: 1 to 63 lower-case letters, digits and dashes; None to make one up.
        device: `cpu`, `cuda:0` and so on, or `auto` for the first CUDA device, else the CPU.
        threads: CPU threads of a forward pass, 1 or more; None for the cores that the process may use.
        decode_threads: threads that decode and preprocess, 1 or more; None for one a core, at most 8.
        memory_budget_bytes: what the parameters and buffers of all loaded models may take; None for 60 % of what is
            free at the start, on the device, or in memory or the cgroup if that is less.
        batch_sizes: most items in one forward pass by kind of task, 1 or more; kinds left out keep their default.
        max_inflight_items: items that are worked on at once over all streams; reading stops beyond.
        max_stream_items: items of one stream that are worked on at once.
        max_streams: streams open at once; further ones are refused.
        max_prepared_bytes: preprocessed inputs that wait for the device; decoding pauses beyond.
        max_item_bytes: bytes of an encoded item.
        max_pixels: pixels of one image or video frame.
        max_flow_pixels: pixels of one image of a pair for optical flow, whose memory grows with their square: 6 GB at
            this default, which is 1920 x 1088.
        max_video_bytes: bytes of a video for `AnalyzeVideo`, spooled to the temporary directory.
        uri_prefixes: `file://` and `http(s)://` prefixes from which media may be read by URI.
        grace: seconds that items in flight have to finish after SIGTERM.
        hang_timeout: seconds after which a batch counts as hung, whereupon the worker gives up and its process ends.

    Raises:
        InvalidArgumentError: a value out of range; names it.
    """

    schedulers: tuple[str, ...] = ("127.0.0.1:50051",)
    address: str = "127.0.0.1:0"
    advertise_address: str | None = None
    name: str | None = None
    device: str = "auto"
    threads: int | None = None
    decode_threads: int | None = None
    memory_budget_bytes: int | None = None
    batch_sizes: Mapping[str, int] = field(default_factory=lambda: _BATCH_SIZES)
    max_inflight_items: int = 64
    max_stream_items: int = 48
    max_streams: int = 256
    max_prepared_bytes: int = 512 * 1024 * 1024
    max_item_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_flow_pixels: int = 1920 * 1088
    max_video_bytes: int = 1024 * 1024 * 1024
    uri_prefixes: tuple[str, ...] = ()
    grace: float = 30.0
    hang_timeout: float = 600.0

    def __post_init__(self) -> None:
        unknown = self.batch_sizes.keys() - _BATCH_SIZES.keys()
        if unknown:
            raise InvalidArgumentError(f"batch_sizes has {sorted(unknown)}; kinds are {[k.field for k in TASK_KINDS]}")
        positive: dict[str, int | None] = {f"batch_sizes[{kind!r}]": size for kind, size in self.batch_sizes.items()}
        for name in (
            *("threads", "decode_threads", "memory_budget_bytes", "max_inflight_items", "max_stream_items"),
            *("max_streams", "max_prepared_bytes", "max_item_bytes", "max_pixels", "max_flow_pixels"),
            "max_video_bytes",
        ):
            positive[name] = getattr(self, name)
        for name, value in positive.items():
            if value is not None and value < 1:
                raise InvalidArgumentError(f"{name} is {value}; accepted: 1 or more")
        if self.name is not None and not re.fullmatch(r"[a-z0-9-]{1,63}", self.name):
            raise InvalidArgumentError(f"name is {self.name!r}; accepted: 1 to 63 lower-case letters, digits, dashes")
        if not self.grace >= 0:
            raise InvalidArgumentError(f"grace is {self.grace}; accepted: 0 or more seconds")
        if not self.hang_timeout > 0:
            raise InvalidArgumentError(f"hang_timeout is {self.hang_timeout}; accepted: more than 0 seconds")
        for scheduler in self.schedulers:
            if not scheduler or len(scheduler.split()) != 1:
                raise InvalidArgumentError(f"schedulers has {scheduler!r}; accepted: host:port, or another gRPC target")
        for prefix in self.uri_prefixes:
            if not prefix.startswith(("file:///", "http://", "https://")):
                raise InvalidArgumentError(f"uri_prefixes has {prefix!r}; accepted: file:///, http:// and https://")

    def batch_size(self, kind: str) -> int:
        """Most items of that kind of task in one forward pass."""
        return self.batch_sizes.get(kind, _BATCH_SIZES[kind])

    def resolved_device(self) -> torch.device:
        """The device to run on.

        Raises:
            InvalidArgumentError: it is not there.
        """
        if self.device == "auto":
            return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", self.device):
            raise InvalidArgumentError(f"device is {self.device!r}; accepted: auto, cpu, cuda:0 and so on")
        if self.device == "cpu":
            return torch.device("cpu")
        index = int(self.device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise InvalidArgumentError(f"device is {self.device!r}; CUDA devices here: {torch.cuda.device_count()}")
        return torch.device("cuda", index)

    def resolved_threads(self) -> int:
        """CPU threads of a forward pass."""
        return self.threads or len(os.sched_getaffinity(0))

    def resolved_decode_threads(self) -> int:
        """Threads that decode and preprocess."""
        return self.decode_threads or min(len(os.sched_getaffinity(0)), 8)

    def resolved_memory_budget(self, device: torch.device) -> int:
        """Bytes that the models' parameters and buffers may take on the device."""
        if self.memory_budget_bytes is not None:
            return self.memory_budget_bytes
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            return int(0.6 * free)
        return int(0.6 * min(psutil.virtual_memory().available, _cgroup_available()))


def _cgroup_available() -> float:
    """Bytes left in the process's own memory cgroup; infinite without a limit."""
    for limit, used in _CGROUP_MEMORY:
        try:
            return max(int(limit.read_text()) - int(used.read_text()), 1)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return float("inf")
