"""How the kernel library is found, and what is said when it does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from zoofleet.models.ops import _library


def import_ops(library: Path) -> subprocess.CompletedProcess[str]:
    code = "import zoofleet.models.ops as ops, torch; print(ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5).tolist())"
    environment = {**os.environ, "ZOOFLEET_OPS_LIBRARY": str(library)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_override_is_loaded(tmp_path: Path) -> None:
    copy = tmp_path / "kernels.so"
    copy.write_bytes(Path(_library.cpu._name).read_bytes())
    result = import_ops(copy)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[0]\n"


def test_missing_library_raises_at_import_and_says_where_it_looked(tmp_path: Path) -> None:
    result = import_ops(tmp_path / "gone.so")
    assert result.returncode != 0
    assert "zoofleet.errors.KernelLibraryError: libzoofleet_ops.so could not be loaded" in result.stderr
    assert f"{tmp_path / 'gone.so'}: no such file" in result.stderr
    assert "scripts/build-ops" in result.stderr


def test_file_that_is_no_library(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"text")
    result = import_ops(broken)
    assert "KernelLibraryError" in result.stderr
    assert "file too short" in result.stderr


def test_library_of_another_interface(tmp_path: Path) -> None:
    source = tmp_path / "stale.c"
    source.write_text("int zoofleet_ops_abi(void) { return 99; }")
    stale = tmp_path / "stale.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", stale, source], check=True)
    assert f"{stale}: built for interface 99, this package needs {_library.ABI}" in import_ops(stale).stderr
    source.write_text("int unrelated;")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", stale, source], check=True)
    assert "undefined symbol: zoofleet_ops_abi" in import_ops(stale).stderr


def test_refuses_sizes_and_dtypes_that_are_not() -> None:
    for count, dtype, threshold in [(-1, 0, 0.5), (0, 2, 0.5), (0, 0, -1.0), (0, 0, float("nan"))]:
        assert _library.cpu.zoofleet_nms(None, None, None, count, threshold, dtype, 1, None, None) == 1
    params = _library.RoIAlignParams(1, 1, 4, 4, 0, 0, 2, 1.0, 2, 0, 0)
    assert _library.cpu.zoofleet_roi_align(params, None, None, 1, None) == 1
