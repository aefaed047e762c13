"""From paths that a user names to the files behind them."""

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
    """Files behind files, folders and globs, each once, in the order given; folders recursively, sorted.

    Args:
        paths: a file is taken whatever its name; a pattern such as `photos/**/*.jpg` works even if quoted.
        suffixes: which files of a folder are taken, in lower case.

    Raises:
        MediaNotFoundError: a path that is not there.
        InvalidMediaError: a folder or pattern without any such file.
    """
    found: dict[Path, None] = {}
    for path in paths:
        files = list(_expand_one(path, suffixes))
        if not files:
            raise InvalidMediaError(f"{path!r} holds no files of the kinds {', '.join(sorted(suffixes))}")
        found |= dict.fromkeys(files)
    return list(found)


def _expand_one(path: str, suffixes: frozenset[str]) -> Iterator[Path]:
    if os.path.isdir(path):  # noqa: PTH112 - a zero byte in the path is no error here
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
    """Why a file cannot be read; None where it can."""
    try:
        with path.open("rb"):
            return None
    except (OSError, ValueError) as error:
        return _reason(error)


def read_error(path: str | os.PathLike[str], error: OSError | ValueError) -> ZoofleetError:
    """What to raise where a file that a caller named cannot be read.

    Args:
        path: the file.
        error: what reading it raised; ValueError stands for a zero byte in the path.
    """
    message = f"cannot read {os.fspath(path)!r}: {_reason(error)}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MediaNotFoundError(message)
    if isinstance(error, PermissionError):
        return PermissionDeniedError(message)
    return InvalidMediaError(message)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
