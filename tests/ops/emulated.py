"""The CUDA kernels run on the host: how they are built for it, and how the operators are made to call them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from ctypes import c_void_p
from pathlib import Path

import pytest

from zoofleet.models.ops import _cuda, _library

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "emulation"

LIBRARY = "ZOOFLEET_EMULATED_KERNELS"
"""The environment variable with the path of the emulated kernels, for the processes that sanitizers watch."""

_SANITIZERS = "address,undefined"
_ASAN = {
    # Python and torch do not give back all they have. What was never written reads as NaN or as -1.
    "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1073741824:malloc_fill_byte=255",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def build(target: Path, source: Path = ROOT / "csrc" / "kernels.cu") -> Path:
    """Build the kernels of a .cu file for the host, with sanitizers."""
    options = ["-x", "c++", "-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    sanitize = [f"-fsanitize={_SANITIZERS}", "-fno-sanitize-recover=all", "-fPIC", "-shared"]
    include: list[str | Path] = ["-include", HERE / "emulation.h", "-I", source.parent, "-I", HERE]
    subprocess.run(["g++", *options, *sanitize, *include, "-o", target, source, HERE / "emulation.cpp"], check=True)
    return target


def load(path: Path, *, falling: bool) -> _cuda.Kernels:
    """Return emulated kernels whose threads take turns in rising or in falling order."""
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.emulated_order(falling)
    entries = (library.emulated_get_function, library.emulated_launch, library.emulated_fill)
    table = _library.Cuda(*(ctypes.cast(entry, c_void_p) for entry in entries), None)
    return _cuda.Kernels("emulation", table, lambda: contextlib.nullcontext(None))


@contextlib.contextmanager
def installed(kernels: _cuda.Kernels) -> Iterator[None]:
    """Let operators call these kernels for tensors on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "kernels", lambda device: kernels)
        yield


def run_watched(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process in which sanitizers watch the emulated kernels."""
    # The C++ runtime comes along, since AddressSanitizer looks for what throws as it starts, and Python has none.
    runtime = " ".join(map(_runtime, ("libasan.so", "libstdc++.so")))
    environment = {**os.environ, **_ASAN, "LD_PRELOAD": runtime, LIBRARY: str(library), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:xdist", "-p", "no:cacheprovider", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def _runtime(name: str) -> str:
    found = subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    return found.stdout.strip()
