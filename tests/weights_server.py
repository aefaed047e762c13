"""A real HTTP server for weight files, which cuts, lies and redirects as a test wants."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import torch


@dataclass
class Hub:
    """What the server offers and how it misbehaves."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Body bytes after which the next responses end."""
    stall_after: int | None = None
    """Body bytes after which the next response waits for `resume`."""
    resume: threading.Event = field(default_factory=threading.Event)
    ranges: bool = True
    redirect: str | None = None
    status: int = 200
    arrived: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def publish(self, state: Any, stem: str = "net") -> str:
        """Offer a file under a name that carries its hash; returns the name."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        name = f"{stem}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
        self.files[f"/models/{name}"] = buffer.getvalue()
        return name

    def at(self, name: str) -> str:
        return f"{self.url}/models/{name}"


class _Server(ThreadingHTTPServer):
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub = cast("_Server", self.server).hub
        wanted = self.headers.get("Range")
        hub.requests.append((self.path, wanted))
        hub.arrived.set()
        hub.go_on.wait(60)
        if hub.redirect:
            self.send_response(302)
            self.send_header("Location", hub.redirect)
            self.end_headers()
            return
        body = hub.files.get(self.path)
        if body is None or hub.status != 200:
            self.send_error(404 if body is None else hub.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.ranges else 0
        if start >= len(body) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if hub.stall_after is not None:
            stop, hub.stall_after = start + hub.stall_after, None
            self.wfile.write(body[start:stop])
            hub.resume.wait(60)
            start = stop
        with suppress(ConnectionError):  # a client that was killed
            self.wfile.write(body[start : start + (hub.cuts.pop(0) if hub.cuts else len(body))])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A server on a free port of this machine."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
        server.hub.go_on.set()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.hub
        finally:
            server.hub.go_on.set()
            server.hub.resume.set()
            server.shutdown()
            thread.join()
