"""Untrusted bytes to upright RGB images."""

from __future__ import annotations

import io
import os
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from zoofleet._quiet import quiet_pillow
from zoofleet.errors import (
    InvalidArgumentError,
    InvalidMediaError,
    ItemTooLargeError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

__all__ = ["decode_image", "describe", "fetch"]

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# Pillow warns of large images, and refuses larger ones without saying how large; `decode_image` checks them itself.
Image.MAX_IMAGE_PIXELS = None
quiet_pillow()

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode an image to mode RGB.

    The EXIF orientation is applied: all results are in coordinates of the upright image. Of an animation the first
    frame counts. 16 bits a channel become 8 by their upper byte; an alpha channel is dropped, as the zoo's models saw
    it in training; CMYK and palettes are converted.

    Raises:
        ItemTooLargeError: the header announces more than `max_pixels` pixels; nothing was decoded.
        InvalidMediaError: not an image of a known format, truncated, or broken.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ItemTooLargeError(
                    f"a {image.format} of {width} x {height} pixels; accepted: at most {max_pixels} pixels"
                )
            image.load()
            transpose = _UPRIGHT.get(_orientation(image))
            rgb = _to_rgb(image)
            return rgb.transpose(transpose) if transpose is not None else rgb
    except UnidentifiedImageError:
        raise InvalidMediaError(f"{describe(data)} is no image; accepted: {', '.join(_FORMATS)}") from None
    except (ItemTooLargeError, InvalidMediaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise nearly anything at broken files
        raise InvalidMediaError(f"{describe(data)} cannot be decoded: {error}") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; broken EXIF data counts as 1, upright, since the image itself can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - as in `decode_image`
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InvalidMediaError(f"a {image.format} of 32-bit pixels, whose range is unknown; accepted: 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # at once to RGB, Pillow warns of some palettes
    return image.convert("RGB")


def describe(data: bytes) -> str:
    """What bytes look like, for messages about media that cannot be read."""
    if not data:
        return "an item of 0 bytes"
    head = data[:16]
    known = {
        b"\xff\xd8\xff": "a JPEG",
        b"\x89PNG\r\n\x1a\n": "a PNG",
        b"GIF8": "a GIF",
        b"BM": "a BMP",
        b"II*\0": "a TIFF",
        b"MM\0*": "a TIFF",
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"\x1f\x8b": "a gzip file",
        b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    }
    what = next((name for magic, name in known.items() if head.startswith(magic)), None)
    if head[:4] == b"RIFF":
        what = {b"WEBP": "a WebP", b"AVI ": "an AVI video"}.get(head[8:12], "a RIFF file")
    if head[4:8] == b"ftyp":
        what = "a HEIC or AVIF image" if head[8:12] in (b"heic", b"heix", b"mif1", b"avif") else "an MP4 video"
    if what is None:
        sample = data[:64]
        is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in sample) and _is_utf8(data[:512])
        what = (
            f"text beginning {sample[:24].decode('utf-8', 'ignore')!r}"
            if is_text
            else f"data beginning 0x{head[:8].hex()}"
        )
    return f"{what} ({len(data)} bytes)"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(data) - 3  # cut within a character
    return True


_FETCH_SECONDS: Final = 60.0


def fetch(uri: str, prefixes: Sequence[str], max_bytes: int) -> bytes:
    """Read the bytes at a URI that begins with one of the operator's prefixes.

    A prefix ends at a path separator: `file:///data` allows `/data/a.jpg`, not `/database`. Files are allowed by where
    they are once links are followed, HTTP redirects only to where a prefix allows too.

    Raises:
        PermissionDeniedError: no prefix allows it.
        InvalidArgumentError: not an absolute `file:`, `http:` or `https:` URI.
        NotFoundError: no such file, or HTTP status 404 or 410.
        ItemTooLargeError: more than `max_bytes`.
        UnavailableError: the server cannot be reached, is too slow, or answers another error.
    """
    try:
        parts = urllib.parse.urlsplit(uri)
        _ = parts.port  # malformed ports raise only when asked for
    except ValueError as error:
        raise InvalidArgumentError(f"URI {uri[:200]!r}: {error}") from None
    if parts.scheme == "file":
        return _read_file(uri, parts, prefixes, max_bytes)
    if parts.scheme in ("http", "https"):
        return _read_http(uri, prefixes, max_bytes)
    raise InvalidArgumentError(f"URI {uri[:200]!r}; accepted: file://, http:// and https://")


def _denied(uri: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"URI {uri[:200]!r} is outside the allowed prefixes; the operator sets them with the worker's uri_prefixes"
    )


def _read_file(uri: str, parts: urllib.parse.SplitResult, prefixes: Sequence[str], max_bytes: int) -> bytes:
    roots = [Path(urllib.parse.unquote(urllib.parse.urlsplit(p).path)) for p in prefixes if p.startswith("file://")]
    text = urllib.parse.unquote(parts.path)
    if parts.netloc not in ("", "localhost") or "\0" in text or not text.startswith("/"):
        raise InvalidArgumentError(f"URI {uri[:200]!r}; accepted: file:///path")
    # What lies outside is refused alike whether it is there or not.
    if not any(Path(os.path.normpath(text)).is_relative_to(os.path.normpath(root)) for root in roots):
        raise _denied(uri)
    try:
        path = Path(text).resolve()
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            raise _denied(uri)
        # Not to hang on a pipe, nor to follow a link that was put in the file's place meanwhile.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgumentError(f"URI {uri[:200]!r} is not a regular file")
            return _read_bounded(file, uri, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"URI {uri[:200]!r}: no such file") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else error
        raise PermissionDeniedError(f"URI {uri[:200]!r} cannot be read: {reason}") from None


def _http_allowed(uri: str, prefixes: Sequence[str]) -> bool:
    parts = urllib.parse.urlsplit(uri)
    segments = urllib.parse.unquote(parts.path).replace("\\", "/").split("/")
    if parts.username is not None or ".." in segments or "." in segments:
        return False
    for prefix in map(urllib.parse.urlsplit, prefixes):
        same_host = (prefix.scheme, prefix.hostname, prefix.port) == (parts.scheme, parts.hostname, parts.port)
        root = prefix.path.rstrip("/")
        if same_host and (parts.path == root or parts.path.startswith(f"{root}/")):
            return True
    return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to where a prefix allows."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = prefixes

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not _http_allowed(newurl, self._prefixes):
            raise _denied(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_http(uri: str, prefixes: Sequence[str], max_bytes: int) -> bytes:
    if not _http_allowed(uri, prefixes):
        raise _denied(uri)
    # No FileHandler and no proxies from the environment: only what the prefixes name is reached.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(prefixes),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(uri, timeout=_FETCH_SECONDS / 4) as response:
            return _read_bounded(response, uri, max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise NotFoundError(f"URI {uri[:200]!r}: HTTP status {error.code}") from None
        raise UnavailableError(f"URI {uri[:200]!r}: HTTP status {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        raise UnavailableError(f"URI {uri[:200]!r} cannot be read: {error}") from None


def _read_bounded(source: io.BufferedIOBase, uri: str, max_bytes: int) -> bytes:
    deadline = time.monotonic() + _FETCH_SECONDS
    data = bytearray()
    while chunk := source.read1(1024 * 1024):
        data += chunk
        if len(data) > max_bytes:
            raise ItemTooLargeError(f"URI {uri[:200]!r} has more than {max_bytes} bytes, which is the limit")
        if time.monotonic() > deadline:
            raise UnavailableError(f"URI {uri[:200]!r} was not read within {_FETCH_SECONDS:g} s")
    return bytes(data)
