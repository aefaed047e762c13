"""The client, for asyncio; `zoofleet._client.client` is the same for everybody else."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import grpc

from zoofleet._client.items import Item, ItemSource, MediaSource, read_items, requests
from zoofleet._client.retry import Backoff
from zoofleet._client.video_analysis import AsyncVideoAnalysis, VideoSource
from zoofleet._client.vision_stream import MAX_RESULT_BYTES, VisionStream, run_one
from zoofleet._values.resources import Job, LoadedModel, Model, TaskName, Worker
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Result, Segmentation
from zoofleet._values.tasks import Classify, ClassifyClip, Detect, EstimateFlow, Segment, Task
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.parts import Assembler
from zoofleet.errors import (
    DataLossError,
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
    ZoofleetError,
)
from zoofleet.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    vision_pb2,
    vision_pb2_grpc,
)

__all__ = ["AsyncClient"]

ADDRESS_VARIABLE: Final = "ZOOFLEET_ADDRESS"
DEFAULT_ADDRESS: Final = "127.0.0.1:50051"


class _Page(Protocol):
    next_page_token: str


_O = TypeVar("_O", bound=Outcome)
_R = TypeVar("_R")
_P = TypeVar("_P", bound=_Page)


class AsyncClient:
    """A connection to a Zoofleet scheduler, or to a single worker for `Vision` and `Models` alone.

    Calls that fail because the server cannot be reached are repeated, with growing pauses. Use it as an
    asynchronous context manager, within one event loop:

        async with AsyncClient() as client:
            result = await client.classify("cat.jpg", model="resnet50")

    Args:
        address: host:port; the variable ZOOFLEET_ADDRESS or else 127.0.0.1:50051 where None.
        retry_timeout: seconds without progress after which a call that the server does not answer fails; 0 never
            repeats a call.

    Every method raises the errors of `zoofleet.errors` only, besides what a caller's own items raise.
    """

    def __init__(self, address: str | None = None, *, retry_timeout: float = 30.0) -> None:
        self.address = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        self._retry_timeout = retry_timeout
        self._channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self._vision: vision_pb2_grpc.VisionAsyncStub = vision_pb2_grpc.VisionStub(self._channel)
        self._jobs: jobs_pb2_grpc.JobsAsyncStub = jobs_pb2_grpc.JobsStub(self._channel)
        self._models: models_pb2_grpc.ModelsAsyncStub = models_pb2_grpc.ModelsStub(self._channel)
        self._fleet: fleet_pb2_grpc.FleetAsyncStub = fleet_pb2_grpc.FleetStub(self._channel)

    async def close(self) -> None:
        """End all calls and close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until the server accepts connections.

        Raises:
            UnavailableError: it does not within `timeout` seconds.
        """
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError:
            raise UnavailableError(f"no Zoofleet server answers at {self.address}") from None

    # Vision

    async def classify(
        self, image: MediaSource | Item, *, model: str, top_k: int | None = None, timeout: float | None = None
    ) -> Classification:
        """Rank an image's categories.

        Args:
            image: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3), or a `Uri`.
            model: such as `resnet50` or `resnet50@IMAGENET1K_V2`.
            top_k: number of categories, 1 to 1000; 5 where None.
            timeout: most seconds to wait; no limit where None.

        Raises:
            ZoofleetError: why there is no result; `MediaNotFoundError`, which is a FileNotFoundError too, where there
                is no such file, `InvalidMediaError` where it is no image.
        """
        return await self._one(Classify(model, top_k), image, Classification, timeout)

    async def segment(self, image: MediaSource | Item, *, model: str, timeout: float | None = None) -> Segmentation:
        """Label each pixel of an image; arguments and errors as `classify`."""
        return await self._one(Segment(model), image, Segmentation, timeout)

    async def detect(
        self,
        image: MediaSource | Item,
        *,
        model: str,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        timeout: float | None = None,
    ) -> Detections:
        """Find objects in an image, with masks and keypoints where the model has them.

        Args:
            image: as `classify`.
            model: such as `maskrcnn_resnet50_fpn`.
            score_threshold: leaves out detections below it, 0 to 1; 0.5 where None.
            max_detections: most detections, 1 to 1000; 100 where None.
            timeout: as `classify`.

        Raises:
            ZoofleetError: as `classify`.
        """
        return await self._one(Detect(model, score_threshold, max_detections), image, Detections, timeout)

    async def classify_clip(
        self,
        clip: MediaSource | Item,
        *,
        model: str,
        top_k: int | None = None,
        num_frames: int | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Rank a video clip's categories.

        Args:
            clip: the path or the bytes of an encoded video, or a `Uri`.
            model: such as `r3d_18`.
            top_k: number of categories, 1 to 1000; 5 where None.
            num_frames: frames sampled, spread evenly over the clip, 1 to 64; 16 where None.
            timeout: as `classify`.

        Raises:
            ZoofleetError: as `classify`.
        """
        return await self._one(ClassifyClip(model, top_k, num_frames), clip, Classification, timeout)

    async def estimate_flow(
        self,
        first: MediaSource,
        second: MediaSource,
        *,
        model: str,
        num_flow_updates: int | None = None,
        timeout: float | None = None,
    ) -> Flow:
        """Estimate the optical flow from one image to another of the same size.

        Args:
            first: as `classify`'s image.
            second: as `classify`'s image.
            model: such as `raft_small`.
            num_flow_updates: refinements, 1 to 32; 12 where None.
            timeout: as `classify`.

        Raises:
            ZoofleetError: as `classify`.
        """
        return await self._one(EstimateFlow(model, num_flow_updates), (first, second), Flow, timeout)

    async def _one(self, task: Task, source: ItemSource, outcome: type[_O], timeout: float | None) -> _O:
        try:
            async with asyncio.timeout(timeout):
                result = await run_one(self._open_stream(task, [source]))
        except TimeoutError as error:
            if isinstance(error, ZoofleetError):
                raise
            raise DeadlineExceededError(f"no result from {self.address} within {timeout:g} s") from None
        if isinstance(result.outcome, ZoofleetError):
            raise result.outcome
        if not isinstance(result.outcome, outcome):
            raise DataLossError(f"{task.model} gave {type(result.outcome).__name__}, not {outcome.__name__}")
        return result.outcome

    def stream(self, task: Task, items: Iterable[ItemSource] | AsyncIterable[ItemSource]) -> AsyncGenerator[Result]:
        """Run a task over many items: read as they can be sent, their results as they become ready.

        An item that fails has its error in its result and ends nothing. When the connection breaks, the items that
        are not answered are sent again.

        Args:
            task: `Classify`, `Segment`, `Detect`, `ClassifyClip` or `EstimateFlow`.
            items: media, pairs of images (tuples) for optical flow, or `Item`s with ids of their own. A plain iterable
                is read in a thread, one item at a time, never more than 64 ahead of the results.

        Raises:
            InvalidArgumentError: `task` is a plain `Task`, whose method is not known.
        """
        return self._open_stream(task, items).results()

    def _open_stream(self, task: Task, items: Iterable[ItemSource] | AsyncIterable[ItemSource]) -> VisionStream:
        if task.kind is None:
            raise InvalidArgumentError(f"{task}; accepted: Classify, Segment, Detect, ClassifyClip or EstimateFlow")
        return VisionStream(getattr(self._vision, task.kind.method), task.kind, task, items, self._retry_timeout)

    def analyze_video(
        self,
        video: VideoSource,
        tasks: Iterable[Task],
        *,
        frame_step: int = 1,
        max_frames: int = 0,
    ) -> AsyncVideoAnalysis:
        """Decode a video once and run tasks over its frames.

        Args:
            video: a path, the encoded bytes, or a binary file that is read as it is sent.
            tasks: 1 to 8. Image tasks run on each analysed frame, optical flow on each and the one analysed before it,
                clip classification on each run of `num_frames` analysed frames.
            frame_step: analyses every so many frames, the first one always.
            max_frames: stops after so many analysed frames; 0 for all.

        Returns:
            An asynchronous iterator over the frames' results.
        """
        try:
            header = vision_pb2.VideoHeader(
                tasks=[task.to_proto() for task in tasks], frame_step=frame_step, max_frames=max_frames
            )
        except ValueError as error:
            raise InvalidArgumentError(f"frame_step {frame_step}, max_frames {max_frames}: {error}") from None
        return AsyncVideoAnalysis(self._vision.AnalyzeVideo, header, video)

    # Jobs

    async def create_job(
        self,
        items: Iterable[ItemSource] | AsyncIterable[ItemSource],
        tasks: Iterable[Task],
        *,
        tenant: str = "",
        priority: int = 0,
        ttl: float | None = None,
        request_id: str | None = None,
    ) -> Job:
        """Queue a job that survives both ends: once this returns, all of it is stored.

        While the server cannot be reached the job is sent again, if `items` is something that can be iterated again
        (a list, not a generator); the same request_id makes sure that it is queued once.

        Args:
            items: as `stream`. An item that cannot be read fails the call.
            tasks: 1 to 8, each run on every item.
            tenant: whom quotas and fairness count it under: 1 to 63 of a-z, 0-9 and '-'.
            priority: before all jobs of the same tenant with a lower one, -100 to 100.
            ttl: seconds for which it is kept after it has finished; the server's default (24 h) where None.
            request_id: a UUID; the same again returns the job of the first time. A fresh one where None.

        Raises:
            MediaNotFoundError, PermissionDeniedError, InvalidMediaError: a file that is not there or cannot be read.
            ResourceExhaustedError: over a quota.
        """
        try:
            job = jobs_pb2.Job(tasks=[task.to_proto() for task in tasks], tenant=tenant, priority=priority)
            if ttl is not None:
                job.ttl.FromTimedelta(timedelta(seconds=ttl))
        except (ValueError, OverflowError) as error:
            raise InvalidArgumentError(f"tenant {tenant!r}, priority {priority}, ttl {ttl}: {error}") from None
        spec = jobs_pb2.JobSpec(job=job, request_id=request_id or str(uuid.uuid4()))
        backoff = Backoff(0 if isinstance(items, Iterator | AsyncIterator) else self._retry_timeout)
        while True:
            try:
                return await self._upload(spec, items)
            except ZoofleetError as error:
                await backoff.pause(error)

    async def _upload(self, spec: jobs_pb2.JobSpec, items: Iterable[ItemSource] | AsyncIterable[ItemSource]) -> Job:
        call = self._jobs.CreateJob()
        with typed_errors(Ending(call)):
            try:
                await call.write(jobs_pb2.CreateJobRequest(spec=spec))
                async with aclosing(read_items(items)) as sources:
                    async for item_id, item in sources:
                        if isinstance(item, ZoofleetError):
                            raise type(item)(f"item {item_id!r}: {item}")
                        for request in requests(jobs_pb2.CreateJobRequest, item):
                            await call.write(request)
                await call.done_writing()
            except (grpc.RpcError, asyncio.InvalidStateError):
                pass  # the call has ended: its status says why
            except BaseException:
                call.cancel()
                raise
            return Job.from_proto(await call)

    async def get_job(self, name: str) -> Job:
        """Return a job as it stands.

        Raises:
            JobNotFoundError: no such job, or it has expired.
        """
        return Job.from_proto(await self._call(self._jobs.GetJob, jobs_pb2.GetJobRequest(name=name)))

    async def list_jobs(self, *, tenant: str = "") -> AsyncGenerator[Job]:
        """Yield all jobs, the newest first.

        Args:
            tenant: only this one's; all where empty.
        """
        request = jobs_pb2.ListJobsRequest(tenant=tenant)
        async for page in self._pages(self._jobs.ListJobs, request):
            for job in page.jobs:
                yield Job.from_proto(job)

    async def cancel_job(self, name: str) -> Job:
        """Stop a job: what has not run yet gets a `CancelledError`. A finished job stays as it is.

        Raises:
            JobNotFoundError: no such job.
        """
        return Job.from_proto(await self._call(self._jobs.CancelJob, jobs_pb2.CancelJobRequest(name=name)))

    async def delete_job(self, name: str) -> None:
        """Delete a finished job with its items and results.

        Raises:
            JobNotFoundError: no such job.
            FailedPreconditionError: it has not finished: cancel it first.
        """
        await self._call(self._jobs.DeleteJob, jobs_pb2.DeleteJobRequest(name=name))

    async def watch_job(self, name: str) -> AsyncGenerator[Job]:
        """Yield a job now and at each change, until it has finished; goes on when the scheduler restarts.

        Raises:
            JobNotFoundError: no such job, or it was deleted meanwhile.
        """
        backoff = Backoff(self._retry_timeout)
        while True:
            try:
                async for response in _responses(self._jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name))):
                    backoff.progress()
                    job = Job.from_proto(response.job)
                    yield job
                    if job.finished:
                        return
                raise UnavailableError(f"the server ended its report on {name} before the job had finished")
            except UnavailableError as error:
                await backoff.pause(error)

    async def wait_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Wait until a job has finished and return it.

        Raises:
            DeadlineExceededError: it has not within `timeout` seconds.
            JobNotFoundError: no such job.
        """
        try:
            async with asyncio.timeout(timeout), aclosing(self.watch_job(name)) as states:
                async for job in states:
                    if job.finished:
                        return job
        except TimeoutError as error:
            if isinstance(error, ZoofleetError):
                raise
            raise DeadlineExceededError(f"{name} has not finished within {timeout:g} s") from None
        raise UnavailableError(f"{name} was not watched to its end")

    async def read_results(self, name: str, *, follow: bool = True) -> AsyncGenerator[Result]:
        """Yield a job's results, each once, in the order in which they were committed.

        Args:
            name: `jobs/{job}`.
            follow: waits for further results until the job has finished; else ends with those there are.

        Raises:
            JobNotFoundError: no such job, or it was deleted meanwhile.
        """
        backoff = Backoff(self._retry_timeout)
        cursor = ""
        while True:
            request = jobs_pb2.ReadResultsRequest(name=name, cursor=cursor, follow=follow)
            assembler = Assembler(vision_pb2.Result, MAX_RESULT_BYTES)
            try:
                async for response in _responses(self._jobs.ReadResults(request)):
                    backoff.progress()
                    part = response.WhichOneof("message") == "part"
                    joined = assembler.add(response.part) if part else response.result
                    if isinstance(joined, ZoofleetError):
                        raise joined
                    if joined is not None:
                        cursor = response.cursor
                        yield Result.from_proto(joined)
                return
            except UnavailableError as error:
                await backoff.pause(error)

    # Models

    async def list_models(self, *, task: TaskName | None = None) -> AsyncGenerator[Model]:
        """Yield the models of the catalog by name; only those of one kind where `task` is given."""
        request = models_pb2.ListModelsRequest(task_kind=task.value if task else models_pb2.TASK_KIND_UNSPECIFIED)
        async for page in self._pages(self._models.ListModels, request):
            for model in page.models:
                yield Model.from_proto(model)

    async def get_model(self, builder: str) -> Model:
        """Return one model, such as `resnet50`, with its weight sets and where it is loaded.

        Raises:
            UnknownModelError: no such model.
        """
        request = models_pb2.GetModelRequest(name=f"models/{builder.removeprefix('models/')}")
        return Model.from_proto(await self._call(self._models.GetModel, request))

    async def load_model(self, model: str, *, worker: str = "", pin: bool = False) -> LoadedModel:
        """Load a model and return once it is ready.

        Args:
            model: such as `resnet50@IMAGENET1K_V2`.
            worker: `workers/{worker}`; the one with the most room where empty.
            pin: keeps it from being unloaded to make room.

        Raises:
            UnknownModelError, UnknownWeightsError, WorkerNotFoundError: no such model, weight set or worker.
            ResourceExhaustedError: it does not fit into the memory budget.
            UnavailableError: no worker, or published weights cannot be fetched.
        """
        request = models_pb2.LoadModelRequest(model=model, worker=worker, pin=pin)
        return LoadedModel.from_proto((await self._call(self._models.LoadModel, request)).loaded_model)

    async def unload_model(self, model: str, *, worker: str = "") -> int:
        """Unload a model from a worker, or from all, once what runs on it has ended.

        Returns:
            Bytes of memory that came free, measured.

        Raises:
            NotFoundError: no such worker, or it is not loaded there.
            FailedPreconditionError: it is pinned.
        """
        request = models_pb2.UnloadModelRequest(model=model, worker=worker)
        return (await self._call(self._models.UnloadModel, request)).freed_bytes

    async def pin_model(self, model: str, *, worker: str, pinned: bool = True) -> LoadedModel:
        """Keep a loaded model from being unloaded to make room, or let it go again.

        Raises:
            NotFoundError: no such worker, or it is not loaded there.
        """
        request = models_pb2.PinModelRequest(model=model, worker=worker, pinned=pinned)
        return LoadedModel.from_proto((await self._call(self._models.PinModel, request)).loaded_model)

    # Fleet

    async def list_workers(self) -> AsyncGenerator[Worker]:
        """Yield live workers by name."""
        async for page in self._pages(self._fleet.ListWorkers, fleet_pb2.ListWorkersRequest()):
            for worker in page.workers:
                yield Worker.from_proto(worker)

    async def drain_worker(self, name: str) -> Worker:
        """Give a worker no further work; what it has is finished.

        Raises:
            WorkerNotFoundError: no such worker.
        """
        return Worker.from_proto(await self._call(self._fleet.DrainWorker, fleet_pb2.DrainWorkerRequest(name=name)))

    async def _call(self, method: Callable[[Any], Awaitable[_R]], request: Any) -> _R:
        """Call a unary method, all of which may be repeated."""
        backoff = Backoff(self._retry_timeout)
        while True:
            try:
                with typed_errors():
                    return await method(request)
            except ZoofleetError as error:
                await backoff.pause(error)

    async def _pages(self, method: Callable[[Any], Awaitable[_P]], request: Any) -> AsyncGenerator[_P]:
        while True:
            page = await self._call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


async def _responses(call: grpc.aio.UnaryStreamCall[Any, _R]) -> AsyncGenerator[_R]:
    try:
        with typed_errors():
            async for response in call:
                yield response
    finally:
        call.cancel()
