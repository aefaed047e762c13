"""`zoofleet models`: the catalog and its weight files, and the models in the memory of workers."""

from __future__ import annotations

import fnmatch
import functools
import threading
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from zoofleet._cli.console import Address, connect, fail, gib, stderr, stdout, table
from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from zoofleet import Plan
    from zoofleet._catalog import ModelName, WeightsInfo

app = typer.Typer(no_args_is_help=True, help="List models, fetch their weights, load them on workers and unload them.")

_PULLS: Final = 4
"""Number of files that are fetched at the same time."""

_Model: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The model, such as resnet50@IMAGENET1K_V2.")]
_Worker: TypeAlias = Annotated[
    str,
    typer.Option(
        "--worker", "-w", metavar="workers/ID", help="The worker. By default, the one with the most free memory."
    ),
]


class _Kind(Enum):
    """The kinds of task; a copy of `TaskKind`, since help must not wait for protobuf. A test compares the two."""

    CLASSIFY = "classify"
    SEGMENT = "segment"
    DETECT = "detect"
    CLASSIFY_CLIP = "classify-clip"
    ESTIMATE_FLOW = "estimate-flow"


@app.command("list")
def list_(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="List models whose names match a pattern only, such as 'resnet*'."),
    ] = None,
    kind: Annotated[_Kind | None, typer.Option("--task", help="List models for this task only.")] = None,
    loaded: Annotated[
        bool,
        typer.Option(
            "--loaded",
            help="List models in the memory of workers only, and which workers have them. Asks the scheduler.",
        ),
    ] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List the models of the catalog. Accuracy, GFLOPs and file size are those of the default weights."""
    if loaded:
        _list_loaded(patterns, kind, address)
        return
    from rich.markup import escape

    from zoofleet import _catalog

    listing = table("model", "task", ">parameters", ">GFLOPs", "accuracy", ">file", "weights")
    for name, builder in sorted(_catalog.builders().items()):
        task = _task_of(name)
        if not _wanted(name, patterns) or (kind and kind.value != task):
            continue
        published = _catalog.weights(name)
        meta: Mapping[str, Any] = next((w.meta for w in published if w.default), {})
        listing.add_row(
            escape(name),
            task,
            f"{builder.num_params / 1e6:.1f} M",
            _gflops(meta),
            _headline(meta),
            _file_size(meta),
            ", ".join(f"[bold]{escape(w.member)}[/]" if w.default else escape(w.member) for w in published) or "random",
        )
    if not listing.row_count:
        suffix = f" for {kind.value}" if kind else ""
        raise NotFoundError(f"no model is named like {' or '.join(patterns or ['*'])}{suffix}")
    stdout().print(listing)


def _list_loaded(patterns: Sequence[str] | None, kind: _Kind | None, address: str) -> None:
    from rich.markup import escape

    from zoofleet import TaskName

    listing = table("model", "task", ">memory", "worker", "pinned", "fast")
    with connect(address) as client:
        for model in client.list_models(task=TaskName[kind.name] if kind else None):
            if _wanted(model.name.removeprefix("models/"), patterns):
                for place in model.loaded_models:
                    task = _Kind[model.task.name].value
                    pinned = "pinned" if place.pinned else ""
                    fast = "\n".join(_plan(plan) for plan in place.plans)
                    listing.add_row(
                        escape(place.model), task, gib(place.memory_bytes), escape(place.worker), pinned, escape(fast)
                    )
    stdout().print(listing)


def _plan(plan: Plan) -> str:
    """Return what serves FAST in words, such as `compiled bfloat16, 11.2 ms (67.7), deviation 3e-05`."""
    from zoofleet import PlanState

    frames = f"{plan.shape_class[0]} frames: " if plan.shape_class else ""
    if plan.state is not PlanState.READY:
        return f"{frames}{plan.state.name.lower()}" + (f": {plan.message}" if plan.message else "")
    times = f"{plan.milliseconds:.3g} ms ({plan.exact_milliseconds:.3g} exact)"
    return f"{frames}{plan.name}, {times}, deviation {plan.deviation:.1g}"


@app.command()
def show(name: _Model) -> None:
    """Show a model's weight sets with their accuracy, cost, input, license and file."""
    from rich.markup import escape

    from zoofleet import _catalog

    builder, at, _ = name.partition("@")
    model = _catalog.ModelName.parse(name if at else f"{builder}@{_catalog.RANDOM}")
    published = [w for w in _catalog.weights(builder) if not at or w.member == model.weights]
    stdout().print(f"[bold]{escape(builder)}[/]: {_task_of(builder)}, {model.info.num_params / 1e6:.1f} M parameters")
    if not published:
        stdout().print(f"No weights are published; [bold]{escape(builder)}@random[/] has random ones.")
    for weights in published:
        stdout().print(f"\n[bold]{escape(weights.member)}[/]{' (default)' if weights.default else ''}")
        preset = ", ".join(str(v) if k == "preset" else f"{k}={v}" for k, v in weights.transforms.items())
        smallest = " x ".join(map(str, weights.meta.get("min_size", ())))
        for what, value in (
            ("accuracy", "; ".join(_metrics(weights.meta))),
            ("cost", f"{_gflops(weights.meta)} GFLOPs, {_file_size(weights.meta)}"),
            ("input", f"{preset}; at least {smallest} pixels"),
            ("recipe", weights.meta.get("recipe", "")),
            ("license", weights.meta.get("license", "")),
            ("file", weights.url),
        ):
            if value:
                stdout().print(f"  {what:<9} {escape(value)}", soft_wrap=True)


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The models, such as resnet50@IMAGENET1K_V2.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            file_okay=False,
            help="Put the files into this folder, for a mirror to serve, and not into torch.hub's cache.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch weight files, four at a time. A pull that was interrupted goes on where it ended."""
    from zoofleet import _catalog

    models = dict.fromkeys(_catalog.ModelName.parse(name) for name in names)
    urls = {model: _published(model).url for model in models}
    with _bars() as bars:
        results = _pull_all(urls, folder, bars)
    for model in models:
        result = results[model]
        if isinstance(result, Path):
            stdout().print(f"{model} {result}", soft_wrap=True)
        else:
            fail(f"{model}: {result}")
    if not all(isinstance(result, Path) for result in results.values()):
        raise typer.Exit(1)


def _pull_all(urls: Mapping[ModelName, str], folder: Path | None, bars: Progress) -> dict[ModelName, Path | Exception]:
    """Fetch files, `_PULLS` at a time. Return the path of each, or the error that says why there is none."""
    from zoofleet._catalog import download

    results: dict[ModelName, Path | Exception] = {}
    remaining = iter(urls.items())
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                model, url = next(remaining, (None, ""))
            if model is None:
                return
            report = functools.partial(_show, bars, bars.add_task(str(model), total=None))
            try:
                path = results[model] = download.fetch(url, folder, check_hash=True, report=report)
                size = path.stat().st_size
                report(size, size)
            except Exception as error:  # noqa: BLE001 - one that fails does not keep the others
                results[model] = error

    # Daemons, so that Ctrl-C need not wait for a server that has stalled.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(_PULLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _show(bars: Progress, bar: TaskID, received: int, total: int | None) -> None:
    bars.update(bar, completed=received, total=total)


def _published(model: ModelName) -> WeightsInfo:
    info = model.weights_info
    if info is None:
        raise InvalidArgumentError(f"{model} has no file: its weights are random")
    return info


def _bars() -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=stderr(),
    )


def _wanted(name: str, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern.lower()) for pattern in patterns)


def _task_of(builder: str) -> str:
    """Return the name on the command line of the task that a builder serves."""
    from zoofleet import _catalog
    from zoofleet._wire.kinds import kind_of

    return _Kind[kind_of(_catalog.ModelName(builder, _catalog.RANDOM)).name].value


def _headline(meta: Mapping[str, Any]) -> str:
    for values in meta.get("_metrics", {}).values():
        for metric, value in values.items():
            return f"{metric.replace('_', ' ')} {value:g}"
    return "–"


def _metrics(meta: Mapping[str, Any]) -> list[str]:
    """Return the accuracy on each data set, such as `acc@1 80.858, acc@5 95.434 on ImageNet-1K`."""
    return [
        ", ".join(f"{metric.replace('_', ' ')} {value:g}" for metric, value in values.items()) + f" on {data}"
        for data, values in meta.get("_metrics", {}).items()
    ]


def _gflops(meta: Mapping[str, Any]) -> str:
    return f"{meta['_ops']:.2f}" if "_ops" in meta else "–"


def _file_size(meta: Mapping[str, Any]) -> str:
    return gib(int(meta["_file_size"] * 2**20)) if "_file_size" in meta else "–"


@app.command()
def load(
    name: _Model,
    worker: _Worker = "",
    pin: Annotated[bool, typer.Option("--pin", help="Do not unload the model to make room for others.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Load a model into a worker's memory."""
    with connect(address) as client:
        loaded = client.load_model(name, worker=worker, pin=pin)
    stdout().print(f"{loaded.model} is on {loaded.worker}, {gib(loaded.memory_bytes)}{', pinned' if pin else ''}")


@app.command()
def unload(
    name: _Model,
    worker: Annotated[
        str,
        typer.Option("--worker", "-w", metavar="workers/ID", help="The worker. By default, all that have the model."),
    ] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Unload a model from the memory of workers."""
    with connect(address) as client:
        freed = client.unload_model(name, worker=worker)
    stdout().print(f"{name} is unloaded, {gib(freed)} are free")


@app.command()
def pin(
    name: _Model,
    worker: Annotated[str, typer.Option("--worker", "-w", metavar="workers/ID", help="The worker.")],
    unpin: Annotated[bool, typer.Option("--unpin", help="Allow the worker to unload the model again.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Pin a loaded model, so that the worker does not unload it to make room for others."""
    with connect(address) as client:
        loaded = client.pin_model(name, worker=worker, pinned=not unpin)
    stdout().print(f"{loaded.model} on {loaded.worker} is {'pinned' if loaded.pinned else 'unpinned'}")
