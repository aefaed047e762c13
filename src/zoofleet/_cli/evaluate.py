"""`zoofleet evaluate` and `zoofleet compare`: the accuracy of models on annotated data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoofleet._cli.console import Address, Bar, PrecisionOption, connect, progress, stderr, stdout, table
from zoofleet._wire.address import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from zoofleet._evaluate import Dataset, Evaluation, Progress

_SHOWN_ERRORS = 20


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, such as [bold]resnet50@IMAGENET1K_V2[/].")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="The folder of images or clips.")],
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Detection: a COCO JSON file. Segmentation: a folder of label maps. Flow: a folder of flows."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers to this file.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(metavar="FILE", help="Compare with this older --json file.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure N items only, evenly spread over the data.", metavar="N")
    ] = None,
    num_flow_updates: Annotated[
        int | None, typer.Option(min=1, max=32, help="Number of times that optical flow is refined. 12 by default.")
    ] = None,
    precision: PrecisionOption = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Measure the accuracy of a model on annotated images or clips, through the cluster.

    For classification, IMAGES has a subfolder for each category. The items run
    as durable jobs, which are deleted once their results are read. Shares and
    average precision are 0 to 1, end-point errors are pixels.

    The exit code is 1 where some items failed and the metrics are those of the
    others, and 130 after Ctrl-C.
    """
    from zoofleet import Precision
    from zoofleet._catalog import ModelName
    from zoofleet._evaluate import Evaluation, open_dataset, require_task
    from zoofleet._wire.kinds import TaskKind, kind_of

    kind = kind_of(ModelName.parse(model))
    if num_flow_updates is not None and kind is not TaskKind.ESTIMATE_FLOW:
        raise typer.BadParameter(f"--num-flow-updates is for optical flow; {model} is of the task {kind.field!r}")
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"--json {json_file}: {json_file.parent} is no folder")
    before = Evaluation.from_json(baseline) if baseline is not None else None
    if before is not None:
        require_task(before, kind.field)
    dataset = open_dataset(
        model,
        images,
        annotations,
        limit=limit,
        num_flow_updates=num_flow_updates,
        precision=Precision[precision.name] if precision else None,
    )
    evaluation = _run(dataset, address)
    _print(evaluation, before)
    if json_file is not None:
        json_file.write_text(evaluation.to_json(), encoding="utf-8")
        stdout().print(f"→ {json_file}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if evaluation.failures else 0)


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE.json", help="A file that 'zoofleet evaluate --json' has written.")
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER.json", help="Another such file, of the same task.")],
) -> None:
    """Compare two evaluations, metric by metric."""
    from zoofleet._evaluate import Evaluation

    _print(Evaluation.from_json(after), Evaluation.from_json(before))


def _run(dataset: Dataset, address: str) -> Evaluation:
    from zoofleet._evaluate import evaluate as run

    total = len(dataset.samples)
    jobs: tuple[str, ...] = ()
    with connect(address) as client:
        try:
            with progress() as bars:
                sending, results = Bar(bars, "Sending", total, "items"), Bar(bars, "Results", total, "results")

                def show(state: Progress) -> None:
                    nonlocal jobs
                    jobs = state.jobs
                    sending.show(state.sent)
                    results.show(state.done, errors=state.failed)

                return run(client, dataset, show)
        except KeyboardInterrupt:
            stderr().print("\n[yellow]Stopped: nothing was measured.[/]")
            for name in jobs:
                stderr().print(f"{name} goes on; end it with [bold]zoofleet jobs cancel {name}[/].", soft_wrap=True)
            raise typer.Exit(130) from None


def _print(evaluation: Evaluation, before: Evaluation | None) -> None:
    """Print the failures, the table of metrics, and what was measured."""
    from rich.markup import escape

    from zoofleet._evaluate import rows

    lines = rows(evaluation, before)
    if evaluation.failures:
        listing = table("item", "error")
        for failure in evaluation.failures[:_SHOWN_ERRORS]:
            listing.add_row(escape(failure.item), f"[red]{escape(failure.error)}[/]")
        stderr().print(listing)
        if len(evaluation.failures) > _SHOWN_ERRORS:
            stderr().print(f"… and {len(evaluation.failures) - _SHOWN_ERRORS} more, all of them in the --json file")
    datasets = list(dict.fromkeys(dataset for line in lines for dataset in line.published))
    columns = (">value",) if before is None else (">before", ">after", ">difference")
    result = table("metric", *columns, *(f">published on {dataset}" for dataset in datasets))
    for line in lines:
        values = [line.value] if line.baseline is None else [line.baseline, line.value]
        cells = [_number(value) for value in values]
        if line.baseline is not None:
            cells.append(_number(line.value - line.baseline, sign=True))
        result.add_row(line.metric, *cells, *(_number(line.published.get(name, math.nan)) for name in datasets))
    stdout().print(result)
    for name, one in (("before: ", before), ("after: ", evaluation)):
        if one is not None:
            stdout().print(f"{name if before else ''}{_summary(one)}", markup=False, soft_wrap=True)
    for note in evaluation.notes:
        stderr().print(note, markup=False, style="yellow", soft_wrap=True)


def _number(value: float, *, sign: bool = False) -> str:
    return "–" if math.isnan(value) else f"{value:{'+' if sign else ''}.4f}"


def _summary(evaluation: Evaluation) -> str:
    of = evaluation.images + (f", {evaluation.annotations}" if evaluation.annotations else "")
    counted = evaluation.item_count - len(evaluation.failures)
    failed = f", {len(evaluation.failures)} failed" if evaluation.failures else ""
    return (
        f"{evaluation.model} on {of}: {counted} of {evaluation.item_count} items{failed}, "
        f"in {evaluation.duration:.1f} s, {evaluation.date:%Y-%m-%d %H:%M} UTC"
    )
