"""Jobs, lists and videos through the client, against a server that fails first."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from google.rpc import status_pb2
from tests.client import conftest
from tests.client.conftest import Server

from zoofleet import Classify, Client, Item, JobState, Task
from zoofleet._wire.status import DETAILS_KEY, to_status
from zoofleet.errors import (
    AbortedError,
    CancelledError,
    DataLossError,
    InvalidArgumentError,
    InvalidMediaError,
    JobNotFoundError,
    MediaNotFoundError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
    UnknownModelError,
)
from zoofleet.v1 import jobs_pb2, vision_pb2

TASKS = [Task("resnet50"), Classify("mobilenet_v3_large", top_k=2)]


def unavailable() -> UnavailableError:
    return UnavailableError("the scheduler is going away")


def test_a_job_whose_answer_was_lost_is_sent_again_under_its_id(client: Client, server: Server) -> None:
    server.flaky.failures, server.flaky.error = 2, unavailable
    job = client.create_job([b"x", Item(b"yy", "mine"), bytes(5 << 20)], TASKS, tenant="me")
    assert (job.name, job.state, job.item_count, job.tenant) == ("jobs/1", JobState.SUCCEEDED, 3, "me")
    assert job.tasks == (Task("resnet50"), Classify("mobilenet_v3_large", 2))
    assert len(server.flaky.request_ids) == 3 and len(set(server.flaky.request_ids)) == 1
    assert [item.item_id for item in server.flaky.job_items] == ["0", "mine", "2"]


def test_a_job_of_which_the_store_lost_something_is_sent_again(client: Client, server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1, lambda: AbortedError("the store lost some of it")
    assert client.create_job([b"x", b"y"], TASKS).item_count == 2
    assert len(server.flaky.request_ids) == 2 and len(set(server.flaky.request_ids)) == 1


def test_items_that_cannot_be_read_again_are_not_sent_again(client: Client, server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1, unavailable
    with pytest.raises(UnavailableError, match="going away"):
        client.create_job((b"x" for _ in range(3)), TASKS)
    assert len(server.flaky.request_ids) == 1


def test_a_job_that_is_refused_while_it_is_sent_says_why(client: Client, server: Server) -> None:
    server.flaky.refusal = UnknownModelError("no model is named 'resnt50'")
    for _ in range(20):  # what arrives first, the refusal or an item, differs
        with pytest.raises(UnknownModelError, match="resnt50"):
            client.create_job((bytes(1000) for _ in range(2000)), TASKS)


def test_an_unreadable_file_fails_the_job_and_names_the_item(client: Client, server: Server, tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"item '1': .*missing\.jpg.*No such file"):
        client.create_job([b"x", tmp_path / "missing.jpg"], TASKS)
    assert not server.flaky.request_ids


BROKEN_DETAIL = status_pb2.Status(code=5, message="of the details")
BROKEN_DETAIL.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (b"\xff\xfe", "no job is named 'jobs/2'"),
        (b"", "no job is named 'jobs/2'"),
        (status_pb2.Status(code=7, message="another code").SerializeToString(), "no job is named 'jobs/2'"),
        (BROKEN_DETAIL.SerializeToString(), "of the details"),
    ],
    ids=["no status", "empty", "another code", "broken detail"],
)
def test_details_that_only_another_program_sends_do_not_hide_the_error(
    client: Client, monkeypatch: pytest.MonkeyPatch, details: bytes, message: str
) -> None:
    monkeypatch.setattr(conftest, "trailing_metadata", lambda _: ((DETAILS_KEY, details),))
    with pytest.raises(NotFoundError, match=message):
        client.get_job("jobs/2")


def test_bad_job_options_are_refused_here(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="priority 3000000000"):
        client.create_job([b"x"], TASKS, priority=3_000_000_000)


def test_results_are_read_on_from_the_cursor(client: Client, server: Server) -> None:
    client.create_job([b"x"] * 50, TASKS)
    server.flaky.failures, server.flaky.fail_after, server.flaky.error = 5, 7, unavailable
    ids = [result.item_id for result in client.read_results("jobs/1")]
    assert ids == [str(i) for i in range(50)]
    assert server.flaky.failures == 0


def test_a_call_that_the_server_cut_off_is_tried_again(client: Client, server: Server) -> None:
    client.create_job([b"x"] * 5, TASKS)
    server.flaky.failures, server.flaky.fail_after, server.flaky.error = 1, 2, lambda: CancelledError("CANCELLED")
    assert [result.item_id for result in client.read_results("jobs/1")] == [str(i) for i in range(5)]


def test_watching_goes_on_after_a_break(client: Client, server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1, unavailable
    states = [job.state for job in client.watch_job("jobs/1")]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED]
    assert client.wait_job("jobs/1", timeout=10).finished


def test_unary_calls_are_repeated_and_keep_their_errors(client: Client, server: Server) -> None:
    client.create_job([b"x"], TASKS)
    server.flaky.failures, server.flaky.error = 3, unavailable
    assert client.get_job("jobs/1").name == "jobs/1"
    with pytest.raises(JobNotFoundError, match="jobs/2"):
        client.get_job("jobs/2")
    client.delete_job("jobs/1")
    with pytest.raises(UnimplementedError):
        client.cancel_job("jobs/1")


def test_lists_turn_their_pages(client: Client) -> None:
    assert [worker.name for worker in client.list_workers()] == ["workers/0", "workers/1", "workers/2"]


def test_a_state_of_a_later_version_is_said(client: Client, server: Server) -> None:
    server.flaky.job = jobs_pb2.Job(name="jobs/1")
    with pytest.raises(DataLossError, match="0 is no JobState"):
        client.get_job("jobs/1")


def frame(index: int) -> vision_pb2.AnalyzeVideoResponse:
    result = vision_pb2.Result(item_id=str(index), model="resnet50@random")
    result.classification.SetInParent()
    pts = duration_pb2.Duration(seconds=index, nanos=500_000_000)
    return vision_pb2.AnalyzeVideoResponse(frame=vision_pb2.FrameResults(frame_index=index, pts=pts, results=[result]))


def test_a_video_gives_its_frames_between_info_and_summary(client: Client, server: Server, media: Path) -> None:
    server.flaky.video = [
        vision_pb2.AnalyzeVideoResponse(info=vision_pb2.VideoInfo(width=64, height=32, frame_rate=25, frame_count=2)),
        frame(0),
        frame(1),
        vision_pb2.AnalyzeVideoResponse(summary=vision_pb2.VideoSummary(decoded_frame_count=2)),
    ]
    path = media / "bigbuckbunny.mp4"
    for video in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        analysis = client.analyze_video(video, [Classify("resnet50@random")])
        frames = list(analysis)
        assert [(f.frame_index, f.pts, len(f.results)) for f in frames] == [(0, 0.5, 1), (1, 1.5, 1)]
        assert analysis.info is not None and analysis.info.frame_rate == 25
        assert analysis.summary is not None and analysis.summary.decoded_frame_count == 2
        assert server.flaky.video_bytes == path.stat().st_size


def test_a_video_that_turns_unreadable_raises_after_its_frames(client: Client, server: Server) -> None:
    error = to_status(InvalidMediaError("the video breaks off after frame 0"))
    server.flaky.video = [frame(0), vision_pb2.AnalyzeVideoResponse(summary=vision_pb2.VideoSummary(error=error))]
    frames = iter(client.analyze_video(b"video", TASKS))
    assert next(frames).frame_index == 0
    with pytest.raises(InvalidMediaError, match="breaks off"):
        next(frames)


def test_a_missing_video_raises(client: Client, tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"missing\.mp4.*No such file"):
        list(client.analyze_video(tmp_path / "missing.mp4", TASKS))
    with pytest.raises(InvalidMediaError, match="Is a directory"):
        list(client.analyze_video(tmp_path, TASKS))
    with pytest.raises(InvalidMediaError, match="cannot read the video"), (tmp_path / "gone").open("wb") as unreadable:
        list(client.analyze_video(unreadable, TASKS))
