"""`zoofleet bench`: how much a running cluster does, and how long its answers take."""

from __future__ import annotations

import asyncio
import math
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from zoofleet._bench.modes import Arrivals, Mode
from zoofleet._cli.console import Address, PrecisionOption, stderr, stdout, table, tasks_of, unreachable
from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet.errors import UnavailableError

if TYPE_CHECKING:
    from zoofleet import Task
    from zoofleet._bench.load import Load
    from zoofleet._bench.summary import Summary
    from zoofleet._client.items import ItemSource

_CALLERS: Final = 32
"""Callers of a closed loop unless the user says otherwise: two batches of a classifier."""
_PICTURES: Final = 32
"""Different synthetic pictures: more than a batch, so that no two of one are equal."""


def _size(text: str) -> str:
    """Return a picture's size, such as `500x375`, as it is."""
    sides = [int(side) for side in text.split("x")] if re.fullmatch(r"\d{1,5}x\d{1,5}", text) else []
    if not sides or not all(1 <= side <= 20_000 for side in sides):
        raise typer.BadParameter(f"{text!r}; accepted: WIDTHxHEIGHT in pixels, each 1 to 20000, such as 500x375")
    return text


def bench(
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model, such as [bold]resnet50[/].")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="Files, folders or globs to send, over and over. Synthetic JPEGs where left out."
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="WxH", callback=_size, help="The size of synthetic JPEGs in pixels.")
    ] = "500x375",
    mode: Annotated[
        Mode, typer.Option(help="A request is a call with one item, an item of a long stream, or a job.")
    ] = Mode.CALLS,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-c",
            min=1,
            help="Requests on the way at once: 32 by default. With --rate the most there may be: no limit by default.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", "-r", help="Send so many requests a second, whether or not earlier ones are answered."),
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="With --rate: send at random moments, as many users do, or at equal intervals.")
    ] = Arrivals.POISSON,
    duration: Annotated[float, typer.Option("--duration", "-d", metavar="SECONDS", help="How long to send.")] = 10.0,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Send so many requests, if that takes less time.")
    ] = None,
    warmup: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to send before anything counts.")
    ] = 2.0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for an answer, or for a job's results.")
    ] = 30.0,
    streams: Annotated[int, typer.Option(min=1, help="With --mode stream: number of streams.")] = 1,
    job_items: Annotated[int, typer.Option(min=1, help="With --mode jobs: items of each job.")] = 100,
    precision: PrecisionOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers to this file.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Put load on a running cluster, and print throughput and latencies.

    Without --rate the loop is closed: each of --concurrency callers sends its
    next request when it has the answer to its last one. That finds the highest
    throughput, and hides stalls: nothing is sent meanwhile.

    With --rate the loop is open: requests have their turns by the clock, and
    their latencies count from there (no coordinated omission). That finds the
    latencies at a load, as users feel them who do not wait for each other.

    The exit code is 1 where no request was answered, and 130 after Ctrl-C,
    which prints what there is.
    """
    from zoofleet._bench.load import Load

    (task,) = tasks_of([model], precision)
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"--json {json_file}: {json_file.parent} is no folder")
    load = Load(
        mode=mode,
        rate=rate,
        arrivals=arrivals,
        concurrency=_CALLERS if concurrency is None and rate is None else concurrency,
        duration=duration,
        count=count,
        warmup=warmup,
        timeout=timeout,
        streams=streams,
        job_items=job_items,
    )
    media = _media(task, paths or [], size)
    summary = asyncio.run(_run(address, task, media, load))
    title = f"{task.model} at {address}: {_words(load)}, {_media_words(paths, size)}"
    _print(summary, load, title)
    if json_file is not None:
        json_file.write_text(summary.to_json(title=title, model=task.model, mode=mode.value), encoding="utf-8")
        stdout().print(f"→ {json_file}", markup=False, soft_wrap=True)
    raise typer.Exit(130 if summary.is_cut_short else 0 if summary.item_count else 1)


def _media(task: Task, paths: list[str], size: str) -> list[ItemSource]:
    """Return what to send: the bytes of files or of synthetic JPEGs; pairs of neighbours for optical flow."""
    from zoofleet import ClassifyClip, EstimateFlow
    from zoofleet._bench.media import synthetic_jpegs
    from zoofleet._media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, expand, read_error

    is_clip = isinstance(task, ClassifyClip)
    if paths:
        encoded = []
        for path in expand(paths, VIDEO_SUFFIXES if is_clip else IMAGE_SUFFIXES):
            try:
                encoded.append(path.read_bytes())
            except OSError as error:
                raise read_error(path, error) from None
    elif is_clip:
        raise typer.BadParameter(f"{task.model} takes clips; name the files or folders that hold some")
    else:
        width, height = size.split("x")
        encoded = synthetic_jpegs(int(width), int(height), _PICTURES)
    if not isinstance(task, EstimateFlow):
        return list(encoded)
    if len(encoded) < 2:
        raise typer.BadParameter("optical flow needs two images or more")
    return list(pairwise(encoded))


async def _run(address: str, task: Task, media: list[ItemSource], load: Load) -> Summary:
    from zoofleet import AsyncClient
    from zoofleet._bench.load import run, sender_of

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)

    def began() -> None:
        stderr().print(f"Sending for {load.warmup + load.duration:g} s, {load.warmup:g} s of that to warm up …")

    async with AsyncClient(address, retry_timeout=0) as client:
        try:
            await client.wait_ready(5.0)
        except UnavailableError as error:
            raise unreachable(error) from None
        stderr().print(f"Waiting for the first answer of {task.model} …", markup=False)
        return await run(sender_of(client, task, media, load), load, stop=stop, ahead=began)


def _words(load: Load) -> str:
    what = {
        Mode.CALLS: "calls",
        Mode.STREAM: f"items on {load.streams} stream{'s' if load.streams > 1 else ''}",
        Mode.JOBS: f"jobs of {load.job_items} items",
    }[load.mode]
    if load.rate is None:
        return f"{what}, {load.concurrency} at once (closed loop)"
    most = f", at most {load.concurrency} at once" if load.concurrency else ""
    return f"{what}, {load.rate:g} a second, {load.arrivals.value}{most} (open loop)"


def _media_words(paths: list[str] | None, size: str) -> str:
    return " ".join(paths) if paths else f"synthetic JPEGs of {size}"


def _print(summary: Summary, load: Load, title: str) -> None:
    out = stdout()
    out.print(title, markup=False, soft_wrap=True)
    out.print(
        f"{summary.request_count} requests in {summary.duration:.1f} s: {summary.rate:.2f} sent a second"
        + (f" of {summary.asked_rate:g} asked" if summary.asked_rate is not None else "")
        + f", {summary.throughput:.2f} items/s answered, {summary.error_count} failed",
        soft_wrap=True,
    )
    columns = {"min": "min", "mean": "mean", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
    columns |= {"p99_9": "p99.9", "max": "max"}
    rows = {"latency": summary.latency}
    if load.rate is not None:
        rows = {"latency, from its turn": summary.latency, "from when it was sent": summary.service_time}
    result = table("ms", *(f">{column}" for column in columns.values()))
    for name, distribution in rows.items():
        result.add_row(name, *(_milliseconds(getattr(distribution, column)) for column in columns))
    out.print(result)
    out.print("codes: " + ", ".join(f"{code} {count}" for code, count in summary.codes.items()), soft_wrap=True)
    if summary.precisions:
        ran = ", ".join(f"{name.removeprefix('PRECISION_')} {count}" for name, count in summary.precisions.items())
        out.print(f"precision: {ran}", soft_wrap=True)
    lag = "" if load.rate is None else f", {_milliseconds(summary.lag.p99)} ms behind its schedule at p99"
    out.print(f"client: {summary.client_cpu:.2f} cores{lag}", soft_wrap=True)
    for warning in summary.warnings:
        stderr().print(f"warning: {warning}", markup=False, style="yellow", soft_wrap=True)


def _milliseconds(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds * 1000:.1f}"
