"""`zoofleet scheduler`, `worker` and `up`: the programs of a cluster."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet.errors import FailedPreconditionError, InvalidArgumentError


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others keep the configuration's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _targets(given: list[str] | None) -> tuple[str, ...] | None:
    """gRPC targets, also those that one value lists with commas; `ipv4:` and `ipv6:` targets have commas themselves."""
    targets: list[str] = []
    for value in given or ():
        targets += [value] if value.startswith(("ipv4:", "ipv6:")) else value.split(",")
    return tuple(targets) or None


def _missing(extra: str, error: ModuleNotFoundError) -> FailedPreconditionError:
    return FailedPreconditionError(f"{error.name or error} is not installed: pip install 'zoofleet[{extra}]'")


def _serve(main: Coroutine[Any, Any, None]) -> None:
    import asyncio
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main)


def scheduler(
    address: Annotated[
        str | None,
        typer.Option(envvar="ZOOFLEET_SCHEDULER_ADDRESS", help="host:port to listen on; 127.0.0.1:50051 by default."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(envvar="ZOOFLEET_REDIS_URL", help="redis://, rediss:// or unix:// URL of Redis 6.2 or newer."),
    ] = None,
    heartbeat_timeout: Annotated[
        float | None,
        typer.Option(envvar="ZOOFLEET_HEARTBEAT_TIMEOUT", help="Seconds until a silent worker is given up."),
    ] = None,
    lease: Annotated[
        float | None, typer.Option(envvar="ZOOFLEET_LEASE", help="Seconds that a chunk stays leased without renewal.")
    ] = None,
    chunk_items: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_CHUNK_ITEMS", help="Most items that are leased at once.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_MAX_ATTEMPTS", help="Dead workers an item may leave behind.")
    ] = None,
    max_item_bytes: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_MAX_ITEM_BYTES", help="Most bytes of an item.")
    ] = None,
    max_tenant_bytes: Annotated[
        int | None,
        typer.Option(envvar="ZOOFLEET_MAX_TENANT_BYTES", help="Most bytes of a tenant's items and results in Redis."),
    ] = None,
    max_stored_bytes: Annotated[
        int | None,
        typer.Option(envvar="ZOOFLEET_MAX_STORED_BYTES", help="Most bytes of all items and results in Redis."),
    ] = None,
    load_timeout: Annotated[
        float | None,
        typer.Option(
            envvar="ZOOFLEET_LOAD_TIMEOUT", help="Seconds that a job waits for a model that cannot be loaded."
        ),
    ] = None,
    default_ttl: Annotated[
        float | None, typer.Option(envvar="ZOOFLEET_DEFAULT_TTL", help="Seconds that finished jobs are kept.")
    ] = None,
    shutdown_grace: Annotated[
        float | None, typer.Option(envvar="ZOOFLEET_SHUTDOWN_GRACE", help="Seconds that calls have after SIGTERM.")
    ] = None,
) -> None:
    """Run a scheduler until SIGTERM: it queues jobs in Redis and hands them to workers."""
    try:
        from zoofleet.scheduler import SchedulerConfig, serve
    except ModuleNotFoundError as error:
        raise _missing("scheduler", error) from None
    options = _given(
        address=address,
        redis_url=redis_url,
        heartbeat_timeout=heartbeat_timeout,
        lease=lease,
        chunk_items=chunk_items,
        max_attempts=max_attempts,
        max_item_bytes=max_item_bytes,
        max_tenant_bytes=max_tenant_bytes,
        max_stored_bytes=max_stored_bytes,
        load_timeout=load_timeout,
        default_ttl=default_ttl,
        shutdown_grace=shutdown_grace,
    )
    _serve(serve(SchedulerConfig(**options)))


def worker(
    scheduler: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ZOOFLEET_SCHEDULER",
            help="A scheduler's host:port or gRPC target; repeatable, 127.0.0.1:50051 by default.",
        ),
    ] = None,
    standalone: Annotated[
        bool, typer.Option("--standalone", envvar="ZOOFLEET_STANDALONE", help="Serve alone, without a scheduler.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="ZOOFLEET_WORKER_ADDRESS", help="host:port to listen on; any free one of 127.0.0.1 by default."
        ),
    ] = None,
    advertise_address: Annotated[
        str | None,
        typer.Option(envvar="ZOOFLEET_ADVERTISE_ADDRESS", help="host:port at which schedulers dial this worker."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(envvar="ZOOFLEET_WORKER_NAME", help="The worker's id, unique; made up by default.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(envvar="ZOOFLEET_DEVICE", help="cpu, cuda:0 and so on, or auto, the default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_THREADS", help="CPU threads of a forward pass; all cores by default.")
    ] = None,
    decode_threads: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_DECODE_THREADS", help="Threads that decode; one a core by default.")
    ] = None,
    memory_budget_bytes: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_MEMORY_BUDGET_BYTES", help="What loaded models may take.")
    ] = None,
    max_item_bytes: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_MAX_ITEM_BYTES", help="Most bytes of an item.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(envvar="ZOOFLEET_MAX_PIXELS", help="Most pixels of an image or frame.")
    ] = None,
    uri_prefix: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ZOOFLEET_URI_PREFIXES", help="Prefix of URIs that may be read; repeatable, none by default."
        ),
    ] = None,
    grace: Annotated[
        float | None, typer.Option(envvar="ZOOFLEET_GRACE", help="Seconds that items have to finish after SIGTERM.")
    ] = None,
    hang_timeout: Annotated[
        float | None,
        typer.Option(
            envvar="ZOOFLEET_HANG_TIMEOUT", help="Seconds after which a batch counts as hung; 600 by default."
        ),
    ] = None,
) -> None:
    """Run a worker until SIGTERM: it hosts models on one device.

    It ends with exit code 70 where the device hangs, and must then be started again.
    """
    if standalone and scheduler:
        raise InvalidArgumentError(f"--standalone with the schedulers {scheduler}; give one or the other")
    try:
        from zoofleet.worker import WorkerConfig, serve
    except ModuleNotFoundError as error:
        raise _missing("worker", error) from None
    options = _given(
        schedulers=() if standalone else _targets(scheduler),
        address=address,
        advertise_address=advertise_address,
        name=name,
        device=device,
        threads=threads,
        decode_threads=decode_threads,
        memory_budget_bytes=memory_budget_bytes,
        max_item_bytes=max_item_bytes,
        max_pixels=max_pixels,
        uri_prefixes=tuple(uri_prefix) if uri_prefix else None,
        grace=grace,
        hang_timeout=hang_timeout,
    )
    _serve(serve(WorkerConfig(**options)))


def up(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The scheduler's port on 127.0.0.1; 0 for a free one.")
    ] = int(DEFAULT_ADDRESS.rpartition(":")[2]),
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="ZOOFLEET_DATA_DIR", help="Where jobs are kept; ~/.local/share/zoofleet by default.", file_okay=False
        ),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="ZOOFLEET_REDIS_URL", help="Use this Redis and start none.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers; one for each GPU, else one, by default.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(envvar="ZOOFLEET_DEVICE", help="cpu, or cuda:0 and so on; all GPUs, else cpu, by default."),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the address there once all is ready.", dir_okay=False)
    ] = None,
) -> None:
    """Run everything on this machine: Redis, a scheduler, and a worker for each device. Ctrl-C ends it.

    Jobs are kept in the data directory and go on at the next start.
    """
    import asyncio

    from zoofleet._local.up import UpConfig, default_data_dir, up

    config = UpConfig(
        port=port,
        data_dir=data_dir or default_data_dir(),
        redis_url=redis_url,
        workers=workers,
        device=device,
        ready_file=ready_file,
    )
    raise typer.Exit(asyncio.run(up(config)))
