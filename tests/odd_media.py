"""Files as they are found in the wild: readable or not, but with something odd about them."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
from PIL import Image

FRAMES = 10


def odd_images() -> dict[str, bytes]:
    """Images that Pillow warns of or logs an error at, by file name; it reads all but `samples.tif`."""
    return {
        "exif.jpg": _jpeg_with_truncated_exif(),
        "palette.png": _png_of_transparent_palette(),
        "tag.tif": _tiff((270, 2, 5000, 100_000)),  # a description that begins and ends beyond the file's end
        "count.tif": _tiff((266, 3, 2, 0x00010001)),  # two fill orders
        "samples.tif": _tiff((277, 3, 1, 60)),  # of each pixel
    }


def _jpeg_with_truncated_exif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (9, 8, 7)).save(buffer, "JPEG")
    data = buffer.getvalue()
    # Its directory announces five entries and has one.
    directory = struct.pack("<HHHII", 5, 0x0112, 3, 1, 6)
    body = b"Exif\0\0II*\0\x08\0\0\0" + directory
    return data[:2] + struct.pack(">HH", 0xFFE1, len(body) + 2) + body + data[2:]


def _png_of_transparent_palette() -> bytes:
    image = Image.new("P", (32, 24))
    image.putpalette([level for level in range(256) for _ in "RGB"])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    return buffer.getvalue()


def _tiff(odd_entry: tuple[int, int, int, int]) -> bytes:
    """An RGB image of 32 x 24 pixels whose directory has an entry (tag, type, count, value) more, or another one."""
    size = 32 * 24 * 3
    plain = [(256, 4, 1, 32), (257, 4, 1, 24), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
    plain += [(278, 4, 1, 24), (279, 4, 1, size)]
    entries = {entry[0]: entry for entry in (*plain, odd_entry)}
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[273] = (273, 4, 1, start)
    directory = b"".join(struct.pack("<HHII", *entries[tag]) for tag in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4 + size)


def clip_with_latin1_tags(container: str) -> bytes:
    """Ten small frames whose file and stream have titles in Latin-1, as old programs wrote them.

    Args:
        container: FFmpeg's name of a container format: avi, mp4 or matroska.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as writer:
        writer.metadata["title"] = "file's title"
        stream = writer.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        stream.metadata["title"] = "stream's title"
        for index in range(FRAMES):
            pixels = np.full((48, 64, 3), 20 * index, np.uint8)
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        writer.mux(stream.encode(None))
    data = buffer.getvalue()
    for title in (b"file's title", b"stream's title"):
        assert title in data
        data = data.replace(title, title.replace(b"title", "tïtlé".encode("latin-1")))
    return data
