"""Finds and loads libzoofleet_ops, and libzoofleet_ops_cuda once a tensor on a CUDA device asks for it.

`csrc/zoofleet_ops.h` documents every function. ctypes releases the GIL while one runs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from ctypes import c_char_p, c_double, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Final

from zoofleet.errors import InternalError, InvalidArgumentError, KernelLibraryError

__all__ = [
    "ArgmaxParams",
    "ArgmaxTaps",
    "CorrelationParams",
    "PasteParams",
    "ResizeParams",
    "ResizeTaps",
    "RoIAlignParams",
    "check",
    "cpu",
    "cuda",
]

_ABI: Final = 6
_OK, _INVALID_BATCH_INDEX, _OUT_OF_MEMORY, _CUDA_ERROR = 0, 2, 3, 1000

OVERRIDE: Final = "ZOOFLEET_OPS_LIBRARY"
"""The environment variable with the path of a CPU library to load; the CUDA library is then looked for beside it."""


class RoIAlignParams(ctypes.Structure):
    """The C structure `zoofleet_roi_align_params`."""

    _fields_ = (
        ("batch", c_int64),
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("rois", c_int64),
        ("pooled_height", c_int64),
        ("pooled_width", c_int64),
        ("spatial_scale", c_double),
        ("sampling_ratio", c_int64),
        ("aligned", c_int32),
        ("dtype", c_int32),
    )


class PasteParams(ctypes.Structure):
    """The C structure `zoofleet_paste_params`."""

    _fields_ = (
        ("masks", c_int64),
        ("side", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("threshold", c_double),
    )


class CorrelationParams(ctypes.Structure):
    """The C structure `zoofleet_correlation_params`."""

    _fields_ = (
        ("batch", c_int64),
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("height2", c_int64),
        ("width2", c_int64),
        ("radius", c_int64),
        ("dtype", c_int32),
    )


class ResizeParams(ctypes.Structure):
    """The C structure `zoofleet_resize_params`."""

    _fields_ = (
        ("height", c_int64),
        ("width", c_int64),
        ("out_height", c_int64),
        ("out_width", c_int64),
        ("row_taps", c_int64),
        ("column_taps", c_int64),
        ("value_bytes", c_int64),
    )


class ResizeTaps(ctypes.Structure):
    """The C structure `zoofleet_resize_taps`."""

    _fields_ = (
        ("row_firsts", c_void_p),
        ("row_weights", c_void_p),
        ("column_firsts", c_void_p),
        ("column_weights", c_void_p),
    )


class ArgmaxParams(ctypes.Structure):
    """The C structure `zoofleet_argmax_params`."""

    _fields_ = (
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("out_height", c_int64),
        ("out_width", c_int64),
        ("interleaved", c_int32),
    )


class ArgmaxTaps(ctypes.Structure):
    """The C structure `zoofleet_argmax_taps`."""

    _fields_ = (
        ("aboves", c_void_p),
        ("row_weights", c_void_p),
        ("lefts", c_void_p),
        ("left_weights", c_void_p),
        ("right_weights", c_void_p),
    )


_PARAMS = ctypes.POINTER(RoIAlignParams)
_PASTE = (ctypes.POINTER(PasteParams), c_void_p, c_void_p)
_CORRELATION = (ctypes.POINTER(CorrelationParams), c_void_p, c_void_p, c_void_p)
_GRADIENTS = (c_void_p, c_void_p, c_void_p)
_RESIZE = (ctypes.POINTER(ResizeParams), ctypes.POINTER(ResizeTaps), c_void_p, c_void_p)
_ARGMAX = (ctypes.POINTER(ArgmaxParams), ctypes.POINTER(ArgmaxTaps), c_void_p)
_ENCODED = (c_int32, c_void_p, c_int64, c_void_p)
_NMS = (c_void_p, c_void_p, c_void_p, c_int64, c_double, c_int32)
_CPU_SIGNATURES: Final = {
    "zoofleet_nms": (c_int32, (*_NMS, c_int32, c_void_p, c_void_p)),
    "zoofleet_roi_align": (c_int32, (_PARAMS, c_void_p, c_void_p, c_int32, c_void_p)),
    "zoofleet_roi_align_backward": (c_int32, (_PARAMS, c_void_p, c_void_p, c_int32, c_void_p)),
    "zoofleet_paste_masks_to_rle": (c_int32, (*_PASTE, *_ENCODED)),
    "zoofleet_correlation_lookup": (c_int32, (*_CORRELATION, c_int32, c_void_p)),
    "zoofleet_correlation_lookup_backward": (c_int32, (*_CORRELATION, c_void_p, c_int32, *_GRADIENTS)),
    "zoofleet_resize_normalize": (c_int32, (*_RESIZE, c_int32, c_void_p)),
    "zoofleet_upsampled_argmax": (c_int32, (*_ARGMAX, c_int32, c_void_p)),
    "zoofleet_compress_runs": (c_int32, (c_void_p, c_void_p, c_int64, *_ENCODED)),
}
_CUDA_SIGNATURES: Final = {
    "zoofleet_nms_cuda_workspace": (c_int64, (c_int64, c_int32)),
    "zoofleet_nms_cuda": (c_int32, (*_NMS, c_void_p, c_void_p, c_void_p, c_void_p)),
    "zoofleet_roi_align_cuda": (c_int32, (_PARAMS, c_void_p, c_void_p, c_void_p, c_void_p)),
    "zoofleet_roi_align_backward_cuda": (c_int32, (_PARAMS, c_void_p, c_void_p, c_void_p, c_void_p)),
    "zoofleet_paste_masks_runs_cuda": (c_int32, (*_PASTE, c_void_p, c_void_p, c_void_p)),
    "zoofleet_correlation_lookup_cuda": (c_int32, (*_CORRELATION, c_void_p, c_void_p)),
    "zoofleet_correlation_lookup_backward_cuda": (c_int32, (*_CORRELATION, c_void_p, *_GRADIENTS, c_void_p)),
    "zoofleet_resize_normalize_cuda": (c_int32, (*_RESIZE, c_void_p, c_void_p, c_void_p)),
    "zoofleet_upsampled_argmax_cuda": (c_int32, (*_ARGMAX, c_void_p, c_void_p)),
    "zoofleet_cuda_error": (c_char_p, (c_int32,)),
}


def _candidates(name: str) -> list[Path]:
    if override := os.environ.get(OVERRIDE):
        return [Path(override).with_name(name) if name.endswith("_cuda.so") else Path(override)]
    # A wheel has it beside this file; an editable install in its own folder, which it adds to the package's path.
    folders = [Path(__file__).parent, *map(Path, sys.modules[__package__].__path__)]
    root = Path(__file__).resolve().parents[2]
    if (root / "csrc" / "CMakeLists.txt").is_file():
        folders.append(root / "build" / "ops")
    return list(dict.fromkeys(folder / name for folder in folders))


def _load(name: str, signatures: Mapping[str, tuple[type, tuple[type, ...]]], hint: str) -> ctypes.CDLL:
    causes = []
    for path in _candidates(name):
        if not path.is_file():
            causes.append(f"{path}: no such file")
            continue
        try:
            library = ctypes.CDLL(str(path))
            library.zoofleet_ops_abi.restype = c_int32
            if (abi := library.zoofleet_ops_abi()) != _ABI:
                causes.append(f"{path}: built for interface {abi}, this package needs {_ABI}")
                continue
            for function, (restype, argtypes) in signatures.items():
                getattr(library, function).restype = restype
                getattr(library, function).argtypes = argtypes
        except (OSError, AttributeError) as error:
            causes.append(f"{path}: {error}")
            continue
        return library
    lines = "".join(f"\n  - {cause}" for cause in causes)
    raise KernelLibraryError(f"{name} could not be loaded; {hint}. Tried:{lines}")


cpu: Final = _load(
    "libzoofleet_ops.so",
    _CPU_SIGNATURES,
    f"reinstall zoofleet, run scripts/build-ops in a source tree, or name the library in {OVERRIDE}",
)


@cache
def cuda() -> ctypes.CDLL:
    """Return the CUDA kernels, which are loaded by the first call.

    Raises:
        KernelLibraryError: they were not built, or do not load.
    """
    return _load(
        "libzoofleet_ops_cuda.so",
        _CUDA_SIGNATURES,
        "reinstall zoofleet from source with nvcc on PATH: pip install . -C cmake.define.ZOOFLEET_CUDA=ON",
    )


def check(status: int) -> None:
    """Raise the error that a kernel's status stands for; do nothing where it stands for success.

    Raises:
        InvalidArgumentError: a batch index names no image.
        MemoryError: the kernel found no memory.
        InternalError: the kernel refused its arguments, or CUDA reported an error.
    """
    if status == _OK:
        return
    if status == _INVALID_BATCH_INDEX:
        raise InvalidArgumentError("column 0 of boxes holds a value that is not the index of an image in the batch")
    if status == _OUT_OF_MEMORY:
        raise MemoryError("a zoofleet kernel found no memory")
    cause = cuda().zoofleet_cuda_error(status).decode() if status >= _CUDA_ERROR else "see csrc/zoofleet_ops.h"
    raise InternalError(f"a zoofleet kernel returned status {status}: {cause}")
