"""The CUDA kernels, run on the host under AddressSanitizer and UBSan; and that faults in them would show.

`tests/ops/emulation` says how. The inputs and what they are held against are those of `tests/ops/test_cuda.py`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.ops import emulated

TESTS = "tests/ops/test_cuda.py"


@pytest.mark.timeout(900)  # on a machine that is busy; half a minute of CPU
def test_kernels_equal_the_cpus(tmp_path: Path) -> None:
    result = emulated.run_watched(emulated.build(tmp_path / "kernels.so"), TESTS)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert re.search(r"(\d+) passed", result.stdout)
    assert "Sanitizer" not in result.stderr
    assert "runtime error" not in result.stderr


FAULTS = {
    "a write past the end": (
        "roi_align.cu",
        "if (element >= k.elements) return;",
        "",
        "test_roi_align",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "a missing barrier": (
        "correlation.cu",
        "if (task.lane == 0) dots[at] = sum;\n    }\n    __syncwarp();",
        "if (task.lane == 0) dots[at] = sum;\n    }",
        "test_correlation_lookup",
        "Mismatched elements",
    ),
    "a shuffle that not all lanes reach": (
        "nms.cu",
        "const unsigned long long word = __shfl_sync",
        "if (lane == 5) continue;\n        const unsigned long long word = __shfl_sync",
        "test_nms",
        "emulation: __shfl_sync at line",
    ),
    "a read of what was not written": (
        "nms.cu",
        "k.pairs[at] = bits;",
        "if (bits) k.pairs[at] = bits;",
        "test_nms",
        "AssertionError",
    ),
    "an overflow": (
        "resize.cu",
        "int32_t sum = kHalf;",
        "int32_t sum = INT32_MAX;",
        "test_resize",
        "signed integer overflow",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_show(fault: str, tmp_path: Path) -> None:
    file, before, after, test, symptom = FAULTS[fault]
    sources = shutil.copytree(emulated.ROOT / "csrc", tmp_path / "csrc")
    text = (sources / file).read_text()
    assert before in text
    (sources / file).write_text(text.replace(before, after))
    library = emulated.build(tmp_path / "kernels.so", sources / file)
    result = emulated.run_watched(library, TESTS, "-x", "-k", f"{test} and falling")
    assert result.returncode != 0
    assert symptom in result.stdout + result.stderr
