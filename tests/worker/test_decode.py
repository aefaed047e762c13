"""Untrusted bytes to images."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.worker.calls import png

from zoofleet._media.images import decode_image
from zoofleet.errors import (
    InvalidArgumentError,
    InvalidMediaError,
    ItemTooLargeError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    ZoofleetError,
)
from zoofleet.worker.fetch import fetch

LIMIT = 50_000_000


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_each_format_decodes_to_what_pillow_reads(media: Path, file_format: str) -> None:
    data = encoded(Image.open(media / "chelsea.png"), file_format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode_image(data, LIMIT)), expected)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes"),
        (b"Dear worker,\nthis is no picture.\n", "text beginning 'Dear worker"),
        (b"%PDF-1.7\n", "a PDF"),
        (bytes(range(1, 200)), "0x0102"),
        (b"\0\0\0\x18ftypmp42", "an MP4 video"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "a PNG"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "a JPEG"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, said: str) -> None:
    with pytest.raises(InvalidMediaError, match=said):
        decode_image(data, LIMIT)


@pytest.mark.parametrize("name", ["rocket.jpg", "chelsea.png"])
def test_a_truncated_image_is_refused(media: Path, name: str) -> None:
    data = (media / name).read_bytes()
    with pytest.raises(InvalidMediaError, match="truncated"):
        decode_image(data[: len(data) // 2], LIMIT)


def test_formats_beside_the_six_are_refused(media: Path) -> None:
    with pytest.raises(InvalidMediaError, match="JPEG, PNG, WEBP, BMP, GIF, TIFF"):
        decode_image(encoded(Image.open(media / "chelsea.png"), "PPM"), LIMIT)


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 5_001)])
def test_an_image_over_the_limit_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(ItemTooLargeError, match=rf"{size[0]} x {size[1]} pixels; accepted: at most {LIMIT}"),
    ):
        decode_image(png(*size), LIMIT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.effect_noise((48, 32), 80).convert("RGB")
    # The stored image is what the orientation's transposition makes upright.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # inverse transpositions
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, "PNG", exif=exif), LIMIT)
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(upright))


def test_pixels_of_other_modes_become_rgb() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    grey = decode_image(encoded(Image.fromarray(ramp), "PNG"), LIMIT)
    np.testing.assert_array_equal(np.asarray(grey), np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))

    red = Image.new("RGBA", (4, 4), (255, 0, 0, 10))
    assert decode_image(encoded(red, "PNG"), LIMIT).getpixel((0, 0)) == (255, 0, 0)

    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    with warnings.catch_warnings(action="error"):
        decoded = decode_image(encoded(palette, "PNG", transparency=b"\x00\x80"), LIMIT)
    assert decoded.getpixel((0, 0)) == (10, 20, 30)

    assert decode_image(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), LIMIT).mode == "RGB"
    with pytest.raises(InvalidMediaError, match="32-bit"):
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"), LIMIT)


def test_damaged_files_raise_nothing_but_our_errors(media: Path) -> None:
    rng = np.random.default_rng(0)
    for file_format in ("PNG", "TIFF", "GIF", "WEBP", "JPEG", "BMP"):
        whole = np.frombuffer(encoded(Image.open(media / "chelsea.png").resize((64, 48)), file_format), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(damaged), 400), 8)] = rng.integers(0, 256, 8)
            with contextlib.suppress(ZoofleetError):
                assert decode_image(damaged.tobytes(), 10_000_000).mode == "RGB"


def test_files_are_read_only_within_the_prefixes(tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "a b.txt").write_bytes(b"within")
    (tmp_path / "database").write_bytes(b"outside")
    (inside / "link").symlink_to(tmp_path / "database")
    (inside / "dangling").symlink_to(tmp_path / "missing")
    (inside / "circle").symlink_to(inside / "circle")
    prefixes = [f"file://{inside}"]

    assert fetch(f"file://{inside}/a%20b.txt", prefixes, 100) == b"within"
    # Nothing is learnt of what is there outside, and what is not.
    for path in ("../database", "../missing", "link", "dangling", "%2e%2e/database", "/../../database"):
        with pytest.raises(PermissionDeniedError, match="uri_prefixes"):
            fetch(f"file://{inside}/{path}", prefixes, 100)
    with pytest.raises(PermissionDeniedError):
        fetch(f"file://{inside}base", prefixes, 100)
    with pytest.raises(PermissionDeniedError):
        fetch(f"file://{inside}/a%20b.txt", [], 100)
    with pytest.raises(NotFoundError):
        fetch(f"file://{inside}/nothing", prefixes, 100)
    with pytest.raises(PermissionDeniedError, match="cannot be read"):
        fetch(f"file://{inside}/circle", prefixes, 100)
    with pytest.raises(ItemTooLargeError, match="more than 3 bytes"):
        fetch(f"file://{inside}/a%20b.txt", prefixes, 3)
    for uri in (f"file://{inside}", "file://elsewhere/etc/passwd", "gopher://x", "http://[::1", "file:relative"):
        with pytest.raises((InvalidArgumentError, PermissionDeniedError)):
            fetch(uri, prefixes, 100)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/ok/away":
            self.send_response(302)
            self.send_header("Location", "/secret")
        elif self.path == "/ok/data":
            self.send_response(200)
            self.send_header("Content-Length", "4")
        else:
            self.send_response(404 if self.path == "/ok/missing" else 500)
        self.end_headers()
        if self.path == "/ok/data":
            self.wfile.write(b"data")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_http_is_read_only_within_the_prefixes(site: str) -> None:
    prefixes = [f"{site}/ok"]
    assert fetch(f"{site}/ok/data", prefixes, 4) == b"data"
    with pytest.raises(ItemTooLargeError):
        fetch(f"{site}/ok/data", prefixes, 3)
    with pytest.raises(NotFoundError):
        fetch(f"{site}/ok/missing", prefixes, 4)
    with pytest.raises(UnavailableError, match="500"):
        fetch(f"{site}/ok/broken", prefixes, 4)
    for path in ("/secret", "/ok/away", "/ok/../secret", "/ok/%2e%2e/secret", "/okay"):
        with pytest.raises(PermissionDeniedError):
            fetch(site + path, prefixes, 4)
    with pytest.raises(PermissionDeniedError):
        fetch(site.replace("//", "//user@") + "/ok/data", prefixes, 4)
