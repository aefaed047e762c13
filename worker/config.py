"""The worker's settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from zoofleet._serving.settings import Settings, setting
from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet._wire.limits import DEFAULT_MAX_ITEM_BYTES, WORKER_STREAM_ITEMS
from zoofleet._wire.names import WORKER_ID_RULE, is_worker_id

__all__ = ["WorkerConfig"]

_MIB: Final = 1024 * 1024

_DEVICE: Final = "Device, threads and memory"
_LIMITS: Final = "Limits"
_ENDING: Final = "Ending"

_BATCH_SIZES: Final = MappingProxyType(
    {"classify": 16, "segment": 4, "detect": 4, "classify_clip": 2, "estimate_flow": 2}
)

_CUDA_BATCH_SIZES: Final = MappingProxyType(
    {"classify": 64, "segment": 16, "detect": 8, "classify_clip": 8, "estimate_flow": 4}
)

_INFLIGHT_ITEMS: Final = 64
_CUDA_INFLIGHT_ITEMS: Final = 256
"""Four full batches: two in flight, one prepared, one being decoded."""
_CUDA_STREAM_ITEMS: Final = 192
"""As much of the worker's items as `WORKER_STREAM_ITEMS` is of a CPU worker's."""


def _targets(values: Sequence[str]) -> tuple[str, ...]:
    """Return gRPC targets, also those that one value lists with commas; `ipv4:` and `ipv6:` targets have commas."""
    targets: list[str] = []
    for value in values:
        targets += [value] if value.startswith(("ipv4:", "ipv6:")) else value.split(",")
    return tuple(targets)


def _sizes(values: Sequence[str]) -> dict[str, int]:
    """Return sizes by kind of task, of texts such as `detect=8` or `detect=8,segment=2`."""
    pairs = [pair.partition("=") for value in values for pair in value.split(",")]
    return {kind: int(size) for kind, _, size in pairs}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig(Settings):
    """The settings of a worker; each field says what it does."""

    schedulers: tuple[str, ...] = setting(
        (DEFAULT_ADDRESS,),
        "A scheduler to register with: host:port, or another gRPC target. Repeatable; values may also list several "
        "with commas. A worker without schedulers (--standalone) serves on its own.",
        metavar="TARGET",
        matches=re.compile(r"\s*\S+\s*").fullmatch,
        accepts="host:port, or another gRPC target",
        option="--scheduler",
        variable="ZOOFLEET_SCHEDULER",
        parse=_targets,
    )
    address: str = setting(
        "127.0.0.1:0",
        "host:port to listen on; port 0 takes a free one.",
        metavar="HOST:PORT",
        accepts="host:port",
        variable="ZOOFLEET_WORKER_ADDRESS",
    )
    advertise_address: str | None = setting(
        None,
        "host:port at which schedulers dial this worker.",
        metavar="HOST:PORT",
        accepts="host:port",
        unset="the address that it listens on",
    )
    name: str | None = setting(
        None,
        "The worker's id, unique in its fleet.",
        metavar="NAME",
        matches=is_worker_id,
        accepts=WORKER_ID_RULE,
        unset="made up",
        variable="ZOOFLEET_WORKER_NAME",
    )
    device: str = setting(
        "auto",
        "The device to run models on; auto takes the first CUDA device, or the CPU where there is none.",
        metavar="DEVICE",
        matches=re.compile(r"auto|cpu|cuda(:\d{1,3})?").fullmatch,
        accepts="auto, cpu, cuda:0 and so on",
    )
    uri_prefixes: tuple[str, ...] = setting(
        (),
        "Prefix of the URIs from which media may be read. Repeatable.",
        metavar="PREFIX",
        matches=re.compile(r"file:///|https?://").match,
        accepts="file:///, http:// and https://",
        unset="none",
        option="--uri-prefix",
    )

    batch_sizes: Mapping[str, int] = setting(
        _BATCH_SIZES,
        "Most items of a kind of task in one forward pass; batches grow up to it while that makes the device faster. "
        "Repeatable; values may also list several kinds with commas. Kinds that are left out keep their default, which "
        f"is another on a CUDA device: {' '.join(f'{kind}={size}' for kind, size in _CUDA_BATCH_SIZES.items())}.",
        unit="items",
        minimum=1,
        metavar="KIND=ITEMS",
        accepts=f"KIND=ITEMS, with KIND one of {', '.join(_BATCH_SIZES)}, and 1 or more items",
        option="--batch-size",
        parse=_sizes,
        panel=_DEVICE,
    )
    threads: int | None = setting(
        None,
        "CPU threads of a forward pass.",
        unit="threads",
        minimum=1,
        unset="one for each core that the process may use",
        panel=_DEVICE,
    )
    decode_threads: int | None = setting(
        None,
        "Threads that decode and preprocess.",
        unit="threads",
        minimum=1,
        unset="one for each core that the process may use, but at most 8",
        panel=_DEVICE,
    )
    memory_budget_bytes: int | None = setting(
        None,
        "Most bytes that the parameters and buffers of all loaded models may take.",
        unit="bytes",
        minimum=1,
        unset="60 % of what is free at the start, divided by device_sharers: on a CUDA device, or in memory or the "
        "cgroup if that is less",
        panel=_DEVICE,
    )
    device_sharers: int = setting(
        1,
        "Workers that start on this device, or on this machine's CPU, at about the same time, this one among them: the "
        "default memory budget is divided by it. 'zoofleet up' sets it.",
        unit="workers",
        minimum=1,
        panel=_DEVICE,
    )
    default_precision: str = setting(
        "exact",
        "Precision of tasks that reach this worker directly and ask for none. A scheduler has its own setting for its "
        "clients.",
        metavar="PRECISION",
        matches=re.compile("exact|fast").fullmatch,
        accepts="exact or fast",
        variable="ZOOFLEET_WORKER_DEFAULT_PRECISION",
        panel=_DEVICE,
    )
    plan_cache: str | None = setting(
        None,
        "Folder of what was found about the fastest ways of running models, and of compiled models. They are programs: "
        "only this user may be able to write to it. Workers may share it.",
        metavar="FOLDER",
        accepts="a folder",
        unset="zoofleet-plans beside torch.hub's weight files",
        panel=_DEVICE,
    )
    plan_timeout: float = setting(
        900.0,
        "How long the search for the fastest way of running a model may take, in the background, before it ends with "
        "what it has found.",
        unit="seconds",
        more_than=0,
        panel=_DEVICE,
    )
    quantized_plans: str = setting(
        "no",
        "Whether FAST may run a classifier in INT8 where the zoo has such a form and it follows EXACT. Its rounding is "
        "coarser than bfloat16's: measure its accuracy on your own pictures (zoofleet evaluate --precision fast).",
        metavar="YES|NO",
        matches=re.compile("yes|no").fullmatch,
        accepts="yes or no",
        panel=_DEVICE,
    )
    max_prepared_bytes: int = setting(
        512 * _MIB,
        "Most bytes of preprocessed inputs that wait for the device; decoding pauses beyond.",
        unit="bytes",
        minimum=1,
        panel=_DEVICE,
    )

    max_inflight_items: int | None = setting(
        None,
        "Most items that are worked on at once over all streams; reading pauses beyond. Those of jobs leave an eighth "
        "of them to others.",
        unit="items",
        minimum=1,
        unset=f"{_INFLIGHT_ITEMS}, on a CUDA device {_CUDA_INFLIGHT_ITEMS}",
        panel=_LIMITS,
    )
    max_stream_items: int | None = setting(
        None,
        "Most items of one stream that are worked on at once.",
        unit="items",
        minimum=1,
        unset=f"{WORKER_STREAM_ITEMS}, on a CUDA device {_CUDA_STREAM_ITEMS}",
        panel=_LIMITS,
    )
    max_streams: int = setting(
        256, "Most streams that are open at once; further ones are refused.", unit="streams", minimum=1, panel=_LIMITS
    )
    max_item_bytes: int = setting(
        DEFAULT_MAX_ITEM_BYTES, "Most bytes of an encoded item.", unit="bytes", minimum=1, panel=_LIMITS
    )
    max_pixels: int = setting(
        50_000_000, "Most pixels of one image or video frame.", unit="pixels", minimum=1, panel=_LIMITS
    )
    max_flow_pixels: int = setting(
        1920 * 1088,
        "Most pixels of one image of a pair for optical flow. Its memory grows with their square: it takes 6 GB at the "
        "default, which is 1920 × 1088.",
        unit="pixels",
        minimum=1,
        panel=_LIMITS,
    )
    max_video_bytes: int = setting(
        1024 * _MIB,
        "Most bytes of a video for AnalyzeVideo, which is kept in the temporary directory meanwhile.",
        unit="bytes",
        minimum=1,
        panel=_LIMITS,
    )

    grace: float = setting(
        30.0, "How long items in flight may take to finish after SIGTERM.", unit="seconds", minimum=0, panel=_ENDING
    )
    hang_timeout: float = setting(
        600.0,
        "How long a batch may take before it counts as hung; the worker then gives up and its process ends.",
        unit="seconds",
        more_than=0,
        panel=_ENDING,
    )

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA device. False while it is still `auto`; `Worker` says which one that is."""
        return self.device.startswith("cuda")

    def batch_size(self, kind: str) -> int:
        """Return the most items of a kind of task, such as `detect`, in one forward pass."""
        if not self.on_cuda:
            return self.batch_sizes.get(kind, _BATCH_SIZES[kind])
        given = {} if self.batch_sizes is _BATCH_SIZES else self.batch_sizes
        return given.get(kind, _CUDA_BATCH_SIZES[kind])

    def resolved_inflight_items(self) -> int:
        """Return the most items that are worked on at once over all streams."""
        return self.max_inflight_items or (_CUDA_INFLIGHT_ITEMS if self.on_cuda else _INFLIGHT_ITEMS)

    def resolved_stream_items(self) -> int:
        """Return the most items of one stream that are worked on at once."""
        return self.max_stream_items or (_CUDA_STREAM_ITEMS if self.on_cuda else WORKER_STREAM_ITEMS)

    def resolved_threads(self) -> int:
        """Return the number of CPU threads of a forward pass."""
        return self.threads or len(os.sched_getaffinity(0))

    def resolved_decode_threads(self) -> int:
        """Return the number of threads that decode and preprocess."""
        return self.decode_threads or min(len(os.sched_getaffinity(0)), 8)
