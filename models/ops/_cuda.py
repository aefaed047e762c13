"""The kernels on a CUDA device: which code they come from, and what stands in where there is none.

The code was built ahead by nvcc, or is compiled on first use by NVRTC; the CUDA driver loads either. Where neither can
be, operators copy their tensors to the host and run the CPU's kernels there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ctypes import c_char_p, c_int, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import torch
from torch import Tensor

from zoofleet.errors import InternalError, KernelLibraryError
from zoofleet.models.ops import _library, _nvrtc

__all__ = ["Kernels", "built_ahead", "compiled_here", "describe", "kernels", "lacks_kernels", "on_host", "verify"]

_log: Final = logging.getLogger(__name__)

_FATBIN: Final = "zoofleet_ops.fatbin"


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """Kernels that a device has loaded.

    Attributes:
        origin: where their code comes from, for operators to read.
        table: how the library reaches them.
        queue: makes the device current and yields the stream to enqueue on.
    """

    origin: str
    table: _library.Cuda
    queue: Callable[[], AbstractContextManager[int | None]]

    def enqueue(self, function: str, *arguments: object) -> None:
        """Call a function of the library, such as `zoofleet_nms_cuda`, with all its arguments but first and last.

        Raises:
            InternalError: it refused its arguments, or CUDA reported an error.
        """
        with self.queue() as stream:
            status = getattr(_library.cpu, function)(ctypes.byref(self.table), *arguments, stream)
        _library.check(status)


class _Driver:
    """The CUDA driver, libcuda.

    Raises:
        KernelLibraryError: it is not there.
    """

    def __init__(self) -> None:
        try:
            self.library: Final = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise KernelLibraryError(str(error)) from None
        self.check(self.library.cuInit(0))

    def check(self, result: int) -> None:
        """Raise the error that a CUresult stands for.

        Raises:
            KernelLibraryError: it stands for one. The message has the version of CUDA that the driver supports.
        """
        if result == 0:
            return
        text, version = c_char_p(), c_int()
        self.library.cuGetErrorString(result, ctypes.byref(text))
        self.library.cuDriverGetVersion(ctypes.byref(version))
        supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise KernelLibraryError(f"CUDA error {result}: {(text.value or b'').decode()} (driver for CUDA {supported})")

    def load(self, code: bytes, origin: str, index: int) -> Kernels:
        """Load code for the device, a cubin, PTX or both, onto one of its devices.

        Raises:
            KernelLibraryError: it does not run there, or is of another interface.
        """
        number, context, module, function = c_int(), c_void_p(), c_void_p(), c_void_p()
        self.check(self.library.cuDeviceGet(ctypes.byref(number), index))
        # The one that torch uses, by CUDA's runtime.
        self.check(self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), number))
        with self._current(context):
            self.check(self.library.cuModuleLoadData(ctypes.byref(module), code))
            name = f"zoofleet_ops_abi_{_library.ABI}"
            if self.library.cuModuleGetFunction(ctypes.byref(function), module, name.encode()) != 0:
                raise KernelLibraryError(f"built for another interface than {_library.ABI}, which this package needs")
        entries = (self.library.cuModuleGetFunction, self.library.cuLaunchKernel, self.library.cuMemsetD8Async)
        table = _library.Cuda(*(ctypes.cast(entry, c_void_p) for entry in entries), module)
        return Kernels(origin, table, partial(self._queue, context, index))

    @contextlib.contextmanager
    def _current(self, context: c_void_p) -> Iterator[None]:
        # A thread that has not used CUDA yet has no context, even where torch takes the device to be its current one.
        self.check(self.library.cuCtxPushCurrent_v2(context))
        try:
            yield
        finally:
            self.library.cuCtxPopCurrent_v2(ctypes.byref(c_void_p()))

    @contextlib.contextmanager
    def _queue(self, context: c_void_p, index: int) -> Iterator[int]:
        with self._current(context):
            yield torch.cuda.current_stream(index).cuda_stream


_driver: Final = cache(_Driver)


def built_ahead(index: int) -> Kernels:
    """Load the kernels that nvcc built onto a device.

    Raises:
        KernelLibraryError: there are none, or they do not run on it.
    """
    causes = []
    for path in _library.built(_FATBIN):
        try:
            code = path.read_bytes()
            return _driver().load(code, f"nvcc ({path.name})", index)
        except OSError as error:
            causes.append(f"{path}: {error.strerror}")
        except KernelLibraryError as error:
            causes.append(f"{path}: {error}")
    raise KernelLibraryError("; ".join(causes))


def compiled_here(index: int) -> Kernels:
    """Compile the kernels for a device, or take what was compiled before, and load them onto it.

    Raises:
        KernelLibraryError: there is no NVRTC, it does not compile for the device, or the device does not run it.
    """
    folder = next((each for each in _library.source_folders() if (each / "kernels.cu").is_file()), None)
    if folder is None:
        raise KernelLibraryError("the sources of the kernels are not there")
    compiler = _nvrtc.find_compiler(torch.version.cuda)
    major, minor = torch.cuda.get_device_capability(index)
    target = compiler.target(10 * major + minor)
    code = _nvrtc.compile_cached(compiler, _nvrtc.Program.read(folder), target, _nvrtc.cache_folder())
    return _driver().load(code, f"NVRTC {'.'.join(map(str, compiler.version))} ({target})", index)


_lock: Final = threading.Lock()
_found: Final[dict[int, Kernels | str]] = {}
"""By index of the device its kernels, or why it has none."""


def kernels(device: torch.device) -> Kernels | None:
    """Return the kernels of a device, which are loaded by the first call; None for a CPU, and where there are none."""
    if device.type != "cuda":
        return None
    found = _of_device(device)
    return None if isinstance(found, str) else found


def lacks_kernels(tensor: Tensor) -> bool:
    """Return whether a tensor is on a CUDA device for which there are no kernels, so that `on_host` must serve."""
    return tensor.is_cuda and kernels(tensor.device) is None


def describe(device: torch.device) -> str:
    """Return in words where the kernels of a device come from, or why the CPU's stand in for them."""
    if device.type != "cuda":
        return "CPU"
    found = _of_device(device)
    return f"CPU, with copies: {found}" if isinstance(found, str) else found.origin


def _of_device(device: torch.device) -> Kernels | str:
    index = _index(device)
    with _lock:
        if index not in _found:
            _found[index] = _find(index)
        return _found[index]


def _index(device: torch.device) -> int:
    index: int | None = device.index  # which torch's types take for a number
    return torch.cuda.current_device() if index is None else index


def _find(index: int) -> Kernels | str:
    causes = []
    for find in (built_ahead, compiled_here):
        try:
            return find(index)
        except KernelLibraryError as error:
            causes.append(str(error))
    reason = "; ".join(causes)
    _log.warning("no kernels for cuda:%d; operators copy their tensors to the CPU, which is slower: %s", index, reason)
    return reason


def verify(device: torch.device) -> str:
    """Run kernels on a device and compare with the CPU's, and return in words where they come from.

    Kernels that fail or err are used no more, but the CPU's.

    Raises:
        InternalError: those that stand in fail, too: the device itself is at fault.
    """
    if kernels(device) is not None:
        try:
            _compare(device)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the CPU's kernels may serve
            _log.warning("the kernels of %s are not used: %s", device, error)
            with _lock:
                _found[_index(device)] = str(error)
    if device.type == "cuda" and kernels(device) is None:
        try:
            _compare(device)
        except RuntimeError as error:
            raise InternalError(f"{device} does not work: {error}") from error
    return describe(device)


def _compare(device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 0, 30, 9]])
    scores = torch.tensor([0.5, 0.7, 0.6])
    features, rois = torch.arange(512.0).reshape(1, 2, 16, 16), torch.nn.functional.pad(boxes, (1, 0))
    operators = torch.ops.zoofleet
    calls = ((operators.nms, (boxes, scores, 0.5)), (operators.roi_align, (features, rois, 0.5, 2, 2, 2, False)))
    for operator, arguments in calls:
        there = [each.to(device) if isinstance(each, Tensor) else each for each in arguments]
        if not torch.allclose(operator(*there).cpu(), operator(*arguments)):
            raise InternalError(f"{operator} on {device} does not equal the CPU's")


def on_host(operator: Callable[..., Any], *arguments: object) -> Any:
    """Call an operator with its tensors on the CPU, and return what it gives on the device they were on."""
    device = next(each.device for each in arguments if isinstance(each, Tensor))
    outputs = operator(*(each.cpu() if isinstance(each, Tensor) else each for each in arguments))
    if isinstance(outputs, Tensor):
        return outputs.to(device)
    return tuple(output.to(device) for output in outputs)
