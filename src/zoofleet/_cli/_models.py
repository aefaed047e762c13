"""`zoofleet models`: the catalog, and what is loaded where."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeAlias

import typer

from zoofleet._cli._console import DEFAULT_ADDRESS, Address, connect, gib, stdout, table

app = typer.Typer(no_args_is_help=True, help="List models, and move them in and out of workers.")

_Model: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="Such as resnet50@IMAGENET1K_V2.")]
_Worker: TypeAlias = Annotated[str, typer.Option("--worker", "-w", metavar="workers/ID", help="On this worker.")]


class _Kind(Enum):
    CLASSIFY = "classify"
    SEGMENT = "segment"
    DETECT = "detect"
    CLASSIFY_CLIP = "classify-clip"
    ESTIMATE_FLOW = "estimate-flow"


@app.command("list")
def list_(
    kind: Annotated[_Kind | None, typer.Option("--task", help="Only models for this task.")] = None,
    loaded: Annotated[bool, typer.Option("--loaded", help="Only models in a worker's memory.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List the catalog."""
    from rich.markup import escape

    from zoofleet import TaskName

    listing = table("model", "task", ">parameters", "weights", "loaded on")
    with connect(address) as client:
        for model in client.list_models(task=TaskName[kind.name] if kind else None):
            if loaded and not model.loaded_models:
                continue
            weights = [
                f"[bold]{escape(w.weight_set_id)}[/]" if w.is_default else escape(w.weight_set_id)
                for w in model.weight_sets
            ]
            places = [
                f"{escape(place.worker)} ({escape(place.model.partition('@')[2])}, {gib(place.memory_bytes)}"
                f"{', pinned' if place.pinned else ''})"
                for place in model.loaded_models
            ]
            listing.add_row(
                escape(model.name.removeprefix("models/")),
                model.task.name.lower(),
                f"{model.parameter_count / 1e6:.1f} M",
                ", ".join(weights) or "random",
                "\n".join(places),
            )
    stdout().print(listing)


@app.command()
def load(
    name: _Model,
    worker: _Worker = "",
    pin: Annotated[bool, typer.Option("--pin", help="Keep it from being unloaded to make room.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Load a model on a worker, or on the one with the most room."""
    with connect(address) as client:
        loaded = client.load_model(name, worker=worker, pin=pin)
    stdout().print(f"{loaded.model} is on {loaded.worker}, {gib(loaded.memory_bytes)}{', pinned' if pin else ''}")


@app.command()
def unload(name: _Model, worker: _Worker = "", address: Address = DEFAULT_ADDRESS) -> None:
    """Unload a model from a worker, or from all."""
    with connect(address) as client:
        freed = client.unload_model(name, worker=worker)
    stdout().print(f"{name} is unloaded, {gib(freed)} are free")


@app.command()
def pin(
    name: _Model,
    worker: Annotated[str, typer.Option("--worker", "-w", metavar="workers/ID", help="On this worker.")],
    unpin: Annotated[bool, typer.Option("--unpin", help="Let it go again.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Keep a loaded model from being unloaded to make room."""
    with connect(address) as client:
        loaded = client.pin_model(name, worker=worker, pinned=not unpin)
    stdout().print(f"{loaded.model} on {loaded.worker} is {'pinned' if loaded.pinned else 'unpinned'}")
