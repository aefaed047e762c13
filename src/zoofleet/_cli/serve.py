"""`zoofleet scheduler`, `worker` and `up`: the programs of a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from zoofleet._cli.settings import settings_from, takes, written_as
from zoofleet._wire.address import DEFAULT_PORT
from zoofleet.errors import FailedPreconditionError, InvalidArgumentError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.worker.config import WorkerConfig


def _missing(extra: str, error: ModuleNotFoundError) -> FailedPreconditionError:
    """Return the error that says which extra to install for a module that is missing."""
    return FailedPreconditionError(f"{error.name or error} is not installed: pip install 'zoofleet[{extra}]'")


def _serve(main: Coroutine[Any, Any, None]) -> None:
    """Run a server to its end, with its log on stderr."""
    import asyncio
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main)


@takes(SchedulerConfig)
def scheduler(*, context: typer.Context, **options: Any) -> None:
    """Run a scheduler until SIGTERM: it queues jobs in Redis and hands them to workers."""
    config = settings_from(SchedulerConfig, context, options)
    try:
        from zoofleet.scheduler import serve
    except ModuleNotFoundError as error:
        raise _missing("scheduler", error) from None
    _serve(serve(config))


@takes(WorkerConfig)
def worker(
    *,
    context: typer.Context,
    standalone: Annotated[
        bool, typer.Option("--standalone", envvar="ZOOFLEET_STANDALONE", help="Serve alone, without a scheduler.")
    ] = False,
    **options: Any,
) -> None:
    """Run a worker until SIGTERM: it hosts models on one device.

    It ends with exit code 70 where the device hangs, and must then be started again.
    """
    if standalone and options["schedulers"]:
        raise InvalidArgumentError(
            f"--standalone (ZOOFLEET_STANDALONE) with the schedulers {options['schedulers']} (--scheduler, "
            "ZOOFLEET_SCHEDULER); give one or the other"
        )
    config = settings_from(WorkerConfig, context, options)
    try:
        from zoofleet.worker import serve
    except ModuleNotFoundError as error:
        raise _missing("worker", error) from None
    _serve(serve(dataclasses.replace(config, schedulers=()) if standalone else config))


def up(
    context: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The scheduler's port on 127.0.0.1; 0 for a free one.")
    ] = DEFAULT_PORT,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="ZOOFLEET_DATA_DIR", help="Where jobs are kept; ~/.local/share/zoofleet by default.", file_okay=False
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            envvar="ZOOFLEET_REDIS_URL",
            metavar="URL",
            help="Use this Redis and start none. Give a URL with a password by the variable.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers; one for each GPU, else one, by default.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(envvar="ZOOFLEET_DEVICE", help="cpu, or cuda:0 and so on; all GPUs, else cpu, by default."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="ZOOFLEET_THREADS",
            min=1,
            help="CPU threads of each worker's forward pass; workers on the CPU share the cores by default.",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the address there once all is ready.", dir_okay=False)
    ] = None,
) -> None:
    """Run everything on this machine: Redis, a scheduler, and a worker for each device. Ctrl-C ends it.

    Jobs are kept in the data directory and go on at the next start. The scheduler and the workers take all other
    settings from their environment variables, which [bold]zoofleet scheduler --help[/] and
    [bold]zoofleet worker --help[/] name.
    """
    import asyncio

    from zoofleet._local.up import UpConfig, default_data_dir, up

    redis_setting = SchedulerConfig.describe("redis_url")
    redis_setting.check(redis_url, written_as(context, redis_setting))
    config = UpConfig(
        port=port,
        data_dir=data_dir or default_data_dir(),
        redis_url=redis_url,
        workers=workers,
        device=device,
        threads=threads,
        ready_file=ready_file,
    )
    raise typer.Exit(asyncio.run(up(config)))
