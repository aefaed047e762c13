"""Untrusted bytes to video frames."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from tests.worker.calls import small_clip

from zoofleet._media.videos import VideoReader, sampled
from zoofleet.errors import InvalidMediaError, ItemTooLargeError

LIMIT = 50_000_000


def test_all_frames_come_in_order_with_their_times(clip: bytes) -> None:
    reader = VideoReader(io.BytesIO(clip), LIMIT)
    frames = []
    while (frame := reader.next()) is not None:
        frames.append(frame)
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.pts for frame in frames] == pytest.approx([i / 25 for i in range(20)])
    assert (reader.frame_rate, reader.frame_count, reader.decoded_count) == (25, 20, 20)
    with av.open(io.BytesIO(clip), "r") as container:
        for frame, source in zip(frames, container.decode(video=0), strict=True):
            np.testing.assert_array_equal(np.asarray(frame.image()), source.to_ndarray(format="rgb24"))
    reader.close()
    assert reader.next() is None


def test_the_containers_rotation_is_applied(media: Path) -> None:
    plain = next(sampled(io.BytesIO(small_clip(media / "bigbuckbunny.mp4", 3)), 1, LIMIT))
    turned = next(sampled(io.BytesIO(small_clip(media / "bigbuckbunny.mp4", 3, rotation=90)), 1, LIMIT))
    assert turned.size == (plain.height, plain.width)
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(plain)))


def test_sampled_frames_are_spread_from_the_first_to_the_last(clip: bytes) -> None:
    reader = VideoReader(io.BytesIO(clip), LIMIT)
    everything = [np.asarray(frame.image()) for _ in range(20) if (frame := reader.next()) is not None]
    reader.close()
    four = [np.asarray(image) for image in sampled(io.BytesIO(clip), 4, LIMIT)]
    assert len(four) == 4
    for image, index in zip(four, (0, 6, 13, 19), strict=True):
        np.testing.assert_array_equal(image, everything[index])
    assert len(list(sampled(io.BytesIO(clip), 64, LIMIT))) == 64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a video" * 100,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    ],
    ids=["empty", "text", "playlist", "concat"],
)
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMediaError):
        VideoReader(io.BytesIO(data), LIMIT)


def test_a_video_without_its_index_is_refused(media: Path) -> None:
    data = (media / "bigbuckbunny.mp4").read_bytes()  # its index stands at the end
    with pytest.raises(InvalidMediaError, match="cannot be decoded"):
        VideoReader(io.BytesIO(data[: len(data) // 2]), LIMIT)


def test_a_truncated_video_gives_the_frames_before(clip: bytes) -> None:
    reader = VideoReader(io.BytesIO(clip[: len(clip) * 9 // 10]), LIMIT)
    frames = [reader.next() for _ in range(12)]
    assert all(frames)
    with pytest.raises(InvalidMediaError, match="truncated or damaged after 12 frames"):
        reader.next()
    reader.close()
    with pytest.raises(InvalidMediaError, match="12"):
        list(sampled(io.BytesIO(clip[: len(clip) * 9 // 10]), 4, LIMIT))


def test_frames_over_the_limit_are_refused(clip: bytes) -> None:
    with pytest.raises(ItemTooLargeError, match="160 x 128"):
        VideoReader(io.BytesIO(clip), 160 * 128 - 1)


def test_a_file_without_video_is_refused() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as writer:
        stream = writer.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        writer.mux(stream.encode(frame))
    with pytest.raises(InvalidMediaError, match="no video stream"):
        VideoReader(io.BytesIO(buffer.getvalue()), LIMIT)
