"""The scheduler's settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from zoofleet._serving.settings import Settings, setting
from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet._wire.limits import DEFAULT_MAX_ITEM_BYTES

__all__ = ["SchedulerConfig"]

_MIB: Final = 1024 * 1024
_HOUR: Final = 3600.0

_LEASES: Final = "Workers and leases"
_LIMITS: Final = "Limits"
_TIMES: Final = "Waiting and ending"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig(Settings):
    """The settings of a scheduler; each field says what it does."""

    address: str = setting(
        DEFAULT_ADDRESS,
        "host:port to listen on; port 0 takes a free one.",
        metavar="HOST:PORT",
        accepts="host:port",
        variable="ZOOFLEET_SCHEDULER_ADDRESS",
    )
    redis_url: str = setting(
        "redis://127.0.0.1:6379/0",
        "URL of a Redis 6.2 or newer. Give one with a password by the variable: other users of the machine can read "
        "command lines.",
        metavar="URL",
        matches=re.compile(r"(rediss?|unix)://").match,
        accepts="a URL that begins with redis://, rediss:// or unix://",
        secret=True,
    )
    default_ttl: float = setting(
        24 * _HOUR, "How long a finished job is kept where it does not say.", unit="seconds", more_than=0
    )
    default_precision: str = setting(
        "exact",
        "Precision of tasks that ask for none: exact, or fast for the fastest way of running a model that was found to "
        "give nearly the same.",
        metavar="PRECISION",
        matches=re.compile("exact|fast").fullmatch,
        accepts="exact or fast",
    )
    max_tenant_bytes: int = setting(
        2048 * _MIB,
        "Most bytes of items and results that Redis holds for a tenant. No job is taken beyond, and a job whose "
        "results go beyond ends as FAILED.",
        unit="bytes",
        minimum=1,
    )
    max_stored_bytes: int = setting(
        4096 * _MIB,
        "Most bytes of items and results that Redis holds for all tenants together. No job is taken beyond, and a job "
        "whose results go beyond ends as FAILED.",
        unit="bytes",
        minimum=1,
    )

    heartbeat_interval: float = setting(
        2.0, "How often workers are told to send heartbeats.", unit="seconds", more_than=0, panel=_LEASES
    )
    heartbeat_timeout: float = setting(
        8.0,
        "How long a worker may be silent before its work goes to others.",
        unit="seconds",
        more_than=0,
        greater_than="heartbeat_interval",
        panel=_LEASES,
    )
    lease: float = setting(
        10.0,
        "How long a chunk stays leased to a worker without a renewal.",
        unit="seconds",
        more_than=0,
        panel=_LEASES,
    )
    chunk_items: int = setting(
        16, "Most items that are leased at once.", unit="items", minimum=1, maximum=256, panel=_LEASES
    )
    chunk_bytes: int = setting(
        8 * _MIB,
        "Most bytes of items that are leased at once; a larger item is leased alone.",
        unit="bytes",
        minimum=1,
        panel=_LEASES,
    )
    inflight_bytes: int = setting(
        64 * _MIB, "Most bytes of items on their way to one worker.", unit="bytes", minimum=1, panel=_LEASES
    )
    # An item's first two attempts may have died of a neighbour; only from the third on is it alone.
    max_attempts: int = setting(
        4,
        "Worker processes that may die of an item before it is given up.",
        unit="attempts",
        minimum=3,
        panel=_LEASES,
    )
    refusal_backoff: float = setting(
        0.5,
        "First pause after a worker has refused a model; it doubles with each refusal, up to 30 seconds.",
        unit="seconds",
        more_than=0,
        panel=_LEASES,
    )
    load_timeout: float = setting(
        300.0,
        "How long a job waits for a model that none of the workers can load, before it ends as FAILED.",
        unit="seconds",
        more_than=0,
        panel=_LEASES,
    )

    max_item_bytes: int = setting(
        DEFAULT_MAX_ITEM_BYTES, "Most bytes of a serialized item.", unit="bytes", minimum=1, panel=_LIMITS
    )
    max_job_items: int = setting(1_000_000, "Most items in a job.", unit="items", minimum=1, panel=_LIMITS)
    max_tenant_jobs: int = setting(1_000, "Most unfinished jobs of a tenant.", unit="jobs", minimum=1, panel=_LIMITS)
    max_ttl: float = setting(
        30 * 24 * _HOUR, "Longest time that a job may ask to be kept.", unit="seconds", more_than=0, panel=_LIMITS
    )

    # Leases must not expire unnoticed while Redis hangs.
    redis_timeout: float = setting(
        5.0,
        "How long a command may take before Redis counts as unreachable.",
        unit="seconds",
        more_than=0,
        less_than="lease",
        panel=_TIMES,
    )
    sweep_interval: float = setting(
        1.0,
        "How often the scheduler looks for expired leases, abandoned uploads and expired jobs.",
        unit="seconds",
        more_than=0,
        panel=_TIMES,
    )
    upload_timeout: float = setting(
        600.0, "How long an upload may pause before it is discarded.", unit="seconds", more_than=0, panel=_TIMES
    )
    stream_idle: float = setting(
        30.0, "How long a stream to a worker stays open without work.", unit="seconds", more_than=0, panel=_TIMES
    )
    shutdown_grace: float = setting(
        10.0, "How long calls and chunks may take to end after SIGTERM.", unit="seconds", more_than=0, panel=_TIMES
    )
