"""Weight files, which are fetched once and checked against the hash in their name. Needs no torch.

A file is received as `.NAME.partial` beside its place. Where a cut connection or a killed process leaves a part of it,
the next fetch goes on where that ended. Only the complete file with the right hash gets its name.

Some files come with Zoofleet's repository. Their URL has no scheme and is their path in the repository. They are used
where they are in the checkout that the package runs from.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from zoofleet.errors import InvalidArgumentError, InvalidWeightsError, WeightsUnavailableError

__all__ = ["HASH_PREFIX", "MIRROR", "Report", "cache_dir", "fetch", "file_name", "in_repository"]

MIRROR: Final = "ZOOFLEET_WEIGHTS_MIRROR"
"""The environment variable with the base URL or the folder of a mirror, which has the files by name."""

HASH_PREFIX: Final = re.compile(r"[-_]([0-9a-f]{8,64})\.(?:pth|safetensors)$")
"""The digits in a file's name that are the first of its SHA-256."""

Report: TypeAlias = Callable[[int, int | None], None]
"""Called while a file downloads with the bytes received and the bytes of the whole file, None where that is unknown."""

_REPOSITORY: Final = Path(__file__).resolve().parents[3]
"""The checkout that the package runs from, if it does."""

_ATTEMPTS: Final = 6
_BACKOFF_S: Final = 0.2
"""The n-th attempt, from 0, comes after a pause of 2^n - 1 times this: the six take 11.4 s without their downloads."""
_TIMEOUT_S: Final = 30.0
"""Seconds for which a server may be silent."""
_BLOCK: Final = 1 << 20
"""Bytes that are read and reported at once."""


def cache_dir() -> Path:
    """Return torch.hub's folder of weight files, which other programs share.

    It is `$TORCH_HOME/hub/checkpoints`. By default, TORCH_HOME is `$XDG_CACHE_HOME/torch`, XDG_CACHE_HOME `~/.cache`.
    Where torch is loaded and `torch.hub.set_dir` was called, the folder is `checkpoints` in that directory.
    """
    if "torch" in sys.modules:
        import torch

        return Path(torch.hub.get_dir(), "checkpoints")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def file_name(url: str) -> str:
    """Return the name under which the file of a URL is kept."""
    return urlsplit(url).path.rpartition("/")[2]


def in_repository(url: str) -> bool:
    """Return whether a file comes with Zoofleet's repository, and not from a server."""
    return not urlsplit(url).scheme


def fetch(url: str, folder: Path | None = None, *, check_hash: bool, report: Report | None = None) -> Path:
    """Return the path of a weight file, which is downloaded first where it is missing.

    Where several processes need the file, one downloads it and the others wait.

    Args:
        url: the http, https or file URL at which the file is published, or its path in Zoofleet's repository.
        folder: the folder for the file, which is made where it is missing. None for torch.hub's cache; a file of the
            checkout is then used where it is.
        check_hash: compare the file, old or new, with the SHA-256 digits in its name.
        report: called while the file downloads. An exception from it ends the download; the next fetch goes on there.

    Raises:
        WeightsUnavailableError: neither the folder nor the URL, checkout or mirror has the file.
        InvalidWeightsError: the file's hash is wrong. A downloaded file is deleted, an older one is left as it is.
        InvalidArgumentError: the URL is of another kind, or a path that leads out of the repository.
    """
    name = file_name(url)
    original = _in_checkout(url) if in_repository(url) else None
    if original is not None and folder is None:
        path, advice = original, "restore it from the repository"
    else:
        path = (cache_dir() if folder is None else folder) / name
        advice = f"delete {path} to fetch it again"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(f".{name}.lock")):
                if not path.exists():
                    _fetch_into(path, original or _source(url, name), check_hash=check_hash, report=report)
                    return path
        if check_hash:
            _check_hash(path, name, advice)
    except OSError as error:
        raise WeightsUnavailableError(f"cannot keep {url} as {path}: {error}") from error
    return path


def _fetch_into(path: Path, source: str | Path, *, check_hash: bool, report: Report | None) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        # Without a hash nothing would tell whether what is there and what follows are of one file.
        with partial.open("ab" if check_hash else "wb") as file:
            resumed = file.tell() > 0
            if isinstance(source, Path):
                _copy_file(source, file)
            else:
                _download(source, file, report)
            file.flush()
            os.fsync(file.fileno())
        if check_hash:
            _check_hash(partial, path.name, f"it came from {source}")
    except InvalidWeightsError:
        partial.unlink()
        if not resumed:
            raise
        _fetch_into(path, source, check_hash=check_hash, report=report)  # the part may be of another file
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk, above all
        raise
    except BaseException:
        if not partial.stat().st_size:
            partial.unlink()
        raise
    else:
        partial.replace(path)


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


def _in_checkout(path: str) -> Path | None:
    """Return where a file of the repository is in the checkout. None where it is not there."""
    place = (_REPOSITORY / path).resolve()
    if not place.is_relative_to(_REPOSITORY):
        raise InvalidArgumentError(f"weights in the repository have a path within it, not {path[:200]!r}")
    return place if place.is_file() else None


def _source(url: str, name: str) -> str | Path:
    """Return where to get a file: its URL, or its path or URL in the mirror."""
    mirror = os.environ.get(MIRROR)
    if mirror:
        url = f"{mirror.rstrip('/')}/{name}"
    elif in_repository(url):
        raise WeightsUnavailableError(
            f"{url} comes with a clone of Zoofleet's repository, not with the wheel; "
            f"{MIRROR} may name a clone's {PurePosixPath(url).parent} folder"
        )
    if mirror and "://" not in mirror:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if parts.scheme not in ("http", "https"):
        raise InvalidArgumentError(f"weights come by http, https or file, not from {url[:200]!r}")
    return url


def _copy_file(source: Path, file: BinaryIO) -> None:
    _empty(file)
    try:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, _BLOCK)
    except OSError as error:
        raise WeightsUnavailableError(f"cannot read {source}: {error}") from error


def _download(url: str, file: BinaryIO, report: Report | None) -> None:
    """Append to a file what it lacks of a URL's content. After a cut connection, go on where it ended."""
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
                _receive(response, file, have, report)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if error.code == 416 and have:  # the server has no more: the file is complete, or it is another one
                    if error.headers.get("Content-Range") == f"bytes */{have}":
                        return
                    _empty(file)
                    failure = error
                    continue
            if not _may_pass(error):
                raise WeightsUnavailableError(f"cannot fetch {url}: {error}") from error
            failure = error
        else:
            return
    raise WeightsUnavailableError(f"cannot fetch {url}: {failure} ({_ATTEMPTS} attempts)") from failure


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone, so that no redirect leads to ftp: or data:."""
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


def _receive(response: http.client.HTTPResponse, file: BinaryIO, have: int, report: Report | None) -> None:
    """Append a response to a file.

    Raises:
        http.client.HTTPException: the response ended before its announced length.
    """
    length = response.headers.get("Content-Length", "")
    if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        _empty(file)  # the server sends the whole file, not the missing part
        have = 0
    total = have + int(length) if length.isdecimal() else None
    if report:
        report(have, total)
    while block := response.read1(_BLOCK):
        file.write(block)
        if report:
            report(file.tell(), total)
    if total is not None and file.tell() < total:
        raise http.client.HTTPException(f"the connection ended after {file.tell()} of {total} bytes")


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _may_pass(error: Exception) -> bool:
    """Return whether another attempt may succeed: after a cut or an overload it may, after a refusal not."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    if isinstance(error, urllib.error.URLError):
        return isinstance(error.reason, TimeoutError | ConnectionResetError)
    return not isinstance(error, ConnectionRefusedError)
