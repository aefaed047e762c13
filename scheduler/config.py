"""The scheduler's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from zoofleet.errors import InvalidArgumentError

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Everything an operator can set on a scheduler. Times are in seconds.

    Attributes:
        address: host:port to listen on; port 0 takes a free one.
        redis_url: `redis://`, `rediss://` or `unix://` URL of a Redis 6.2 or newer.
        redis_timeout: how long a command may take before Redis counts as unreachable.
        heartbeat_interval: how often workers are told to beat.
        heartbeat_timeout: how long a worker may be silent before its work moves.
        lease: how long a chunk stays leased without a renewal.
        sweep_interval: how often expired leases, abandoned uploads and expired jobs are looked for.
        chunk_items: most items that are leased at once; 1 to 256.
        chunk_bytes: most bytes of items that are leased at once; a larger item is leased alone.
        inflight_bytes: most bytes of items on their way to one worker.
        max_attempts: worker processes that may die of an item before it is given up; at least 3.
        max_item_bytes: most bytes of a serialized item.
        max_job_items: most items in a job.
        max_tenant_jobs: most unfinished jobs of a tenant.
        max_tenant_bytes: most bytes of items and results that Redis holds for a tenant. No job is taken beyond, and a
            job whose results go beyond ends as FAILED.
        max_stored_bytes: the same over all tenants.
        upload_timeout: how long an upload may pause before it is discarded.
        default_ttl: how long a finished job is kept where it does not say.
        max_ttl: the longest that a job may ask to be kept.
        refusal_backoff: the first pause after a worker has refused a model; it doubles up to 30 s.
        load_timeout: how long a job waits for a model that none of the workers can load, before it ends as FAILED.
        stream_idle: how long a stream without work stays open.
        shutdown_grace: how long calls and chunks may take to end after SIGTERM.
    """

    address: str = "127.0.0.1:50051"
    redis_url: str = "redis://127.0.0.1:6379/0"
    redis_timeout: float = 5.0
    heartbeat_interval: float = 2.0
    heartbeat_timeout: float = 8.0
    lease: float = 10.0
    sweep_interval: float = 1.0
    chunk_items: int = 16
    chunk_bytes: int = 8 * _MIB
    inflight_bytes: int = 64 * _MIB
    max_attempts: int = 4
    max_item_bytes: int = 32 * _MIB
    max_job_items: int = 1_000_000
    max_tenant_jobs: int = 1_000
    max_tenant_bytes: int = 2048 * _MIB
    max_stored_bytes: int = 4096 * _MIB
    upload_timeout: float = 600.0
    default_ttl: float = 24 * 3600.0
    max_ttl: float = 30 * 24 * 3600.0
    refusal_backoff: float = 0.5
    load_timeout: float = 300.0
    stream_idle: float = 30.0
    shutdown_grace: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, str) and not value > 0:
                raise InvalidArgumentError(f"{name} is {value}; accepted: more than 0")
        if self.max_attempts < 3:
            # An item's first two attempts may have died of a neighbour; only from the third on is it alone.
            raise InvalidArgumentError(f"max_attempts is {self.max_attempts}; accepted: 3 or more")
        if self.chunk_items > 256:
            raise InvalidArgumentError(f"chunk_items is {self.chunk_items}; accepted: 1 to 256")
        if self.redis_timeout >= self.lease:
            # Leases must not expire unnoticed while Redis hangs.
            raise InvalidArgumentError(
                f"redis_timeout is {self.redis_timeout:g} s; accepted: less than the lease of {self.lease:g} s"
            )
        if self.heartbeat_timeout <= self.heartbeat_interval:
            raise InvalidArgumentError(
                f"heartbeat_timeout is {self.heartbeat_timeout:g} s; accepted: more than the heartbeat_interval of "
                f"{self.heartbeat_interval:g} s"
            )
