"""A small gRPC server of the contract that fails when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2

from zoofleet import Client
from zoofleet._wire.parts import Joiner, cut, pack
from zoofleet._wire.status import grpc_code, trailing_metadata
from zoofleet.errors import JobNotFoundError, ZoofleetError
from zoofleet.v1 import fleet_pb2, fleet_pb2_grpc, jobs_pb2, jobs_pb2_grpc, vision_pb2, vision_pb2_grpc


def abort(context: grpc.ServicerContext, error: ZoofleetError) -> None:
    """End the call as a Zoofleet server does."""
    context.set_trailing_metadata(trailing_metadata(error))
    context.abort(grpc_code(error), str(error))


@dataclass
class Flaky(vision_pb2_grpc.VisionServicer, jobs_pb2_grpc.JobsServicer, fleet_pb2_grpc.FleetServicer):
    """Answers `Classify` with the size of each item, and keeps one job.

    Attributes:
        failures: calls still to be failed, each after `fail_after` answers.
        fail_after: answers given in a call that is to fail.
        error: what it fails with.
        streams: the ids of the items received in each `Classify` call.
        ended: set when a call was ended by its client.
        refusal: what `CreateJob` answers before it has read anything.
        request_ids: of each `CreateJob` call that was read to its end.
        job_items: the items of the job.
        job: what `GetJob` answers.
        reading: set when `ReadResults` is called.
        hold: clear to hold `ReadResults` back.
        result_bytes: how large results of `Classify` are made.
        video: what `AnalyzeVideo` answers.
        video_bytes: bytes of video that came in.
        batches: whether `Classify` knows batches.
        batch_sizes: of the batches that it has received.
    """

    failures: int = 0
    fail_after: int = 0
    error: Callable[[], ZoofleetError] | None = None
    streams: list[list[str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    refusal: ZoofleetError | None = None
    request_ids: list[str] = field(default_factory=list)
    job_items: list[vision_pb2.Item] = field(default_factory=list)
    job: jobs_pb2.Job = field(default_factory=jobs_pb2.Job)
    result_bytes: int = 0
    reading: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event = field(default_factory=threading.Event)
    video: list[vision_pb2.AnalyzeVideoResponse] = field(default_factory=list)
    video_bytes: int = 0
    batches: bool = False
    batch_sizes: list[int] = field(default_factory=list)

    def _fail(self, context: grpc.ServicerContext, answered: int) -> None:
        if self.failures and answered >= self.fail_after and self.error is not None:
            self.failures -= 1
            abort(context, self.error())

    def Classify(  # noqa: N802
        self, request_iterator: Iterator[vision_pb2.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[vision_pb2.ClassifyResponse]:
        """Answer in the order of arrival."""
        context.add_callback(self.ended.set)
        first = next(request_iterator)
        task, in_batches = first.task, first.accepts_batches and self.batches
        received: list[str] = []
        self.streams.append(received)
        items = _items(self._unpacked(request_iterator) if in_batches else request_iterator)
        for answered, item in enumerate(items):
            self._fail(context, answered)
            received.append(item.item_id)
            result = vision_pb2.Result(item_id=item.item_id, model=task.model, precision=vision_pb2.PRECISION_EXACT)
            result.classification.labels.append(len(item.media[0].data))
            result.classification.scores.append(1.0)
            result.classification.categories.append("size" + " " * self.result_bytes)
            yield from (
                pack(vision_pb2.ClassifyResponse, [result]) if in_batches else cut(vision_pb2.ClassifyResponse, result)
            )
        self._fail(context, len(received))

    def _unpacked(self, requests: Iterator[vision_pb2.ClassifyRequest]) -> Iterator[vision_pb2.ClassifyRequest]:
        for request in requests:
            if request.batch.items:
                self.batch_sizes.append(len(request.batch.items))
                yield from (vision_pb2.ClassifyRequest(item=item) for item in request.batch.items)
            else:
                yield request

    def AnalyzeVideo(  # noqa: N802
        self, request_iterator: Iterator[vision_pb2.AnalyzeVideoRequest], context: grpc.ServicerContext
    ) -> Iterator[vision_pb2.AnalyzeVideoResponse]:
        """Count the bytes and answer what was set."""
        next(request_iterator)
        self.video_bytes = sum(len(request.data) for request in request_iterator)
        yield from self.video

    def CreateJob(  # noqa: N802
        self, request_iterator: Iterator[jobs_pb2.CreateJobRequest], context: grpc.ServicerContext
    ) -> jobs_pb2.Job:
        """Store the items once for a request_id; a failing call has stored them, and its answer is lost."""
        if self.refusal is not None:
            abort(context, self.refusal)
        gone = threading.Event()
        context.add_callback(gone.set)
        spec = next(request_iterator).spec
        items = list(_items(request_iterator))
        if gone.wait(0.2):  # a call that is cancelled may look for a moment as if its client had written all
            return self.job
        if spec.request_id not in self.request_ids:
            self.job_items = items
        self.request_ids.append(spec.request_id)
        self.job = jobs_pb2.Job(
            name="jobs/1",
            tasks=spec.job.tasks,
            tenant=spec.job.tenant,
            state=jobs_pb2.Job.STATE_SUCCEEDED,
            item_count=len(items),
            result_count=len(items),
            committed_count=len(items),
        )
        self._fail(context, 0)
        return self.job

    def GetJob(self, request: jobs_pb2.GetJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:  # noqa: N802
        """The one job."""
        self._fail(context, 0)
        if request.name != "jobs/1":
            abort(context, JobNotFoundError(f"no job is named {request.name!r}"))
        return self.job

    def DeleteJob(self, request: jobs_pb2.DeleteJobRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:  # noqa: N802
        """Nothing."""
        return empty_pb2.Empty()

    def WatchJob(  # noqa: N802
        self, request: jobs_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.WatchJobResponse]:
        """Running, then finished."""
        yield jobs_pb2.WatchJobResponse(job=jobs_pb2.Job(name="jobs/1", state=jobs_pb2.Job.STATE_RUNNING))
        self._fail(context, 1)
        yield jobs_pb2.WatchJobResponse(job=jobs_pb2.Job(name="jobs/1", state=jobs_pb2.Job.STATE_SUCCEEDED))

    def ReadResults(  # noqa: N802
        self, request: jobs_pb2.ReadResultsRequest, context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.ReadResultsResponse]:
        """A result for each item, from the cursor on."""
        self.reading.set()
        self.hold.wait(60)
        start = int(request.cursor or 0)
        for position in range(start, len(self.job_items)):
            self._fail(context, position - start)
            result = vision_pb2.Result(item_id=self.job_items[position].item_id, model="resnet50@random")
            result.classification.SetInParent()
            yield jobs_pb2.ReadResultsResponse(result=result, cursor=str(position + 1))

    def ListWorkers(  # noqa: N802
        self, request: fleet_pb2.ListWorkersRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.ListWorkersResponse:
        """Three pages of one worker."""
        page = int(request.page_token or 0)
        worker = fleet_pb2.Worker(name=f"workers/{page}", state=fleet_pb2.Worker.STATE_READY)
        return fleet_pb2.ListWorkersResponse(workers=[worker], next_page_token=str(page + 1) if page < 2 else "")


def _items(
    messages: Iterator[vision_pb2.ClassifyRequest] | Iterator[jobs_pb2.CreateJobRequest],
) -> Iterator[vision_pb2.Item]:
    joiner = Joiner(vision_pb2.Item, 1 << 30)
    for message in messages:
        if (joined := joiner.add(message)) is not None:
            _, item = joined
            assert not isinstance(item, ZoofleetError)
            yield item


@dataclass
class Server:
    """The server under its own address, so that it can go away and come back."""

    flaky: Flaky
    port: int = 0
    _server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        vision_pb2_grpc.add_VisionServicer_to_server(self.flaky, self._server)
        jobs_pb2_grpc.add_JobsServicer_to_server(self.flaky, self._server)
        fleet_pb2_grpc.add_FleetServicer_to_server(self.flaky, self._server)
        self.port = self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        """Cut all calls off."""
        assert self._server is not None
        self._server.stop(None).wait()

    def interrupt_while_reading(self, *arguments: str | Path) -> tuple[int, str]:
        """Run a command of `zoofleet` and send it Ctrl-C while `ReadResults` is held back: exit code and stderr."""
        self.flaky.hold.clear()
        try:
            with subprocess.Popen(
                [sys.executable, "-m", "zoofleet", *arguments],
                env=os.environ | {"ZOOFLEET_ADDRESS": self.address},
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                assert self.flaky.reading.wait(60)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=60)
        finally:
            self.flaky.hold.set()
        return process.returncode, said


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    server = Server(Flaky())  # type: ignore[abstract]  # methods that it lacks answer UNIMPLEMENTED
    server.flaky.hold.set()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of `server` that tries again for 20 seconds."""
    with Client(server.address, retry_timeout=20.0) as client:
        yield client
