"""The ladder of plans that a machine can try."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

__all__ = ["DTYPES", "Rung", "compiler", "hardware", "ladder"]

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
)
"""What a region takes and gives, by the name of the type that it computes in. INT8 models take and give float32."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A plan that can be tried.

    Attributes:
        name: what operators read, such as `compiled bfloat16`.
        dtype: name of the type that the model computes in.
        is_compiled: whether it is compiled, by torch.export and AOTInductor; otherwise it runs eagerly.
        tf32: whether a GPU may multiply float32 in TF32.
    """

    name: str
    dtype: str
    is_compiled: bool = False
    tf32: bool = False


def ladder(device: torch.device, *, int8: bool = False) -> tuple[Rung, ...]:
    """Return the plans to try beside EXACT on a device. In all, batch norms are folded into convolutions.

    Args:
        device: the device.
        int8: whether the model may be run in INT8, and has such a form; only on a CPU.
    """
    if device.type == "cuda":
        return (
            Rung("TF32", "float32", tf32=True),
            Rung("eager bfloat16", "bfloat16", tf32=True),
            Rung("eager float16", "float16", tf32=True),
        )
    dtypes = ["float32"]
    # Elsewhere each product in bfloat16 would be converted to float32 and back.
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        dtypes.append("bfloat16")
    rungs = [Rung("folded float32" if dtype == "float32" else f"eager {dtype}", dtype) for dtype in dtypes]
    if int8:
        rungs.append(Rung("INT8", "int8"))
    if compiler() is not None:
        rungs += [Rung(f"compiled {dtype}", dtype, is_compiled=True) for dtype in dtypes]
    return tuple(rungs)


def compiler() -> str | None:
    """Return the path of the C++ compiler that AOTInductor would use for a CPU. None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def hardware(device: torch.device) -> str:
    """Return what a plan that was built on a device depends on, for cache keys."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, {major}.{minor}, CUDA {torch.version.cuda}"
    wanted = ("vendor_id", "model name", "flags", "Features", "CPU part")
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            found.setdefault(name.strip(), value.strip())
    return "; ".join(found.values())
