"""What the commands share: options, the terminal, the connection.

typer prints the line breaks in a command's docstring, but for those of its first paragraph, so docstrings of commands
have lines that fit a terminal of 80 columns.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TextIO, TypeAlias

import typer

from zoofleet._wire.address import ADDRESS_VARIABLE
from zoofleet._wire.names import job_name
from zoofleet.errors import ZoofleetError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from zoofleet import Client, Job, Task

Address: TypeAlias = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        envvar=ADDRESS_VARIABLE,
        metavar="HOST:PORT",
        help="The address of the scheduler.",
        show_default=True,
    ),
]
Models: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A model, such as [bold]resnet50[/] or [bold]resnet50@IMAGENET1K_V2[/]. May be given several times.",
    ),
]
TopK: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Number of categories to return. 5 by default.")
]
ScoreThreshold: TypeAlias = Annotated[
    float | None, typer.Option(min=0, max=1, help="Lowest score of a detection to return. 0.5 by default.")
]
MaxDetections: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, max=1000, help="Number of detections to return for an image at most, best first. 100 by default."
    ),
]
JobName: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The job: [bold]jobs/ID[/], or the ID alone.",
        callback=lambda name: job_name(name.removeprefix("jobs/")),
    ),
]


@cache
def stdout() -> Console:
    """Return standard output, for what the user asked for."""
    return _console(sys.stdout)


@cache
def stderr() -> Console:
    """Return standard error, for all else: progress, notes, errors."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    from rich.console import Console

    # A file or pipe has no width that lines would have to fit.
    fits = file.isatty() or "COLUMNS" in os.environ
    return Console(file=file, highlight=False, width=None if fits else 160)


def fail(message: str) -> None:
    """Print why a command fails, in one line."""
    from rich.text import Text

    line = " ".join(message.split())
    stderr().print(Text.assemble(("error: ", "bold red"), (line, "red")), soft_wrap=True)


@contextmanager
def connect(address: str, timeout: float = 5.0) -> Iterator[Client]:
    """Connect to a server, and close the connection at the end.

    Args:
        address: the server as `host:port`.
        timeout: seconds to wait for the server to answer at most.

    Raises:
        UnavailableError: the server did not answer in that time.
    """
    from zoofleet import Client
    from zoofleet.errors import UnavailableError

    with Client(address) as client:
        try:
            client.wait_ready(timeout=timeout)
        except UnavailableError as error:
            raise UnavailableError(f"{error}; start one with 'zoofleet up', or name another with --address") from None
        yield client


_OPTION_USES: Final = {
    "top_k": "classification; none of the models classifies",
    "score_threshold": "detection; none of the models detects",
    "max_detections": "detection; none of the models detects",
    "flow_encoding": "optical flow; none of the models estimates it",
}


class PrecisionName(Enum):
    """The members of `Precision` by name, which help must not load."""

    EXACT = "exact"
    FAST = "fast"


PrecisionOption: TypeAlias = Annotated[
    PrecisionName | None,
    typer.Option(
        "--precision",
        help="How closely results must follow the reference: exact, or fast for whatever way of running the models was "
        "found to be fast and to give nearly the same. By default, the operator's choice.",
    ),
]


def tasks_of(models: Sequence[str], precision: PrecisionName | None = None, **options: Any) -> list[Task]:
    """Return a task for each model, with those of the options that its kind of task has.

    Args:
        models: the models' names.
        precision: the precision of all tasks. None for the operator's choice.
        options: options of any kind of task by name, such as `top_k`. None where the user has not given one.

    Raises:
        BadParameter: there is no such model or weight set, or none of the models has an option that was given.
    """
    from zoofleet._catalog import ModelName
    from zoofleet._values.tasks import TASK_CLASSES, Precision, option_names
    from zoofleet._wire.kinds import kind_of

    wanted = Precision[precision.name] if precision else None
    given = {name: value for name, value in options.items() if value is not None}
    tasks: list[Task] = []
    for model in models:
        try:
            cls = TASK_CLASSES[kind_of(ModelName.parse(model))]
        except ZoofleetError as error:
            raise typer.BadParameter(str(error)) from None
        values = {name: given[name] for name in option_names(cls) if name in given}
        tasks.append(cls(model, precision=wanted, **values))
    for name in given:
        if not any(name in option_names(type(task)) for task in tasks):
            raise typer.BadParameter(f"--{name.replace('_', '-')} is for {_OPTION_USES[name]}")
    return tasks


def progress() -> Progress:
    """Return progress bars with counts, rate, errors and the time left, on standard error."""
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
    """One progress bar, with its mean rate and a count of errors.

    Args:
        progress: the bars that it is one of.
        description: the text before the bar.
        total: the count at which the bar is full. None where that is unknown.
        unit: the unit of the counts, in the plural.
    """

    def __init__(self, progress: Progress, description: str, total: int | None, unit: str) -> None:
        self._progress = progress
        self._unit = unit
        self._task = progress.add_task(description, total=total, rate="", note="")

    def show(self, done: int, *, total: int | None = None, errors: int = 0) -> None:
        """Set the bar to the count `done`, and to a new total where one is given."""
        self._progress.update(self._task, completed=done, total=total)
        task = next(task for task in self._progress.tasks if task.id == self._task)
        rate = done / task.elapsed if task.elapsed else 0.0
        note = f"{errors} error{'s' if errors > 1 else ''}" if errors else ""
        self._progress.update(self._task, rate=f"{rate:.1f} {self._unit}/s", note=note)


def table(*columns: str) -> Table:
    """Return an empty table in the style of all our tables. A column whose name begins with `>` is set to the right."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        number = column.startswith(">")
        justify: Literal["left", "right"] = "right" if number else "left"
        result.add_column(column.removeprefix(">"), justify=justify, no_wrap=number, overflow="fold")
    return result


def ago(time: datetime | None) -> str:
    """Return how long ago a time was, in its largest unit: `3 h ago`."""
    if time is None:
        return "–"
    seconds = max(0, int((datetime.now(UTC) - time).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def gib(count: int) -> str:
    """Return a number of bytes in MiB or GiB: `98 MiB`."""
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
    """Return a state's name in its colour, as markup."""
    return f"[{_STATE_STYLES[name]}]{name.lower()}[/]"


def job_table(jobs: Sequence[Job]) -> Table:
    """Return a table of jobs with a row for each."""
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
