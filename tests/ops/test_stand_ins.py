"""What stands in for kernels on a CUDA device that has none, and how a worker's device is checked."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InternalError, KernelLibraryError
from zoofleet.models.ops import (
    _cuda,
    _library,
    correlation_lookup,
    paste_masks_to_rle,
    resize_normalize,
    roi_align,
    upsampled_argmax,
)
from zoofleet.models.ops import nms as suppress


@contextlib.contextmanager
def lacking() -> Iterator[list[int]]:
    """Let the first of a pair of calls of an operator find its tensors on a device without kernels."""
    asked: list[int] = []

    def lacks_kernels(tensor: Tensor) -> bool:
        asked.append(1)
        return len(asked) % 2 == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "lacks_kernels", lacks_kernels)
        yield asked


BOXES = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [3, 2, 8, 9]])
FEATURES = torch.arange(512.0).reshape(1, 2, 16, 16)
MAPS = torch.arange(96.0).reshape(1, 3, 4, 8)
CALLS: dict[str, Callable[[], Tensor | list[bytes]]] = {
    "nms": lambda: suppress(BOXES, torch.tensor([0.5, 0.7, 0.6]), 0.5),
    "roi_align": lambda: roi_align(FEATURES, [BOXES], (3, 2), 0.5, 2),
    "paste_masks_to_rle": lambda: paste_masks_to_rle(torch.ones(3, 4, 4), BOXES, (12, 12)),
    "resize_normalize": lambda: resize_normalize(
        torch.arange(192, dtype=torch.uint8).reshape(8, 8, 3), (4, 4), (0, 0, 4, 4), (0.5,) * 3, (0.2,) * 3
    ),
    "upsampled_argmax": lambda: upsampled_argmax(FEATURES[0], (20, 24)),
    "correlation_lookup": lambda: correlation_lookup(MAPS, MAPS, torch.ones(1, 2, 3, 4), 1),
}


@pytest.mark.parametrize("operator", CALLS)
def test_hosts_result_is_the_cpus(operator: str) -> None:
    expected = CALLS[operator]()
    with lacking() as asked:
        found = CALLS[operator]()
    assert asked
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_hosts_gradients_are_the_cpus() -> None:
    features = FEATURES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(roi_align(features, [BOXES], 2).sum(), features)
    with lacking():
        (found,) = torch.autograd.grad(roi_align(features, [BOXES], 2).sum(), features)
    assert torch.equal(found, expected)
    maps, others, coords = MAPS.clone().requires_grad_(), MAPS.clone().requires_grad_(), torch.ones(1, 2, 3, 4) / 3
    inputs = (maps, others, coords.requires_grad_())
    of_cpu = torch.autograd.grad(correlation_lookup(*inputs, 1).sum(), inputs)
    with lacking():
        of_host = torch.autograd.grad(correlation_lookup(*inputs, 1).sum(), inputs)
    for one, other in zip(of_host, of_cpu, strict=True):
        assert torch.equal(one, other)


def test_says_why_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(index: int) -> _cuda.Kernels:
        raise KernelLibraryError(f"none for {index}")

    monkeypatch.setattr(_cuda, "built_ahead", fail)
    monkeypatch.setattr(_cuda, "compiled_here", fail)
    monkeypatch.setattr(_cuda, "_found", {})
    device = torch.device("cuda", 7)
    with caplog.at_level(logging.WARNING):
        assert _cuda.kernels(device) is None
        assert _cuda.describe(device) == "CPU, with copies: none for 7; none for 7"
    assert len(caplog.records) == 1
    assert _cuda.kernels(torch.device("cpu")) is None


def test_code_built_ahead_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, here = (_cuda.Kernels(name, _library.Cuda(), lambda: contextlib.nullcontext(None)) for name in "ab")
    monkeypatch.setattr(_cuda, "built_ahead", lambda index: ahead)
    monkeypatch.setattr(_cuda, "compiled_here", lambda index: here)
    monkeypatch.setattr(_cuda, "_found", {})
    assert _cuda.kernels(torch.device("cuda", 0)) is ahead


def test_kernels_that_err_are_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda", 0)
    kernels = _cuda.Kernels("a", _library.Cuda(), lambda: contextlib.nullcontext(None))
    monkeypatch.setattr(_cuda, "_found", {0: kernels})
    compared = iter([InternalError("wrong"), None])

    def compare(device: torch.device) -> None:
        if (error := next(compared)) is not None:
            raise error

    monkeypatch.setattr(_cuda, "_compare", compare)
    assert _cuda.verify(device) == "CPU, with copies: wrong"
    assert "are not used: wrong" in caplog.text
    assert _cuda.kernels(device) is None


def test_device_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(device: torch.device) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(_cuda, "_found", {0: "none"})
    monkeypatch.setattr(_cuda, "_compare", compare)
    with pytest.raises(InternalError, match="cuda:0 does not work: an illegal memory access"):
        _cuda.verify(torch.device("cuda", 0))


def test_what_keeps_code_from_loading_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_driver() -> _cuda._Driver:
        raise KernelLibraryError("no driver")

    code = tmp_path / "code"
    code.write_bytes(b"code")
    monkeypatch.setattr(_cuda, "_driver", no_driver)
    monkeypatch.setattr(_library, "built", lambda name: [tmp_path / "gone", code])
    with pytest.raises(KernelLibraryError) as raised:
        _cuda.built_ahead(0)
    assert str(raised.value) == f"{tmp_path / 'gone'}: No such file or directory; {code}: no driver"


class Refusing:
    """A driver's library that answers every call with an error."""

    def cuGetErrorString(self, result: int, text: object) -> int:  # noqa: N802
        text._obj.value = b"the provided PTX was compiled with an unsupported toolchain."  # type: ignore[attr-defined]
        return 0

    def cuDriverGetVersion(self, version: object) -> int:  # noqa: N802
        version._obj.value = 12040  # type: ignore[attr-defined]
        return 0


def test_old_driver_is_named() -> None:
    driver = object.__new__(_cuda._Driver)
    driver.library = Refusing()  # type: ignore[misc, assignment]
    with pytest.raises(KernelLibraryError, match=r"CUDA error 222: .*unsupported toolchain.*\(driver for CUDA 12\.4\)"):
        driver.check(222)
