"""`zoofleet workers`: list and drain workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zoofleet._cli.console import Address, ago, connect, gib, state, stderr, stdout, table
from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet._wire.names import worker_name

if TYPE_CHECKING:
    from zoofleet._values.resources import Worker

app = typer.Typer(no_args_is_help=True, help="List and drain workers.")


@app.command("list")
def list_(address: Address = DEFAULT_ADDRESS) -> None:
    """List the live workers."""
    from rich.markup import escape

    listing = table(
        "worker",
        "state",
        "device",
        ">active",
        ">items",
        ">errors",
        ">memory",
        ">device",
        "loaded",
        ">in batch since",
        ">beat",
    )
    listing.columns[0].no_wrap = True  # names are there to be copied
    with connect(address) as client:
        for worker in client.list_workers():
            listing.add_row(
                escape(worker.name),
                state(worker.state.name),
                escape(worker.device),
                f"{worker.inflight_items}/{worker.max_inflight_items}",
                str(worker.item_count),
                f"[red]{worker.error_count}[/]" if worker.error_count else "0",
                gib(worker.resident_bytes),
                _of_device(worker),
                escape("\n".join(loaded.model for loaded in worker.loaded_models)),
                ago(worker.batch_start_time),
                ago(worker.heartbeat_time),
            )
    if listing.row_count:
        stdout().print(listing)
    else:
        stderr().print("No workers.")


def _of_device(worker: Worker) -> str:
    """Return what a worker has taken of its device's memory and what is in use, such as `2.1 of 80.0 GiB, 5.0 used`.

    Empty for a worker that does not say.
    """
    if not worker.device_bytes_total:
        return ""
    taken, total, used = (
        f"{count / 2**30:.1f}"
        for count in (worker.device_bytes_reserved, worker.device_bytes_total, worker.device_bytes_used)
    )
    return f"{taken} of {total} GiB, {used} used"


@app.command()
def drain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker: [bold]workers/ID[/], or the ID alone.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Give a worker no further work. It finishes the work that it has."""
    with connect(address) as client:
        worker = client.drain_worker(worker_name(name.removeprefix("workers/")))
    stdout().print(f"{worker.name} {state(worker.state.name)}")
