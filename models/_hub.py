"""Published weight files: fetched once, checked against the hash in their name, and read without running code.

The cache is torch.hub's own (`$TORCH_HOME/hub/checkpoints`, by default under `~/.cache/torch`), with its file names, so
what other programs fetched is found here and the other way round.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

import torch

from zoofleet.errors import InvalidArgumentError, InvalidWeightsError, WeightsUnavailableError

if TYPE_CHECKING:
    from torch import nn

    from zoofleet.models._weights import WeightsEnum

MIRROR: Final = "ZOOFLEET_WEIGHTS_MIRROR"
"""Environment variable with a base URL or a directory that holds the files by name, used in place of their URLs."""

HASH_PREFIX: Final = re.compile(r"[-_]([0-9a-f]{8,64})\.pth$")
"""The digits in a file's name with which its SHA-256 begins."""

_ATTEMPTS: Final = 6
_BACKOFF_S: Final = 0.2
_TIMEOUT_S: Final = 30.0
_BLOCK: Final = 1 << 20


def load_weights(model: nn.Module, weights: WeightsEnum, progress: bool = True) -> None:
    """Load published weights into a model that was built for them.

    Args:
        model: its parameters and buffers are overwritten; unusable if this raises.
        weights: which ones.
        progress: write a progress line to stderr while downloading.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL or mirror has the file.
        InvalidWeightsError: the file is not the published one, holds code, or does not fit the model to the letter.
    """
    state = weights.get_state_dict(progress=progress)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InvalidWeightsError(f"{weights!r} does not fit {type(model).__name__}: {error}"[:2000]) from error
    if missing or unexpected:
        raise InvalidWeightsError(
            f"{weights!r} does not fit {type(model).__name__}: "
            + "; ".join(
                f"{len(keys)} {what} keys, the first {', '.join(k[:80] for k in keys[:5])}"
                for what, keys in (("missing", missing), ("unexpected", unexpected))
                if keys
            )
        )


def load_state_dict(url: str, *, progress: bool, check_hash: bool) -> dict[str, Any]:
    """Fetch a weight file unless it is cached, and read it onto the CPU.

    Args:
        url: where it is published; http or https.
        progress: write a progress line to stderr while downloading.
        check_hash: compare the file, cached or fetched, with the SHA-256 prefix in its name.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL or mirror has the file.
        InvalidWeightsError: the file's hash is wrong, it holds code, or it is no state dict.
    """
    path = fetch(url, progress=progress, check_hash=check_hash)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling untrusted bytes can fail in any way
        raise InvalidWeightsError(f"{path} is not a file of tensors alone: {str(error)[:500]}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InvalidWeightsError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return state


def fetch(url: str, *, progress: bool, check_hash: bool) -> Path:
    """The cached file, downloaded first if need be; of several processes one downloads and the others wait.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL or mirror has the file.
        InvalidWeightsError: its hash is wrong; a downloaded file is then thrown away, a cached one left as it is.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(f".{name}.lock")):
                if not path.exists():
                    _fetch_into(path, _source(url, name), progress=progress, check_hash=check_hash)
                    return path
        if check_hash:
            _check_hash(path, name, f"delete {path} to fetch it again")
    except OSError as error:
        raise WeightsUnavailableError(f"cannot keep {url} as {path}: {error}") from error
    return path


def _fetch_into(path: Path, source: str | Path, *, progress: bool, check_hash: bool) -> None:
    # One name for all attempts, so that a killed process leaves at most one file, which the next one overwrites.
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            if isinstance(source, Path):
                _copy_file(source, file)
            else:
                _download(source, file, progress=progress)
            file.flush()
            os.fsync(file.fileno())
        if check_hash:
            _check_hash(partial, path.name, f"it came from {source}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a killed process
        yield


def _check_hash(path: Path, name: str, advice: str) -> None:
    match = HASH_PREFIX.search(name)
    if match is None:
        raise InvalidWeightsError(f"{name} does not carry the first digits of its SHA-256, so it cannot be checked")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(match[1]):
        raise InvalidWeightsError(f"{name} has the SHA-256 {digest}, not {match[1]}...; {advice}")


def _source(url: str, name: str) -> str | Path:
    """Where to get the file: its URL, or its place in the mirror."""
    mirror = os.environ.get(MIRROR)
    if mirror:
        url = f"{mirror.rstrip('/')}/{name}"
    if mirror and "://" not in mirror:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if parts.scheme not in ("http", "https"):
        raise InvalidArgumentError(f"weights come by http, https or file, not from {url[:200]!r}")
    return url


def _copy_file(source: Path, file: BinaryIO) -> None:
    try:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, _BLOCK)
    except OSError as error:
        raise WeightsUnavailableError(f"cannot read {source}: {error}") from error


def _download(url: str, file: BinaryIO, *, progress: bool) -> None:
    """Write the URL's content to an empty file; a connection that is cut is taken up again where it ended."""
    if progress:
        sys.stderr.write(f"Downloading {url}\n")
    opener = _opener()
    failure: Exception | None = None
    for attempt in range(_ATTEMPTS):
        time.sleep(_BACKOFF_S * (2**attempt - 1))
        have = file.tell()
        headers = {"User-Agent": "zoofleet", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - _source and the opener see to it
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as response:
                _receive(response, file, have, progress=progress and sys.stderr.isatty())
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if not _may_pass(error):
                raise WeightsUnavailableError(f"cannot fetch {url}: {error}") from error
            failure = error
        else:
            return
    raise WeightsUnavailableError(f"cannot fetch {url}: {failure} ({_ATTEMPTS} attempts)") from failure


def _opener() -> urllib.request.OpenerDirector:
    """http and https alone, so that a redirect cannot lead to ftp: or data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _receive(response: http.client.HTTPResponse, file: BinaryIO, have: int, *, progress: bool) -> None:
    """Append a response to the file.

    Raises:
        http.client.HTTPException: it ended before its announced length.
    """
    length = response.headers.get("Content-Length", "")
    if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        file.seek(0)  # the server sends the whole file instead of the missing part
        file.truncate()
        have = 0
    total = have + int(length) if length.isdecimal() else None
    while block := response.read(_BLOCK):
        file.write(block)
        if progress:
            shown = f" of {total / 1e6:.1f}" if total else ""
            sys.stderr.write(f"\r{file.tell() / 1e6:.1f}{shown} MB ")
    if progress:
        sys.stderr.write("\n")
    if total is not None and file.tell() < total:
        raise http.client.HTTPException(f"the connection ended after {file.tell()} of {total} bytes")


def _may_pass(error: Exception) -> bool:
    """Whether another attempt makes sense: after a cut or an overloaded server, not after a refusal."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    if isinstance(error, urllib.error.URLError):
        return isinstance(error.reason, TimeoutError | ConnectionResetError)
    return not isinstance(error, ConnectionRefusedError)
