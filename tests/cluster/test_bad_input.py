"""Bad items end as errors that say what is wrong; the rest of the job, and the video up to there, comes out."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from tests.cluster.conftest import Cluster, jpegs
from tests.worker.calls import png

from zoofleet import Classify, ClassifyClip, Client, Detections, Item, Job, JobState, Result, Task, Uri
from zoofleet.errors import (
    InvalidMediaError,
    ItemTooLargeError,
    PermissionDeniedError,
    UnknownModelError,
    ZoofleetError,
)

pytestmark = pytest.mark.cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of a cluster with one worker, which has registered."""
    cluster.start_scheduler()
    cluster.start_worker()
    with Client(cluster.address) as client:
        while not list(client.list_workers()):
            time.sleep(0.05)
        yield client


def run(client: Client, items: list[Item], task: Task) -> tuple[Job, dict[str, Result]]:
    job = client.create_job(items, [task])
    results = {result.item_id: result for result in client.read_results(job.name, follow=True)}
    return client.get_job(job.name), results


def test_bad_images_in_a_job(client: Client, media: Path) -> None:
    photo = (media / "rocket.jpg").read_bytes()
    bad: dict[str, tuple[Item, type[ZoofleetError], str]] = {
        "text": (Item(b"these are words, not pixels", "text"), InvalidMediaError, "text"),
        "empty": (Item(b"", "empty"), InvalidMediaError, "0 bytes"),
        "truncated": (Item(photo[: len(photo) // 3], "truncated"), InvalidMediaError, "truncated"),
        "too-large": (Item(photo + bytes(33 << 20), "too-large"), ItemTooLargeError, str(32 << 20)),
        "huge": (Item(png(50_000, 50_000), "huge"), ItemTooLargeError, "50000"),
        "uri": (Item(Uri("file:///etc/passwd"), "uri"), PermissionDeniedError, "file:///etc/passwd"),
    }
    good = [Item(data, f"good-{i}") for i, data in enumerate(jpegs(20))]
    items = [*good[:10], *(item for item, _, _ in bad.values()), *good[10:]]

    job, results = run(client, items, Classify("mobilenet_v3_large@random"))

    assert job.state is JobState.SUCCEEDED
    assert (job.committed_count, job.error_count) == (26, 6)
    assert results.keys() == {item.item_id for item in items}
    for name, (_, expected, words) in bad.items():
        error = results[name].error
        assert type(error) is expected, f"{name}: {error!r}"
        assert words in str(error)
        assert "Traceback" not in str(error)
    assert all(results[item.item_id].error is None for item in good)


def test_truncated_and_false_clips_in_a_job(client: Client, media: Path) -> None:
    clip = (media / "bigbuckbunny.mp4").read_bytes()
    items = [Item(clip[: len(clip) // 2], "truncated"), Item(b"no clip", "text"), Item(clip, "good")]

    job, results = run(client, items, ClassifyClip("r3d_18@random"))

    assert job.state is JobState.SUCCEEDED
    assert isinstance(results["truncated"].error, InvalidMediaError)
    assert isinstance(results["text"].error, InvalidMediaError)
    assert results["good"].error is None


def test_a_truncated_video_gives_the_frames_before_the_cut(client: Client, media: Path) -> None:
    whole = io.BytesIO()
    # Matroska needs no index at its end, so that half of it is half a video.
    with av.open(str(media / "bigbuckbunny.mp4")) as source, av.open(whole, "w", format="matroska") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    half = whole.getvalue()[: len(whole.getvalue()) // 2]

    analysis = client.analyze_video(half, [Task("ssdlite320_mobilenet_v3_large@random")], frame_step=10)
    frames = list(analysis)

    assert 1 <= len(frames) < 11
    assert [frame.frame_index for frame in frames] == [10 * i for i in range(len(frames))]
    assert all(isinstance(result.outcome, Detections) for frame in frames for result in frame.results)
    with pytest.raises(InvalidMediaError):
        list(client.analyze_video(b"no video", [Task("ssdlite320_mobilenet_v3_large@random")]))


def test_an_unknown_model_is_refused_with_a_suggestion(client: Client) -> None:
    with pytest.raises(UnknownModelError, match="resnet50"):
        client.create_job(list(jpegs(1)), [Task("resnt50")])
