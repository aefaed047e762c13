"""What was found about plans before, on disk, for the workers of a machine to share.

An entry is a folder, named by the hash of its key, with `entry.json` and the packages of the plan that was chosen. It
is made elsewhere and renamed into its place, so that it is there as a whole or not at all. Packages are programs: the
folder must be the user's own, and nobody else may write to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zoofleet._catalog.download import cache_dir
from zoofleet.errors import FailedPreconditionError
from zoofleet.worker.plans.trial import Trial

__all__ = ["Entry", "PlanCache"]

_FILE: Final = "entry.json"
_STAGED: Final = ".staged-"
_LOCK_POLL_SECONDS: Final = 0.2
_STALE_SECONDS: Final = 24 * 3600.0
"""Age at which what a killed worker left half made is removed, and at which a failure is no longer believed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What came of a search.

    Attributes:
        trials: what came of each rung.
        chosen: name of the fastest plan. None where none is valid and faster than EXACT.
        failure: why the search ended before its end. Empty where it did not.
        time: when the search ended, in seconds since the epoch.
    """

    trials: tuple[Trial, ...]
    chosen: str | None
    failure: str
    time: float

    @property
    def trial(self) -> Trial | None:
        """The trial of the plan that was chosen."""
        return next((trial for trial in self.trials if trial.name == self.chosen), None)


class PlanCache:
    """The folder of entries, which is made where it is not there.

    Args:
        folder: its path. None for `zoofleet-plans` beside torch.hub's weight files.

    Raises:
        FailedPreconditionError: the folder is not the user's own, others may write to it, or it cannot be made.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = Path(folder).expanduser() if folder else cache_dir().parent / "zoofleet-plans"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._folder.stat()
        except OSError as error:
            raise FailedPreconditionError(
                f"plan_cache is {str(self._folder)!r}, which cannot be used: {error}"
            ) from None
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FailedPreconditionError(
                f"plan_cache is {str(self._folder)!r}, which others may write to; accepted: a folder of this user's "
                "own, with mode 0700"
            )

    def path(self, key: Mapping[str, Any]) -> Path:
        """Return where the entry of a key is, if there is one."""
        return self._folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]

    def read(self, key: Mapping[str, Any]) -> Entry | None:
        """Return the entry of a key. None where there is none that is whole, this key's, and no failure of long ago."""
        folder = self.path(key)
        try:
            content = json.loads((folder / _FILE).read_bytes())
            trials = tuple(Trial.from_json(trial) for trial in content["trials"])
            entry = Entry(trials, content["chosen"], content["failure"], content["time"])
            files = entry.trial.packages if entry.trial else []
            intact = content["key"] == json.loads(json.dumps(key)) and (entry.chosen is None) == (entry.trial is None)
            if not intact or any(_digest(folder / name) != content["files"][name] for name in files):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return None if entry.failure and time.time() - entry.time > _STALE_SECONDS else entry

    def write(self, key: Mapping[str, Any], entry: Entry, staged: Path) -> None:
        """Put an entry, whose packages are in a staging folder, into its place."""
        files = entry.trial.packages if entry.trial else []
        for path in staged.iterdir():
            if path.name not in files:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        content = {"key": key, **dataclasses.asdict(entry), "files": {name: _digest(staged / name) for name in files}}
        (staged / _FILE).write_text(json.dumps(content, indent=1))
        place = self.path(key)
        if place.exists():
            old = self._staging()
            place.rename(old / "old")
            shutil.rmtree(old)
        staged.rename(place)

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """Make a folder for what will be an entry; it is removed afterwards unless it was written."""
        for old in self._folder.glob(f"{_STAGED}*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(old)
        folder = self._staging()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: Mapping[str, Any], is_stopped: Callable[[], bool]) -> Iterator[bool]:
        """Keep other workers from building what a key names. Gives False where it was stopped before that was free."""
        with self.path(key).with_suffix(".lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if is_stopped():
                        yield False
                        return
                    time.sleep(_LOCK_POLL_SECONDS)
                else:
                    yield True
                    return

    def _staging(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=_STAGED, dir=self._folder))


def _digest(path: Path) -> str:
    """Return a hash of a file, or of all files in a folder."""
    digest = hashlib.sha256()
    for each in sorted((path, *path.rglob("*"))):
        if not each.is_dir():
            with each.open("rb") as file:
                part = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{each.relative_to(path)} {part}\n".encode())
    return digest.hexdigest()
