"""Reading the ground truth of optical flow."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from zoofleet._evaluate.flow_files import read_flow
from zoofleet._values.results import Float32, Flow
from zoofleet.errors import InvalidMediaError
from zoofleet.v1 import vision_pb2


def field() -> Float32:
    """A smooth flow, (2, 30, 50), in the steps that KITTI's PNG has."""
    y, x = np.mgrid[:30, :50]
    steps = (np.stack([x - 20.5, 12 - y * 0.75]) * 64).round()
    result: Float32 = (steps / 64).astype(np.float32)
    return result


def kitti() -> bytes:
    data: bytes = Flow(field()).to_proto(vision_pb2.FLOW_ENCODING_KITTI_PNG).data
    return data


def test_flo(tmp_path: Path) -> None:
    truth = field()
    truth[1, 3, 4], truth[0, 5, 6] = 2e9, np.nan
    (tmp_path / "a.flo").write_bytes(Flow(truth).to_proto(vision_pb2.FLOW_ENCODING_FLO).data)
    flow, known = read_flow(tmp_path / "a.flo")
    assert np.array_equal(flow, truth, equal_nan=True)
    assert np.argwhere(~known).tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize("filtering", ["none", "sub", "up", "avg", "paeth", "mixed"])
def test_kitti_png_of_every_filter(tmp_path: Path, filtering: str) -> None:
    pixels = np.zeros((30, 50, 3), dtype=np.uint16)
    pixels[..., :2] = (field() * 64 + 32768).transpose(1, 2, 0)
    pixels[..., 2] = np.arange(50) % 3 > 0
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 50, 30, "rgb48be"
    encoder.options = {"pred": filtering}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48be")
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    (tmp_path / "a.png").write_bytes(data)
    flow, known = read_flow(tmp_path / "a.png")
    assert flow.dtype == np.float32 and np.array_equal(flow, field())
    assert np.array_equal(known, pixels[..., 2] == 1)


def interlaced() -> bytes:
    """A 2 x 1 PNG of Adam7: its first pixel is all of pass 1, its second of pass 6."""
    rows = b"\0" + struct.pack(">HHH", 32768 + 64, 32768, 1) + b"\0" + struct.pack(">HHH", 32768, 32768 - 128, 1)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 1), b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def test_an_interlaced_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(interlaced())
    flow, known = read_flow(tmp_path / "a.png")
    assert flow[:, 0].tolist() == [[1.0, 0.0], [0.0, -2.0]] and known.all()


def eight_bits() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def flipped() -> bytes:
    data = bytearray(kitti())
    data[100] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no flow"),
        (b"words", "is no flow"),
        (b"PIEH", "which is no .flo file of 0 x 0"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31), "has 43 bytes, which is no .flo file of 2 x 2 pixels"),
        (b"PIEH" + struct.pack("<ii", -1, -1) + bytes(8), "no .flo file of -1 x -1"),
        (eight_bits(), "8 bits, colour type 2; accepted: RGB"),
        (kitti()[:30], "cannot read the flow"),
        (kitti()[: len(kitti()) // 2], "cannot read the flow"),
        (kitti()[:-12], "cannot read the flow"),
        (flipped(), "cannot read the flow"),
    ],
    ids=["empty", "text", "magic", "short", "negative", "8 bits", "header", "half", "no end", "flipped"],
)
def test_bad_files_are_said(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InvalidMediaError, match=message):
        read_flow(tmp_path / "a")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidMediaError, match="No such file"):
        read_flow(tmp_path / "a.flo")
