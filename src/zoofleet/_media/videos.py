"""Decoding of untrusted bytes to upright RGB video frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image

from zoofleet.errors import InvalidMediaError, ItemTooLargeError

__all__ = ["Frame", "VideoReader", "sampled"]

# Playlists and the like make FFmpeg open other files and addresses, so only containers are read, without any protocol.
_OPEN_OPTIONS: Final = {
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,h264,hevc,ivf,flv,ogg,asf,gif,m4v,mxf,y4m,yuv4mpegpipe",
    "protocol_whitelist": "none",
}

_QUARTER_TURN: Final = 90


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame.

    Attributes:
        index: the frame's position in the video, from 0, in display order.
        pts: the presentation time in seconds from the start of the video.
        source: the frame as FFmpeg has decoded it.
    """

    index: int
    pts: float
    source: VideoFrame

    def image(self) -> Image.Image:
        """Return the upright frame as an RGB image.

        Raises:
            InvalidMediaError: the frame's pixel format cannot be converted.
        """
        with _as_media_errors(f"frame {self.index}"):
            pixels = self.source.to_ndarray(format="rgb24")  # (H, W, 3)
            turns = round(self.source.rotation / _QUARTER_TURN) % 4
            return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))


class VideoReader:
    """Decodes the frames of one video as they are asked for. May be used from several threads, which then take turns.

    A rotation that the container asks for is applied where it is a multiple of 90 degrees.

    Args:
        file: the encoded video, seekable. The caller closes it after the reader.
        max_pixels: number of pixels that a frame may have at most.

    Attributes:
        decoded_count: number of frames decoded so far.

    Raises:
        InvalidMediaError: FFmpeg cannot read the file as a video.
        ItemTooLargeError: the frames have more than `max_pixels` pixels.
    """

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._lock = threading.Lock()  # to close a container while it decodes crashes the process
        self._closed = False
        self.decoded_count = 0
        with _as_media_errors("the video"):
            self._container = av.open(file, mode="r", options=_OPEN_OPTIONS, metadata_errors="replace")
        try:
            self._frames = self._opened(self._container)
        except BaseException:
            self._container.close()
            raise

    def _opened(self, container: InputContainer) -> Iterator[Frame]:
        if not container.streams.video:
            raise InvalidMediaError("the file has no video stream")
        self._stream = container.streams.video[0]
        context = self._stream.codec_context
        self._check_size(context.width, context.height)
        # FFmpeg checks it wherever the size may change within the stream.
        context.options = {"max_pixels": str(self._max_pixels)}
        context.thread_count = 1
        return self._decode(container)

    @property
    def frame_rate(self) -> float:
        """The average number of frames a second, as the container says. 0 where it does not say."""
        return float(self._stream.average_rate or 0)

    @property
    def frame_count(self) -> int:
        """The number of frames, as the container says. 0 where it does not say."""
        return self._stream.frames

    def next(self) -> Frame | None:
        """Decode and return the next frame. Return None after the last one, and once the reader is closed.

        Raises:
            InvalidMediaError: the video is broken or ends early.
            ItemTooLargeError: the frame has more than `max_pixels` pixels.
        """
        with self._lock:
            return None if self._closed else next(self._frames, None)

    def close(self) -> None:
        """Free the decoder, once it is done with the present frame."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._container.close()

    def _decode(self, container: InputContainer) -> Iterator[Frame]:
        packets = 0
        start: float | None = None
        with _as_media_errors("the video", self):
            for packet in container.demux(self._stream):
                if packet.is_corrupt:
                    raise InvalidMediaError(f"the video is truncated or damaged after {self.decoded_count} frames")
                packets += packet.size > 0
                for source in packet.decode():
                    self._check_size(source.width, source.height)
                    index = self.decoded_count
                    time = source.time if source.pts is not None else index / (self.frame_rate or 25)
                    start = time if start is None else start
                    self.decoded_count += 1
                    yield Frame(index, max(time - start, 0.0), source)
        if packets < self.frame_count:
            raise InvalidMediaError(
                f"the video is truncated: {self.decoded_count} of {self.frame_count} frames could be decoded"
            )

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise ItemTooLargeError(
                f"a video of {width} x {height} pixels; accepted: at most {self._max_pixels} pixels a frame"
            )


@contextmanager
def _as_media_errors(what: str, reader: VideoReader | None = None) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, ValueError, EOFError, OverflowError, NotImplementedError) as error:
        if isinstance(error, InvalidMediaError | ItemTooLargeError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        after = f" after {reader.decoded_count} frames" if reader is not None else ""
        raise InvalidMediaError(f"{what} cannot be decoded{after}: {reason}") from None


def sampled(file: BinaryIO, num_frames: int, max_pixels: int) -> Iterator[Image.Image]:
    """Yield frames of a clip, spread evenly from the first to the last.

    The clip is decoded twice, since the frame counts in containers are not reliable. A clip with fewer frames gives
    some of them more than once.

    Args:
        file: the encoded clip, seekable.
        num_frames: number of frames to yield.
        max_pixels: number of pixels that a frame may have at most.

    Raises:
        InvalidMediaError: the file is no video, or cannot be decoded to its end. The message has the number of frames
            that could.
        ItemTooLargeError: the frames have more than `max_pixels` pixels.
    """
    count = sum(1 for _ in _all(file, max_pixels))
    if count == 0:
        raise InvalidMediaError("the clip has no frame that can be decoded")
    wanted = np.linspace(0, count - 1, num_frames).round().astype(int).tolist()
    for frame in _all(file, max_pixels):
        if frame.index in wanted:
            image = frame.image()
            for _ in range(wanted.count(frame.index)):
                yield image


def _all(file: BinaryIO, max_pixels: int) -> Iterator[Frame]:
    file.seek(0)
    reader = VideoReader(file, max_pixels)
    try:
        while (frame := reader.next()) is not None:
            yield frame
    finally:
        reader.close()
