"""Finds and loads libzoofleet_ops.

`csrc/zoofleet_ops.h` documents every function. ctypes releases the GIL while one runs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Final

from zoofleet.errors import InternalError, InvalidArgumentError, KernelLibraryError

__all__ = [
    "ABI",
    "ArgmaxParams",
    "ArgmaxTaps",
    "CorrelationParams",
    "Cuda",
    "PasteParams",
    "ResizeParams",
    "ResizeTaps",
    "RoIAlignParams",
    "built",
    "check",
    "cpu",
    "source_folders",
]

ABI: Final = 7
"""The interface that this package needs, of the library and of the kernels for CUDA."""

_OK, _INVALID_BATCH_INDEX, _OUT_OF_MEMORY, _CUDA_ERROR = 0, 2, 3, 1000

_NAME: Final = "libzoofleet_ops.so"

OVERRIDE: Final = "ZOOFLEET_OPS_LIBRARY"
"""The environment variable with the path of a CPU library to load; what belongs to it is then looked for beside
it."""


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


class Cuda(ctypes.Structure):
    """The C structure `zoofleet_cuda`."""

    _fields_ = (("get_function", c_void_p), ("launch", c_void_p), ("fill", c_void_p), ("module", c_void_p))


_CUDA = ctypes.POINTER(Cuda)
_PARAMS = ctypes.POINTER(RoIAlignParams)
_PASTE = (ctypes.POINTER(PasteParams), c_void_p, c_void_p)
_CORRELATION = (ctypes.POINTER(CorrelationParams), c_void_p, c_void_p, c_void_p)
_GRADIENTS = (c_void_p, c_void_p, c_void_p)
_RESIZE = (ctypes.POINTER(ResizeParams), ctypes.POINTER(ResizeTaps), c_void_p, c_void_p)
_ARGMAX = (ctypes.POINTER(ArgmaxParams), ctypes.POINTER(ArgmaxTaps), c_void_p)
_ENCODED = (c_int32, c_void_p, c_int64, c_void_p)
_NMS = (c_void_p, c_void_p, c_void_p, c_int64, c_double, c_int32)
_SIGNATURES: Final = {
    "zoofleet_nms": (c_int32, (*_NMS, c_int32, c_void_p, c_void_p)),
    "zoofleet_roi_align": (c_int32, (_PARAMS, c_void_p, c_void_p, c_int32, c_void_p)),
    "zoofleet_roi_align_backward": (c_int32, (_PARAMS, c_void_p, c_void_p, c_int32, c_void_p)),
    "zoofleet_paste_masks_to_rle": (c_int32, (*_PASTE, *_ENCODED)),
    "zoofleet_correlation_lookup": (c_int32, (*_CORRELATION, c_int32, c_void_p)),
    "zoofleet_correlation_lookup_backward": (c_int32, (*_CORRELATION, c_void_p, c_int32, *_GRADIENTS)),
    "zoofleet_resize_normalize": (c_int32, (*_RESIZE, c_int32, c_void_p)),
    "zoofleet_upsampled_argmax": (c_int32, (*_ARGMAX, c_int32, c_void_p)),
    "zoofleet_compress_runs": (c_int32, (c_void_p, c_void_p, c_int64, *_ENCODED)),
    "zoofleet_nms_cuda_workspace": (c_int64, (c_int64, c_int32)),
    "zoofleet_nms_cuda": (c_int32, (_CUDA, *_NMS, c_void_p, c_void_p, c_void_p, c_void_p)),
    "zoofleet_roi_align_cuda": (c_int32, (_CUDA, _PARAMS, c_void_p, c_void_p, c_void_p, c_void_p)),
    "zoofleet_roi_align_backward_cuda": (c_int32, (_CUDA, _PARAMS, c_void_p, c_void_p, c_void_p, c_void_p)),
    "zoofleet_paste_masks_runs_cuda": (c_int32, (_CUDA, *_PASTE, c_void_p, c_void_p, c_void_p)),
    "zoofleet_correlation_lookup_cuda": (c_int32, (_CUDA, *_CORRELATION, c_void_p, c_void_p)),
    "zoofleet_correlation_lookup_backward_cuda": (c_int32, (_CUDA, *_CORRELATION, c_void_p, *_GRADIENTS, c_void_p)),
    "zoofleet_resize_normalize_cuda": (c_int32, (_CUDA, *_RESIZE, c_void_p, c_void_p, c_void_p)),
    "zoofleet_upsampled_argmax_cuda": (c_int32, (_CUDA, *_ARGMAX, c_void_p, c_void_p)),
}


def _folders() -> list[Path]:
    # A wheel has its files beside this one; an editable install in its own folder, which it adds to the package's path.
    return list(dict.fromkeys([Path(__file__).parent, *map(Path, sys.modules[__package__].__path__)]))


_CHECKOUT: Final = Path(__file__).resolve().parents[2]


def built(name: str) -> list[Path]:
    """Return where a file that the build makes may be."""
    if override := os.environ.get(OVERRIDE):
        return [Path(override) if name == _NAME else Path(override).with_name(name)]
    in_checkout = [_CHECKOUT / "build" / "ops"] if (_CHECKOUT / "csrc" / "CMakeLists.txt").is_file() else []
    return [folder / name for folder in (*_folders(), *in_checkout)]


def source_folders() -> list[Path]:
    """Return where the sources of the kernels for CUDA may be."""
    return [*(folder / "csrc" for folder in _folders()), _CHECKOUT / "csrc"]


def _load() -> ctypes.CDLL:
    causes = []
    for path in built(_NAME):
        if not path.is_file():
            causes.append(f"{path}: no such file")
            continue
        try:
            library = ctypes.CDLL(str(path))
            library.zoofleet_ops_abi.restype = c_int32
            if (abi := library.zoofleet_ops_abi()) != ABI:
                causes.append(f"{path}: built for interface {abi}, this package needs {ABI}")
                continue
            for function, (restype, argtypes) in _SIGNATURES.items():
                getattr(library, function).restype = restype
                getattr(library, function).argtypes = argtypes
        except (OSError, AttributeError) as error:
            causes.append(f"{path}: {error}")
            continue
        return library
    lines = "".join(f"\n  - {cause}" for cause in causes)
    hint = f"reinstall zoofleet, run scripts/build-ops in a source tree, or name the library in {OVERRIDE}"
    raise KernelLibraryError(f"{_NAME} could not be loaded; {hint}. Tried:{lines}")


cpu: Final = _load()


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
    cause = f"CUDA error {status - _CUDA_ERROR}" if status >= _CUDA_ERROR else "see csrc/zoofleet_ops.h"
    raise InternalError(f"a zoofleet kernel returned status {status}: {cause}")
