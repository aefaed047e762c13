"""The CUDA kernels compiled by NVRTC, which needs no GPU, and how what it made is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zoofleet.errors import KernelLibraryError
from zoofleet.models.ops import _library, _nvrtc
from zoofleet.models.ops._nvrtc import Compiler, Program

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="NVRTC is a dependency of tests on x86-64 alone"
)


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return _nvrtc.find_compiler(torch.version.cuda)


@pytest.fixture(scope="module")
def program() -> Program:
    installed = next(folder for folder in _library.source_folders() if folder.is_dir())
    return Program.read(installed)


@pytest.mark.parametrize("capability", [75, 90, 120])
def test_compiles_from_turing_to_blackwell(capability: int, compiler: Compiler, program: Program) -> None:
    target = compiler.target(capability)
    assert target == f"sm_{capability}"
    code = compiler.compile(program, target)
    assert code.startswith(b"\x7fELF")
    for kernel in ("NmsWalk_float", "RoiAlignPool_double", "PasteRuns_float", f"zoofleet_ops_abi_{_library.ABI}"):
        assert kernel.encode() in code


def test_newer_device_gets_ptx_of_the_newest_before_it(compiler: Compiler, program: Program) -> None:
    newest = compiler.architectures()[-1]
    target = compiler.target(newest + 1)
    assert target == f"compute_{newest}"
    assert f".target sm_{newest}".encode() in compiler.compile(program, target)


def test_older_device_is_refused(compiler: Compiler) -> None:
    with pytest.raises(KernelLibraryError, match=r"compiles for capability 7\.5 and newer, the device has 3\.5"):
        compiler.target(35)


def test_fault_in_the_sources_is_told(compiler: Compiler, program: Program) -> None:
    with pytest.raises(KernelLibraryError, match="no_such_type"):
        compiler.compile(Program(b"no_such_type x;", program.headers), "sm_90")


def test_missing_compiler_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"text")
    monkeypatch.setattr(_nvrtc, "_libraries", lambda: [broken, "libnvrtc.so.0"])
    with pytest.raises(KernelLibraryError, match=r"pip install nvidia-cuda-nvrtc(.|\n)*cu13/lib/libnvrtc\.so\.13"):
        _nvrtc.find_compiler("13.0")


class Counted:
    """A compiler that counts its runs."""

    def __init__(self, version: tuple[int, int] = (13, 0)) -> None:
        self.version = version
        self.runs = 0

    def compile(self, program: Program, target: str) -> bytes:
        self.runs += 1
        return b"code of " + target.encode() + program.main


SOURCES = Program(b"main", (("a.h", b"1"),))


def cached(compiler: Counted, folder: Path, program: Program = SOURCES, target: str = "sm_90") -> bytes:
    return _nvrtc.compile_cached(compiler, program, target, folder)  # type: ignore[arg-type]


def test_is_compiled_once(tmp_path: Path) -> None:
    compiler = Counted()
    assert cached(compiler, tmp_path / "new") == cached(compiler, tmp_path / "new") == b"code of sm_90main"
    assert compiler.runs == 1


def test_is_compiled_anew_for_other_sources_targets_and_versions(tmp_path: Path) -> None:
    compiler = Counted()
    cached(compiler, tmp_path)
    cached(compiler, tmp_path, target="sm_80")
    cached(compiler, tmp_path, Program(b"main", (("a.h", b"2"),)))
    cached(compiler, tmp_path, Program(b"other", SOURCES.headers))
    assert compiler.runs == 4
    newer = Counted((13, 1))
    cached(newer, tmp_path)
    assert newer.runs == 1


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[:-1],
    "changed": lambda data: data[:40] + b"?" + data[41:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_made_anew(damage: str, tmp_path: Path) -> None:
    compiler = Counted()
    whole = cached(compiler, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(DAMAGES[damage](entry.read_bytes()))
    assert cached(compiler, tmp_path) == whole
    assert cached(compiler, tmp_path) == whole
    assert compiler.runs == 2


def test_unwritable_cache_is_done_without(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    compiler = Counted()
    assert cached(compiler, occupied) == b"code of sm_90main"


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _nvrtc.cache_folder() == tmp_path / "zoofleet" / "kernels"
