"""Media by URI: which URIs the operator allows, and the bytes behind them."""

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

from zoofleet.errors import (
    InvalidArgumentError,
    ItemTooLargeError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

__all__ = ["fetch"]

_FETCH_SECONDS: Final = 60.0
"""How long the bytes of one URI may take; a quarter of it may pass without any of them."""


def fetch(uri: str, prefixes: Sequence[str], max_bytes: int) -> bytes:
    """Read the bytes at a URI that begins with one of the operator's prefixes.

    A prefix ends at a path separator: `file:///data` allows `/data/a.jpg`, not `/database`. A file is allowed or not by
    its place once links are followed. HTTP redirects are followed only to where a prefix allows too.

    Args:
        uri: an absolute `file:`, `http:` or `https:` URI.
        prefixes: what URIs may begin with.
        max_bytes: most bytes to read.

    Raises:
        PermissionDeniedError: no prefix allows the URI, or the file may not be read.
        InvalidArgumentError: the URI is of another form, or is no regular file's.
        NotFoundError: there is no such file, or the server answers with HTTP status 404 or 410.
        ItemTooLargeError: there are more than `max_bytes`.
        UnavailableError: the server cannot be reached, is too slow, or answers with another error.
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
    # A path outside is refused before it is looked at, so that nobody learns what is there.
    if not any(Path(os.path.normpath(text)).is_relative_to(os.path.normpath(root)) for root in roots):
        raise _denied(uri)
    try:
        path = Path(text).resolve()
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            raise _denied(uri)
        # Neither hangs on a pipe nor follows a link that was put in the file's place meanwhile.
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
