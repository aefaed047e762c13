"""`zoofleet submit`: a bulk job from files to results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoofleet._cli.console import (
    Address,
    Bar,
    MaxDetections,
    Models,
    PrecisionOption,
    ScoreThreshold,
    TopK,
    connect,
    progress,
    stderr,
    stdout,
    table,
    tasks_of,
)
from zoofleet._wire.address import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from zoofleet import Client, Item, Job, Task
    from zoofleet._cli.output import ResultWriter

_SHOWN_ERRORS = 20


class _FlowEncoding(Enum):
    """The members of `FlowEncoding` by name, which help must not load."""

    FLOAT16 = "float16"
    FLO = "flo"
    KITTI_PNG = "kitti-png"


def submit(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders (with their subfolders) or globs.")
    ],
    model: Models,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for results.jsonl and pictures.")] = Path("out"),
    top_k: TopK = None,
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    flow_encoding: Annotated[
        _FlowEncoding | None,
        typer.Option(
            help="How optical flow travels: float16, the default; flo, exact and twice as large; kitti-png, 1/64 pixel."
        ),
    ] = None,
    precision: PrecisionOption = None,
    tenant: Annotated[str, typer.Option(help="The name that quotas count the job under.")] = "",
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="The job runs before the tenant's jobs with a lower priority.")
    ] = 0,
    annotate: Annotated[bool, typer.Option(help="Draw the results on the pictures.")] = True,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Queue the job, print its name, and do not wait for it.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Run models on files as one durable job, and write the results to a folder.

    The folder gets results.jsonl (a result on each line, masks as COCO run
    lengths), label maps, flows and annotated pictures. Optical flow runs on
    each file and the next one.

    The exit code is 1 where some items failed, and 130 after Ctrl-C, which
    leaves the job running.
    """
    from zoofleet import FlowEncoding

    tasks = tasks_of(
        model,
        precision,
        top_k=top_k,
        score_threshold=score_threshold,
        max_detections=max_detections,
        flow_encoding=FlowEncoding[flow_encoding.name] if flow_encoding else None,
    )
    upload = _Upload(paths, tasks)
    with connect(address) as client:
        try:
            job = _send(client, upload, tasks, tenant, priority)
        except KeyboardInterrupt:
            stderr().print("\n[yellow]Stopped while sending:[/] a job that has not arrived in full is not run.")
            raise typer.Exit(130) from None
        if detach:
            stdout().print(job.name)
            stderr().print(f"Queued. Collect it with [bold]zoofleet jobs results {job.name} --follow --out DIR[/].")
            raise typer.Exit(1 if upload.failures else 0)
        failures = collect(client, job, out, upload.picture_of if annotate else None, upload.failures)
    raise typer.Exit(1 if failures else 0)


def _send(client: Client, upload: _Upload, tasks: list[Task], tenant: str, priority: int) -> Job:
    with progress() as bars:
        upload.bar = Bar(bars, "Sending", len(upload.items), "items")
        job = client.create_job(upload, tasks, tenant=tenant, priority=priority)
        upload.bar.show(job.item_count, total=job.item_count)
    return job


class _Upload:
    """The items of a job. Files that cannot be read are left out and noted when their turn comes.

    It can be iterated again, so that the client may send the job again.

    Args:
        paths: files, folders and globs.
        tasks: the job's tasks.

    Attributes:
        items: the files of each item: one, or two for optical flow.
        failures: id and error of each item that was left out.
        bar: shows how many items have been sent. None to show nothing.

    Raises:
        BadParameter: the models need different media, or there are too few files for them.
        MediaNotFoundError: a path is not there.
        InvalidMediaError: a folder or glob holds no files of the right kind.
    """

    def __init__(self, paths: Iterable[str], tasks: list[Task]) -> None:
        from zoofleet import ClassifyClip, EstimateFlow
        from zoofleet._client.items import item_ids
        from zoofleet._media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, expand

        clips = [isinstance(task, ClassifyClip) for task in tasks]
        flows = [isinstance(task, EstimateFlow) for task in tasks]
        if any(clips) != all(clips) or any(flows) != all(flows):
            raise typer.BadParameter("images, clips and pairs of images (optical flow) need a job each")
        files = expand(paths, VIDEO_SUFFIXES if all(clips) else IMAGE_SUFFIXES)
        if all(flows) and len(files) < 2:
            raise typer.BadParameter("optical flow needs two images or more")
        self._paths = item_ids(files[:-1] if all(flows) else files)
        self.items = list(pairwise(files)) if all(flows) else [(path,) for path in files]
        self._images = not all(clips)
        self.failures: list[tuple[str, str]] = []
        self.bar: Bar | None = None

    def __iter__(self) -> Iterator[Item]:
        from zoofleet import Item
        from zoofleet._media.sources import unreadable

        self.failures.clear()
        for count, (item_id, media) in enumerate(zip(self._paths, self.items, strict=True)):
            reason = next((f"cannot read {path}: {why}" for path in media if (why := unreadable(path))), None)
            if reason is not None:
                self.failures.append((item_id, reason))
            else:
                yield Item(media if len(media) == 2 else media[0], item_id)
            if self.bar is not None:
                self.bar.show(count + 1, errors=len(self.failures))

    def picture_of(self, item_id: str) -> Path | None:
        """Return the path of an item's picture. None where the job has clips."""
        return self._paths.get(item_id) if self._images else None


def collect(
    client: Client,
    job: Job,
    out: Path,
    picture_of: Callable[[str], Path | None] | None,
    local_failures: Iterable[tuple[str, str]] = (),
    *,
    follow: bool = True,
) -> int:
    """Write a job's results as they come, and print a summary.

    Args:
        client: a client of the scheduler.
        job: the job.
        out: the folder for the results.
        picture_of: returns the path of an item's picture, or None where there is none to annotate. None to annotate
            nothing.
        local_failures: id and error of each item that was not sent.
        follow: wait for further results until the job has finished.

    Returns:
        The number of items that failed.
    """
    from zoofleet._cli.output import ResultWriter

    writer = ResultWriter(out, picture_of)
    failures = list(local_failures)
    started = time.monotonic()
    count = 0
    try:
        with progress() as bars:
            bar = Bar(bars, "Results", job.result_count, "results")
            for result in client.read_results(job.name, follow=follow):
                writer.write(result)
                count += 1
                if result.error is not None:
                    failures.append((result.item_id, str(result.error)))
                bar.show(count, errors=len(failures))
    except KeyboardInterrupt:
        stderr().print(
            f"\n[yellow]Stopped watching; the job goes on:[/] [bold]zoofleet jobs watch {job.name}[/], "
            f"or end it with [bold]zoofleet jobs cancel {job.name}[/]."
        )
        raise typer.Exit(130) from None
    finally:
        writer.close()
    _report(client.get_job(job.name), writer, failures, count, time.monotonic() - started)
    return len(failures)


def _report(job: Job, writer: ResultWriter, failures: list[tuple[str, str]], count: int, seconds: float) -> None:
    from rich.markup import escape

    if failures:
        listing = table("item", "error")
        reasons = list(dict.fromkeys(failures))  # an item fails alike in most of a job's tasks
        for item, message in reasons[:_SHOWN_ERRORS]:
            listing.add_row(escape(item), f"[red]{escape(message)}[/]")
        stderr().print(listing)
        if len(reasons) > _SHOWN_ERRORS:
            stderr().print(f"… and {len(reasons) - _SHOWN_ERRORS} more in {escape(str(writer.path))}")
    state = job.state.name.lower()
    stdout().print(
        f"{escape(job.name)} {state}: {count} results in {seconds:.1f} s ({count / max(seconds, 1e-9):.1f}/s), "
        f"{len(failures)} failed → {escape(str(writer.path))}"
        + (f", {writer.picture_count} pictures" if writer.picture_count else ""),
        soft_wrap=True,
    )
