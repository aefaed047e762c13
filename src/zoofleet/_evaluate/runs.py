"""A dataset's way through the cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

import zoofleet
from zoofleet._client.client import Client
from zoofleet._client.items import Item, MediaSource
from zoofleet._evaluate.datasets import Dataset
from zoofleet._evaluate.evaluation import Evaluation, Failure
from zoofleet._evaluate.metrics import Metric, Sample
from zoofleet._media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, unreadable
from zoofleet._values.resources import Job
from zoofleet._wire.kinds import kind_of
from zoofleet.errors import InvalidArgumentError, ResourceExhaustedError, ZoofleetError

__all__ = ["Progress", "evaluate"]

_JOB_BYTES: Final = 512 << 20
"""A job's files; two jobs at once stay below what a scheduler queues by default, 2 GiB, however large the dataset."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an evaluation has come, in items.

    Attributes:
        sent: sent to the cluster, or found unreadable.
        done: measured or failed.
        failed: failed.
        jobs: names of its jobs that are in the cluster now.
    """

    sent: int
    done: int
    failed: int
    jobs: tuple[str, ...]


def evaluate(client: Client, dataset: Dataset, on_progress: Callable[[Progress], None] | None = None) -> Evaluation:
    """Run a dataset through the cluster and measure the results as they come.

    The items go as durable jobs of at most 512 MiB, the next one sent while one runs; most datasets are one job. A job
    is deleted once its results are read; one that was interrupted stays in the cluster. Items that fail are listed and
    do not count.

    Args:
        client: of a scheduler.
        dataset: what `open_dataset` gave.
        on_progress: called after each item.

    Raises:
        ZoofleetError: a job cannot be sent or its results cannot be read.
    """
    run = _Run(client, dataset, on_progress or (lambda _: None))
    started = time.monotonic()
    run.run()
    scores = run.metric.result()
    task = dataset.task
    options = {field.name: getattr(task, field.name) for field in fields(task) if field.name != "model"}
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
        notes=dataset.notes,
        date=datetime.now(UTC),
        version=zoofleet.__version__,
        duration=time.monotonic() - started,
    )


class _Run:
    """One evaluation.

    Attributes:
        metric: over all results so far.
        failures: reason by item.
    """

    def __init__(self, client: Client, dataset: Dataset, on_progress: Callable[[Progress], None]) -> None:
        self.metric: Metric = dataset.new_metric()
        self.failures: dict[str, str] = {}
        self._client = client
        self._dataset = dataset
        self._on_progress = on_progress
        self._sent = self._measured = 0
        self._jobs: list[str] = []

    def run(self) -> None:
        """Send and measure all of it."""
        queued: deque[tuple[Job, _Portion]] = deque()
        for samples in _portions(self._dataset.samples):
            portion = _Portion(samples, self._sent, self._show_sent)
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

    def _send(self, portion: _Portion) -> Job | None:
        try:
            return self._client.create_job(portion, [self._dataset.task])
        except InvalidArgumentError:
            if len(portion.unreadable) == len(portion.samples):  # a job of no items is refused
                return None
            raise

    def _measure(self, job: Job, portion: _Portion) -> None:
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


class _Portion:
    """Samples as a job's items; it can be iterated again, so the client may send the job again.

    Attributes:
        unreadable: reason by item, of those that were left out.
    """

    def __init__(self, samples: Sequence[Sample], sent_before: int, on_sent: Callable[[int], None]) -> None:
        self.samples = samples
        self.unreadable: dict[str, str] = {}
        self._sent_before = sent_before
        self._on_sent = on_sent

    def __iter__(self) -> Iterator[Item]:
        self.unreadable.clear()
        for count, sample in enumerate(self.samples, start=1):
            try:
                yield Item(_media_of(sample), sample.item_id)
            except _UnreadableError as error:
                self.unreadable[sample.item_id] = str(error)
            self._on_sent(self._sent_before + count)


class _UnreadableError(Exception):
    """Why a file cannot be sent."""


def _media_of(sample: Sample) -> MediaSource | tuple[MediaSource, MediaSource]:
    if isinstance(sample.media, tuple):
        first, second = map(_one_media, sample.media)
        return first, second
    return _one_media(sample.media)


def _one_media(path: Path) -> MediaSource:
    reason = unreadable(path)
    if reason is not None:
        raise _UnreadableError(f"cannot read {path}: {reason}")
    if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return path
    try:  # a format that no server reads, such as PPM: it travels as PNG
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _UnreadableError(f"cannot read {path}: {error}") from None


def _portions(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Samples in runs whose files have at most `_JOB_BYTES`."""
    portion: list[Sample] = []
    size = 0
    for sample in samples:
        paths = sample.media if isinstance(sample.media, tuple) else (sample.media,)
        added = sum(_size(path) for path in paths)
        if portion and size + added > _JOB_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(sample)
        size += added
    if portion:
        yield portion


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
