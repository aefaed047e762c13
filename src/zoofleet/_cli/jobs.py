"""`zoofleet jobs`: list jobs, watch them, collect their results, end them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from zoofleet._cli.console import (
    Address,
    Bar,
    JobName,
    connect,
    job_table,
    progress,
    state,
    stderr,
    stdout,
)
from zoofleet._wire.address import DEFAULT_ADDRESS

app = typer.Typer(no_args_is_help=True, help="List, watch, collect, cancel and delete jobs.")


@app.command("list")
def list_(
    tenant: Annotated[str, typer.Option(help="List the jobs of this tenant only.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Number of jobs to list at most.")] = 50,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List jobs, the newest first."""
    from itertools import islice

    with connect(address) as client:
        jobs = list(islice(client.list_jobs(tenant=tenant), limit))
    if jobs:
        stdout().print(job_table(jobs))
    else:
        stderr().print("No jobs.")


@app.command()
def get(name: JobName, address: Address = DEFAULT_ADDRESS) -> None:
    """Show a job."""
    from rich.markup import escape

    with connect(address) as client:
        job = client.get_job(name)
    stdout().print(job_table([job]))
    if job.error is not None:
        stdout().print(f"[red]{escape(str(job.error))}[/]")
    if job.wait_reason is not None:
        stdout().print(f"[yellow]waits: {escape(str(job.wait_reason))}[/]")


@app.command()
def watch(name: JobName, address: Address = DEFAULT_ADDRESS) -> None:
    """Follow a job until it has finished.

    The exit code is 1 where the job failed or was cancelled, or where some of its items failed.
    """
    from rich.markup import escape

    said = ""
    with connect(address) as client, progress() as bars:
        bar = Bar(bars, "Results", None, "results")
        for job in client.watch_job(name):
            bar.show(job.committed_count, total=job.result_count, errors=job.error_count)
            if job.wait_reason is not None and str(job.wait_reason) != said:
                said = str(job.wait_reason)
                stderr().print(f"[yellow]waits: {escape(said)}[/]")
    stdout().print(f"{job.name} {state(job.state.name)}: {job.committed_count} results, {job.error_count} errors")
    if job.error is not None:
        stdout().print(f"[red]{escape(str(job.error))}[/]")
    raise typer.Exit(1 if job.error_count or job.state.name != "SUCCEEDED" else 0)


@app.command()
def results(
    name: JobName,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write results.jsonl and other files to this folder. By default, print the results."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for further results until the job has finished.")
    ] = False,
    annotate: Annotated[
        bool,
        typer.Option(help="With --out: draw the results on the pictures, where the job's files are on this machine."),
    ] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Print a job's results as JSON Lines, or write them to a folder.

    With --out, the exit code is 1 where some items failed.
    """
    with connect(address) as client:
        if out is None:
            from zoofleet._cli.output import record_of

            for result in client.read_results(name, follow=follow):
                json.dump(record_of(result), sys.stdout, ensure_ascii=False, separators=(",", ":"))
                sys.stdout.write("\n")
            return
        from zoofleet._cli.submit import collect

        job = client.get_job(name)
        failures = collect(client, job, out, _local_picture if annotate else None, follow=follow)
    raise typer.Exit(1 if failures else 0)


def _local_picture(item_id: str) -> Path | None:
    path = Path(item_id)
    return path if path.is_file() else None


@app.command()
def cancel(name: JobName, address: Address = DEFAULT_ADDRESS) -> None:
    """Stop a job. Items that have not run yet do not run."""
    with connect(address) as client:
        job = client.cancel_job(name)
    stdout().print(f"{job.name} {state(job.state.name)}")


@app.command()
def delete(name: JobName, address: Address = DEFAULT_ADDRESS) -> None:
    """Delete a finished job with its items and results."""
    with connect(address) as client:
        client.delete_job(name)
    stdout().print(f"{name} deleted")
