"""What a benchmark runs on, and what its processes take."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
"""The instructions that the speed of a network on a CPU depends on most."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a benchmark ran on."""

    cpu: str
    isa: str
    cores: int
    memory_gib: int
    system: str
    python: str
    torch: str
    grpcio: str
    commit: str

    @classmethod
    def here(cls) -> Machine:
        info = Path("/proc/cpuinfo").read_text().splitlines()
        lines = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in info)}
        flags = lines.get("flags", "").split()
        return cls(
            cpu=lines.get("model name", platform.processor()),
            isa=" ".join(name for name in ISA if name in flags) or platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(psutil.virtual_memory().total / 2**30),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            torch=version("torch"),
            grpcio=version("grpcio"),
            commit=_commit(),
        )

    def __str__(self) -> str:
        return (
            f"{self.cpu} ({self.isa}), {self.cores} cores, {self.memory_gib} GiB, {self.system}, "
            f"Python {self.python}, torch {self.torch}, grpcio {self.grpcio}, commit {self.commit}"
        )


def _commit() -> str:
    """The checkout's commit, with a + where files differ from it."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "--untracked-files=no"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed.strip() else "")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a role took: CPU seconds during the measurement, and peak resident bytes."""

    cpu_seconds: float
    peak_bytes: int


class Sampler:
    """Samples CPU time and resident memory of processes by role until closed. Pages that they share count for each."""

    def __init__(self, roles: Mapping[str, Sequence[psutil.Process]]) -> None:
        self._roles = roles
        self._peak = dict.fromkeys(roles, 0)
        self._before = {role: _cpu_seconds(processes) for role, processes in roles.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for role, processes in self._roles.items():
                self._peak[role] = max(self._peak[role], sum(process.memory_info().rss for process in processes))

    def close(self) -> dict[str, Usage]:
        """Stop, and return what each role took meanwhile."""
        self._stop.set()
        self._thread.join()
        return {
            role: Usage(_cpu_seconds(processes) - self._before[role], self._peak[role])
            for role, processes in self._roles.items()
        }


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
