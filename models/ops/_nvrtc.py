"""Compiles the CUDA kernels on the machine that runs them, with the NVRTC that torch's CUDA wheels bring.

What was compiled is kept on disk under a key of the sources, the architecture, the options and NVRTC's version.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zoofleet.errors import KernelLibraryError

__all__ = ["Compiler", "Program", "cache_folder", "compile_cached", "find_compiler"]

# As csrc/CMakeLists.txt has it, but that NVRTC refuses functions for the host.
_OPTIONS: Final = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space")
_MAIN: Final = "kernels.cu"
_STANDARD: Final = "nvrtc_std.h"
_STANDARD_NAMES: Final = ("cmath", "cstdint", "stddef.h", "stdint.h")
"""Standard headers that the sources include, for each of which NVRTC gets `nvrtc_std.h`."""

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Program:
    """The sources of all kernels.

    Attributes:
        main: the text of the file that includes the others.
        headers: names and texts of the files that it may include, in the order of their names.
    """

    main: bytes
    headers: tuple[tuple[str, bytes], ...]

    @classmethod
    def read(cls, folder: Path) -> Program:
        """Read the sources that lie in a folder.

        Raises:
            OSError: one of them cannot be read.
        """
        files = sorted(path for path in folder.iterdir() if path.suffix in (".cu", ".h"))
        headers = [(path.name, path.read_bytes()) for path in files]
        headers += [(name, (folder / _STANDARD).read_bytes()) for name in _STANDARD_NAMES]
        return cls((folder / _MAIN).read_bytes(), tuple(headers))


class Compiler:
    """An NVRTC library.

    Args:
        path: the library, such as `libnvrtc.so.13`.

    Attributes:
        version: major and minor.

    Raises:
        KernelLibraryError: it does not load.
    """

    def __init__(self, path: str) -> None:
        try:
            # NVRTC opens this one by its bare name, which the linker finds only once it is loaded.
            for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")) if "/" in path else ():
                ctypes.CDLL(str(builtins))
            self._nvrtc = ctypes.CDLL(path)
            self._nvrtc.nvrtcGetErrorString.restype = c_char_p
            major, minor = c_int(), c_int()
            self._check(self._nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        except (OSError, AttributeError) as error:
            raise KernelLibraryError(f"{path}: {error}") from None
        self.version: Final = (major.value, minor.value)

    def _check(self, result: int) -> None:
        if result != 0:
            raise KernelLibraryError(f"NVRTC: {self._nvrtc.nvrtcGetErrorString(result).decode()}")

    def architectures(self) -> list[int]:
        """Return the compute capabilities that it compiles for, such as 90 for 9.0, ascending."""
        count = c_int()
        self._check(self._nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (c_int * count.value)()
        self._check(self._nvrtc.nvrtcGetSupportedArchs(found))
        return sorted(found)

    def target(self, capability: int) -> str:
        """Return the architecture to compile for: the device's own, or, for a newer one, PTX that its driver compiles.

        Args:
            capability: the device's compute capability, such as 90 for 9.0.

        Raises:
            KernelLibraryError: the device is older than all that this NVRTC knows.
        """
        older = [each for each in self.architectures() if each <= capability]
        if not older:
            raise KernelLibraryError(
                f"NVRTC {_dotted(self.version)} compiles for capability {self.architectures()[0] / 10} and newer, "
                f"the device has {capability / 10}"
            )
        return f"sm_{capability}" if older[-1] == capability else f"compute_{older[-1]}"

    def compile(self, program: Program, target: str) -> bytes:
        """Return a cubin for a target such as `sm_90`, or PTX for one such as `compute_90`.

        Raises:
            KernelLibraryError: the sources do not compile. The message is the compiler's log.
        """
        handle = c_void_p()
        names = (c_char_p * len(program.headers))(*(name.encode() for name, _ in program.headers))
        texts = (c_char_p * len(program.headers))(*(text for _, text in program.headers))
        self._check(
            self._nvrtc.nvrtcCreateProgram(ctypes.byref(handle), program.main, _MAIN.encode(), len(names), texts, names)
        )
        try:
            options = [option.encode() for option in (*_OPTIONS, f"--gpu-architecture={target}")]
            array = (c_char_p * len(options))(*options)
            if self._nvrtc.nvrtcCompileProgram(handle, len(options), array) != 0:
                raise KernelLibraryError(f"NVRTC for {target}: {self._read(handle, 'ProgramLog').decode()}")
            return self._read(handle, "CUBIN" if target.startswith("sm_") else "PTX")
        finally:
            self._nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))

    def _read(self, handle: c_void_p, what: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._nvrtc, f"nvrtcGet{what}Size")(handle, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._nvrtc, f"nvrtcGet{what}")(handle, buffer))
        return buffer.raw


def find_compiler(cuda_version: str | None) -> Compiler:
    """Return the NVRTC that belongs to torch's CUDA, or else any that loads.

    Args:
        cuda_version: torch's, such as "13.0"; None where torch has none.

    Raises:
        KernelLibraryError: none is there. The message lists the paths tried.
    """
    major = (cuda_version or "").partition(".")[0]
    paths = list(dict.fromkeys(map(str, _libraries())))
    # The driver certainly runs what torch's own version makes.
    paths.sort(key=lambda path: not re.search(rf"\.so\.{major}(\.|$)", path) if major else False)
    causes = []
    for path in paths:
        try:
            return Compiler(path)
        except KernelLibraryError as error:
            causes.append(str(error))
    lines = "".join(f"\n  - {cause}" for cause in causes)
    raise KernelLibraryError(f"no NVRTC; pip install nvidia-cuda-nvrtc. Tried:{lines}")


def _libraries() -> Iterator[Path | str]:
    """Yield where an NVRTC may be: in wheels beside torch, in torch's own, then where the dynamic linker looks."""
    folders = dict.fromkeys([*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    for folder in map(Path, filter(None, folders)):
        for pattern in ("nvidia/*/lib/libnvrtc.so.*", "torch/lib/libnvrtc*.so*"):
            yield from sorted((path for path in folder.glob(pattern) if "builtins" not in path.name), reverse=True)
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def cache_folder() -> Path:
    """Return where compiled kernels are kept: `$XDG_CACHE_HOME/zoofleet/kernels`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zoofleet" / "kernels"


def compile_cached(compiler: Compiler, program: Program, target: str, folder: Path) -> bytes:
    """Compile, or take what was compiled before from a folder; an entry there that is not whole is made anew.

    Raises:
        KernelLibraryError: the sources do not compile.
    """
    path = folder / f"{_key((program.main, *_flat(program.headers)), target, compiler.version)}.{target}"
    with contextlib.suppress(OSError):
        entry = path.read_bytes()
        if hashlib.sha256(entry[_DIGEST_BYTES:]).digest() == entry[:_DIGEST_BYTES]:
            return entry[_DIGEST_BYTES:]
    code = compiler.compile(program, target)
    with contextlib.suppress(OSError):  # a disk that is full or read-only costs the next start a few seconds
        _write(path, hashlib.sha256(code).digest() + code)
    return code


def _flat(headers: Sequence[tuple[str, bytes]]) -> list[bytes]:
    return [part for name, text in headers for part in (name.encode(), text)]


def _key(parts: Sequence[bytes], target: str, version: tuple[int, int]) -> str:
    digest = hashlib.sha256()
    for part in (*parts, *(option.encode() for option in _OPTIONS), target.encode(), _dotted(version).encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write a file that readers see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
