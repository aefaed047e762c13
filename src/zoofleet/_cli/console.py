"""What commands share: options, the terminal, the connection."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, TextIO, TypeAlias

import typer

from zoofleet.errors import ZoofleetError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from zoofleet import Client, Job, Task

Address: TypeAlias = Annotated[
    str,
    typer.Option(
        "--address", "-a", envvar="ZOOFLEET_ADDRESS", metavar="HOST:PORT", help="The scheduler.", show_default=True
    ),
]
Models: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Such as [bold]resnet50[/] or [bold]resnet50@IMAGENET1K_V2[/]; repeatable.",
    ),
]
TopK: TypeAlias = Annotated[int | None, typer.Option(min=1, max=1000, help="Categories to return; 5 by default.")]
ScoreThreshold: TypeAlias = Annotated[
    float | None, typer.Option(min=0, max=1, help="Leaves out detections below it; 0.5 by default.")
]
MaxDetections: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Most detections an image, best first; 100 by default.")
]
JobName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="[bold]jobs/ID[/], or the ID alone.")]

DEFAULT_ADDRESS = "127.0.0.1:50051"


@cache
def stdout() -> Console:
    """The terminal, for what was asked for."""
    return _console(sys.stdout)


@cache
def stderr() -> Console:
    """The terminal, for all else: progress, notes, errors."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    from rich.console import Console

    # What is not a terminal has no width that lines would have to fit.
    fits = file.isatty() or "COLUMNS" in os.environ
    return Console(file=file, highlight=False, width=None if fits else 160)


def fail(message: str) -> None:
    """Say why a command fails, in one line."""
    from rich.text import Text

    line = " ".join(message.split())
    stderr().print(Text.assemble(("error: ", "bold red"), (line, "red")), soft_wrap=True)


def usage_error(message: str) -> typer.BadParameter:
    """What to raise where the command line asks for something impossible."""
    return typer.BadParameter(message)


@contextmanager
def connect(address: str, timeout: float = 5.0) -> Iterator[Client]:
    """A client of a server that answers.

    Raises:
        UnavailableError: it does not within `timeout` seconds.
    """
    from zoofleet import Client
    from zoofleet.errors import UnavailableError

    with Client(address) as client:
        try:
            client.wait_ready(timeout=timeout)
        except UnavailableError as error:
            raise UnavailableError(f"{error}; start one with 'zoofleet up', or name another with --address") from None
        yield client


def job_name(name: str) -> str:
    """`jobs/ID`, where the ID alone will do on the command line."""
    return name if name.startswith("jobs/") else f"jobs/{name}"


def tasks_of(
    models: Sequence[str], top_k: int | None, score_threshold: float | None, max_detections: int | None
) -> list[Task]:
    """A task for each model, with those of the options that its kind has.

    Raises:
        BadParameter: no such model or weight set; an option that no model has.
    """
    from zoofleet import Classify, ClassifyClip, Detect, EstimateFlow, Segment
    from zoofleet._catalog import ModelName
    from zoofleet._wire.kinds import kind_of

    tasks: list[Task] = []
    for model in models:
        try:
            kind = kind_of(ModelName.parse(model))
        except ZoofleetError as error:
            raise usage_error(str(error)) from None
        tasks.extend(cls(model, top_k=top_k) for cls in (Classify, ClassifyClip) if cls.kind is kind)
        if Detect.kind is kind:
            tasks.append(Detect(model, score_threshold, max_detections))
        tasks.extend(cls(model) for cls in (Segment, EstimateFlow) if cls.kind is kind)
    if top_k is not None and not any(isinstance(task, Classify | ClassifyClip) for task in tasks):
        raise usage_error("--top-k is for classification; none of the models classifies")
    for option, value in (("--score-threshold", score_threshold), ("--max-detections", max_detections)):
        if value is not None and not any(isinstance(task, Detect) for task in tasks):
            raise usage_error(f"{option} is for detection; none of the models detects")
    return tasks


def progress() -> Progress:
    """Bars with counts, rate, errors and the time left, on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}[/]"),
        TextColumn("[red]{task.fields[note]}[/]"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=stderr(),
    )


class Bar:
    """One bar of a `progress()`, with its mean rate and a count of errors.

    Args:
        progress: where it stands.
        description: what it counts.
        total: how many there will be; None where unknown.
        unit: what the rate counts.
    """

    def __init__(self, progress: Progress, description: str, total: int | None, unit: str) -> None:
        self._progress = progress
        self._unit = unit
        self._task = progress.add_task(description, total=total, rate="", note="")

    def show(self, done: int, *, total: int | None = None, errors: int = 0) -> None:
        """Set the bar to `done`."""
        self._progress.update(self._task, completed=done, total=total)
        task = next(task for task in self._progress.tasks if task.id == self._task)
        rate = done / task.elapsed if task.elapsed else 0.0
        note = f"{errors} error{'s' if errors > 1 else ''}" if errors else ""
        self._progress.update(self._task, rate=f"{rate:.1f} {self._unit}/s", note=note)


def table(*columns: str) -> Table:
    """An empty table with the house's looks; a column whose name begins with `>` is set to the right."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        number = column.startswith(">")
        justify: Literal["left", "right"] = "right" if number else "left"
        result.add_column(column.removeprefix(">"), justify=justify, no_wrap=number, overflow="fold")
    return result


def ago(time: datetime | None) -> str:
    """How long ago, in its largest unit."""
    if time is None:
        return "–"
    seconds = max(0, int((datetime.now(UTC) - time).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def gib(count: int) -> str:
    """Bytes, in MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


_STATE_STYLES = {
    "QUEUED": "yellow",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "magenta",
    "READY": "green",
    "DRAINING": "yellow",
}


def state(name: str) -> str:
    """A state's name in its colour."""
    return f"[{_STATE_STYLES[name]}]{name.lower()}[/]"


def job_table(jobs: Sequence[Job]) -> Table:
    """Jobs, one a row."""
    from rich.markup import escape

    result = table("job", "state", ">results", ">errors", "models", "tenant", ">created")
    result.columns[0].no_wrap = True  # names are there to be copied
    for job in jobs:
        result.add_row(
            escape(job.name),
            state(job.state.name),
            f"{job.committed_count}/{job.result_count}",
            f"[red]{job.error_count}[/]" if job.error_count else "0",
            escape(", ".join(task.model for task in job.tasks)),
            escape(job.tenant),
            ago(job.create_time),
        )
    return result
