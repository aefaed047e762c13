"""The command line. Commands import what they need when they run, so that help appears at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from zoofleet._cli import bench, evaluate, jobs, models, serve, submit, video, workers
from zoofleet._cli.console import fail
from zoofleet._media.quiet import quiet_pillow
from zoofleet.errors import ZoofleetError

__all__ = ["app"]


_commands = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Run vision models on images and videos, on a cluster of workers: classification, detection, segmentation and "
    "optical flow.",
    epilog="Start everything on this machine with [bold]zoofleet up[/].",
)


def _print_version(given: bool) -> None:
    if given:
        import zoofleet

        typer.echo(f"zoofleet {zoofleet.__version__}")
        raise typer.Exit


@_commands.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Set up what all commands need."""
    # gRPC writes log lines of its own into progress bars. What matters in them reaches us as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    quiet_pillow()


_WORK, _MANAGE, _RUN = "Run models", "Manage a cluster", "Run a cluster"

_commands.command(rich_help_panel=_WORK)(submit.submit)
_commands.command(rich_help_panel=_WORK)(video.video)
_commands.command(rich_help_panel=_WORK)(evaluate.evaluate)
_commands.command(rich_help_panel=_WORK)(evaluate.compare)
_commands.command(rich_help_panel=_MANAGE)(bench.bench)
_commands.add_typer(jobs.app, name="jobs", rich_help_panel=_MANAGE)
_commands.add_typer(models.app, name="models", rich_help_panel=_MANAGE)
_commands.add_typer(workers.app, name="workers", rich_help_panel=_MANAGE)
_commands.command(rich_help_panel=_RUN)(serve.up)
_commands.command(rich_help_panel=_RUN)(serve.scheduler)
_commands.command(rich_help_panel=_RUN)(serve.worker)


def app() -> None:
    """Run the command line.

    Exit codes: 0 for success, 1 for an error, which is printed in one line, 2 for wrong usage, 130 for Ctrl-C.
    """
    try:
        _commands()
    except (ZoofleetError, OSError) as error:
        fail(str(error))
        sys.exit(1)
