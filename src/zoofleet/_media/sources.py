"""The files behind the paths that a user names, and the errors of those that cannot be read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from zoofleet.errors import InvalidMediaError, MediaNotFoundError, PermissionDeniedError, ZoofleetError

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)


def expand(paths: Iterable[str], suffixes: frozenset[str]) -> list[Path]:
    """Return the files behind paths, folders and globs, each once, in the order given.

    Args:
        paths: files, which may have any name; folders, which are searched with their subfolders, in sorted order; and
            globs such as `photos/**/*.jpg`.
        suffixes: the suffixes, in lower case, of the files that are taken from a folder.

    Raises:
        MediaNotFoundError: a path is not there.
        InvalidMediaError: a folder has no file with such a suffix, or a glob matches no file.
    """
    found: dict[Path, None] = {}
    for path in paths:
        files = list(_expand_one(path, suffixes))
        if not files:
            raise InvalidMediaError(f"{path!r} holds no files of the kinds {', '.join(sorted(suffixes))}")
        found |= dict.fromkeys(files)
    return list(found)


def _expand_one(path: str, suffixes: frozenset[str]) -> Iterator[Path]:
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it takes a zero byte
        yield from _walk(Path(path), suffixes)
    elif os.path.lexists(path):
        yield Path(path)
    elif glob.has_magic(path):
        for match in sorted(glob.glob(path, recursive=True)):  # noqa: PTH207 - as the shell does it
            if not Path(match).is_dir():
                yield Path(match)
    else:
        raise MediaNotFoundError(f"{path!r} does not exist")


def _walk(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(directory, name)


def unreadable(path: Path) -> str | None:
    """Return why a file cannot be read. None where it can be read."""
    try:
        with path.open("rb"):
            return None
    except (OSError, ValueError) as error:
        return _reason(error)


def read_error(path: str | os.PathLike[str], error: OSError | ValueError) -> ZoofleetError:
    """Return the error to raise where a file that a caller named cannot be read.

    Args:
        path: the file.
        error: what reading the file raised. A ValueError comes from a zero byte in the path.

    Returns:
        A `MediaNotFoundError`, `PermissionDeniedError` or `InvalidMediaError`.
    """
    message = f"cannot read {os.fspath(path)!r}: {_reason(error)}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MediaNotFoundError(message)
    if isinstance(error, PermissionError):
        return PermissionDeniedError(message)
    return InvalidMediaError(message)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
