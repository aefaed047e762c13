"""The run of a dataset through the cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import zoofleet
from zoofleet._client.client import Client
from zoofleet._evaluate.datasets import Dataset
from zoofleet._evaluate.evaluation import Evaluation, Failure
from zoofleet._evaluate.metrics import Metric
from zoofleet._evaluate.portions import Portion, portions
from zoofleet._values.resources import Job
from zoofleet._values.tasks import Precision, option_names
from zoofleet._wire.kinds import kind_of
from zoofleet.errors import InvalidArgumentError, ResourceExhaustedError, ZoofleetError

__all__ = ["Progress", "evaluate"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an evaluation has come.

    Attributes:
        sent: number of items that were sent to the cluster, or cannot be read.
        done: number of items that were measured, or failed.
        failed: number of items that failed.
        jobs: names of the evaluation's jobs that are in the cluster now.
    """

    sent: int
    done: int
    failed: int
    jobs: tuple[str, ...]


def evaluate(client: Client, dataset: Dataset, on_progress: Callable[[Progress], None] | None = None) -> Evaluation:
    """Run a dataset through the cluster, and measure the results as they come.

    The items are sent as durable jobs of at most 512 MiB; the next job is sent while one runs. Most datasets are one
    job. A job is deleted once its results are read. A job that was interrupted stays in the cluster.

    Args:
        client: a client of a scheduler.
        dataset: a dataset that `open_dataset` has returned.
        on_progress: called after each item.

    Returns:
        The metrics over all items that did not fail, and the items that failed.

    Raises:
        ZoofleetError: a job cannot be sent, or its results cannot be read.
    """
    run = _Run(client, dataset, on_progress or (lambda _: None))
    started = time.monotonic()
    run.run()
    scores = run.metric.result()
    task = dataset.task
    options = {name: getattr(task, name) for name in option_names(type(task))}
    ran_fast = f"{run.fast_count} of {len(dataset.samples)} results ran at precision FAST; the others at EXACT"
    return Evaluation(
        model=task.model,
        task=kind_of(dataset.model).field,
        options={name: value for name, value in options.items() if value is not None},
        images=dataset.images.resolve().name,
        annotations=dataset.annotations.resolve().name if dataset.annotations else None,
        item_count=len(dataset.samples),
        failures=tuple(Failure(*row) for row in run.failures.items()),
        metrics=scores.metrics,
        per_category=scores.per_category,
        notes=(*dataset.notes, ran_fast) if task.precision is Precision.FAST else dataset.notes,
        date=datetime.now(UTC),
        version=zoofleet.__version__,
        duration=time.monotonic() - started,
    )


class _Run:
    """One evaluation.

    Attributes:
        metric: the metric over all results so far.
        failures: the reason for each item that failed.
        fast_count: number of results that ran at precision FAST.
    """

    def __init__(self, client: Client, dataset: Dataset, on_progress: Callable[[Progress], None]) -> None:
        self.metric: Metric = dataset.new_metric()
        self.failures: dict[str, str] = {}
        self.fast_count = 0
        self._client = client
        self._dataset = dataset
        self._on_progress = on_progress
        self._sent = self._measured = 0
        self._jobs: list[str] = []

    def run(self) -> None:
        """Send and measure all items."""
        queued: deque[tuple[Job, Portion]] = deque()
        for samples in portions(self._dataset.samples):
            portion = Portion(samples, self._sent, self._show_sent)
            try:
                job = self._send(portion)
            except ResourceExhaustedError:
                if not queued:
                    raise
                self._measure(*queued.popleft())  # makes room: two jobs at once are more than this cluster takes
                job = self._send(portion)
            self.failures |= portion.unreadable
            if job is not None:
                self._jobs.append(job.name)
                queued.append((job, portion))
            self._show()
            if len(queued) > 1:
                self._measure(*queued.popleft())
        while queued:
            self._measure(*queued.popleft())

    def _send(self, portion: Portion) -> Job | None:
        try:
            return self._client.create_job(portion, [self._dataset.task])
        except InvalidArgumentError:
            if len(portion.unreadable) == len(portion.samples):  # a job of no items is refused
                return None
            raise

    def _measure(self, job: Job, portion: Portion) -> None:
        waiting = {s.item_id: s for s in portion.samples if s.item_id not in portion.unreadable}
        for result in self._client.read_results(job.name, follow=True):
            sample = waiting.pop(result.item_id, None)
            if sample is None:  # a job has exactly one result for each of its items
                continue
            try:
                if isinstance(result.outcome, ZoofleetError):
                    raise result.outcome
                self.metric.add(sample, result.outcome)
                self._measured += 1
                self.fast_count += result.precision == "PRECISION_FAST"
            except ZoofleetError as error:
                self.failures[sample.item_id] = str(error)
            self._show()
        ended = self._client.get_job(job.name)
        reason = f": {ended.error}" if ended.error is not None else ""
        for item_id in waiting:
            self.failures[item_id] = f"no result: {job.name} {ended.state.name.lower()}{reason}"
        if ended.finished:
            self._client.delete_job(job.name)
            self._jobs.remove(job.name)
        self._show()

    def _show_sent(self, sent: int) -> None:
        self._sent = sent
        self._show()

    def _show(self) -> None:
        failed = len(self.failures)
        self._on_progress(Progress(self._sent, self._measured + failed, failed, tuple(self._jobs)))
