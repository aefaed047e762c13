"""Checks a GPU machine: kernels, their stand-ins, every runner against the CPU, and how fast ResNet-50 is."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoofleet import AsyncClient
from zoofleet._values.tasks import Classify, ClassifyClip, Detect, EstimateFlow, Precision, Segment, Task
from zoofleet.errors import UnimplementedError, ZoofleetError
from zoofleet.models import resnet50
from zoofleet.models.ops import _cuda, nms, paste_masks_to_rle, roi_align, verify_kernels
from zoofleet.worker import Worker, WorkerConfig

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / "tests" / "data" / "media"


class Skipped(Exception):  # noqa: N818 - no error
    """What a check needs is not here."""


def equal(there: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(there.cpu(), expected, msg=lambda text: f"{what}: {text}")


def pytest_of_kernels(*wrapper: str, select: str = "") -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/ops/test_cuda.py", "-k", select or "test"]
    environment = {**os.environ, "ZOOFLEET_REQUIRE_CUDA": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1" if wrapper else ""}
    environment = {name: value for name, value in environment.items() if value}
    result = subprocess.run([*wrapper, *tests], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise AssertionError(result.stdout[-2000:] + result.stderr[-2000:])


def kernels(device: torch.device) -> str:
    if device.type == "cuda":
        pytest_of_kernels()
        return "tests/ops/test_cuda.py"
    tests = [sys.executable, "-m", "pytest", "-q", "tests/ops/test_emulation.py", "-k", "equal"]
    subprocess.run(tests, cwd=ROOT, check=True, capture_output=True)
    return "emulated"


def sanitized(device: torch.device) -> str:
    sanitizer = shutil.which("compute-sanitizer")
    if device.type != "cuda" or sanitizer is None:
        raise Skipped("no compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        pytest_of_kernels(sanitizer, "--tool", tool, "--error-exitcode", "9", select="not 20000 and not opcheck")
    return "memcheck, racecheck"


def boxes_of(count: int, generator: torch.Generator, side: float = 900) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 90 + 1], dim=1)


def layouts(device: torch.device) -> str:
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(2, 9, 40, 60, generator=generator)
    boxes = [boxes_of(20, generator, 30), boxes_of(20, generator, 30)]
    there = [each.to(device) for each in boxes]
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "channels last": lambda x: x.to(memory_format=torch.channels_last),
        "sliced": lambda x: x[:, 1:8:2, 3:, ::2],
        "float16": lambda x: x.half(),
        "bfloat16": lambda x: x.bfloat16(),
    }
    for name, view in views.items():
        expected = roi_align(view(wide), boxes, 7, 0.5, 2)
        equal(roi_align(view(wide.to(device)), there, 7, 0.5, 2), expected, name)
    return "channels last, sliced, float16, bfloat16"


def streams(device: torch.device) -> str:
    if device.type != "cuda":
        raise Skipped("a CPU has no streams")
    generator = torch.Generator().manual_seed(2)
    boxes, scores = boxes_of(5000, generator), torch.rand(5000, generator=generator)
    expected = nms(boxes, scores, 0.5)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        # The inputs come late on this stream; kernels on another one would read what is not there yet.
        late = torch.zeros_like(boxes, device=device)
        torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]
        late.copy_(boxes)
        equal(nms(late, scores.to(device), 0.5), expected, "nms on a stream of its own")
    return "non-default stream"


def large(device: torch.device) -> str:
    generator = torch.Generator().manual_seed(3)
    count, size = (100_000, (6000, 8000)) if device.type == "cuda" else (5_000, (600, 800))
    boxes, scores = boxes_of(count, generator, 5000), torch.rand(count, generator=generator)
    equal(nms(boxes.to(device), scores.to(device), 0.5), nms(boxes, scores, 0.5), "nms")
    masks, extents = torch.rand(20, 28, 28, generator=generator), boxes_of(20, generator, size[0]) * 1.2
    if paste_masks_to_rle(masks.to(device), extents.to(device), size) != paste_masks_to_rle(masks, extents, size):
        raise AssertionError("pasted masks differ")
    return f"{count} boxes of one class, masks in {size[1]}x{size[0]}"


def threads(device: torch.device) -> str:
    generator = torch.Generator().manual_seed(4)
    boxes, scores = boxes_of(3000, generator), torch.rand(3000, generator=generator)
    expected, errors = nms(boxes, scores, 0.5), []

    def run() -> None:
        try:
            for _ in range(50):
                equal(nms(boxes.to(device), scores.to(device), 0.5), expected, "nms")
        except Exception as error:  # noqa: BLE001 - the main thread tells it
            errors.append(error)

    workers = [threading.Thread(target=run) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return "two at once"


@contextlib.contextmanager
def using(found: _cuda.Kernels | str, index: int) -> Iterator[None]:
    before = _cuda._found.get(index)
    _cuda._found[index] = found
    try:
        yield
    finally:
        _cuda._found.pop(index)
        if before is not None:
            _cuda._found[index] = before


def paths(device: torch.device) -> str:
    """nvcc's kernels, NVRTC's and the stand-ins, each against the CPU."""
    if device.type != "cuda":
        raise Skipped("needs CUDA")
    index, names = device.index or 0, []
    candidates: list[tuple[str, Callable[[], _cuda.Kernels | str]]] = [
        ("nvcc", lambda: _cuda.built_ahead(index)),
        ("NVRTC", lambda: _cuda.compiled_here(index)),
        ("stand-ins", lambda: "switched off"),
    ]
    for name, find in candidates:
        try:
            found = find()
        except ZoofleetError as error:
            names.append(f"{name} absent ({str(error)[:80]})")
            continue
        with using(found, index):
            layouts(device), large(device)
        names.append(name)
    return ", ".join(names)


def warnings_of_tf32(device: torch.device) -> str:
    code = (
        "import warnings, torch; warnings.simplefilter('error'); torch.backends.cudnn.allow_tf32 = False; "
        f"print(torch.nn.Conv2d(3, 4, 3).to('{device}')(torch.ones(1, 3, 8, 8, device='{device}')).sum().item())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return "allow_tf32 gives no warning"


TASKS: tuple[tuple[type[Task], str], ...] = (
    (Classify, "resnet18@random"),
    (Segment, "lraspp_mobilenet_v3_large@random"),
    (Detect, "ssdlite320_mobilenet_v3_large@random"),
    (Detect, "maskrcnn_resnet50_fpn@random"),
    (ClassifyClip, "r3d_18@random"),
    (EstimateFlow, "raft_small@random"),
)


async def answers(device: str, precision: Precision, photograph: bytes, clip: bytes) -> list[Any]:
    """What a worker of its own gives for each task, UnimplementedError where it has no such precision."""
    options: dict[str, Any] = {}
    if precision is not Precision.EXACT:
        if "precision" not in {field.name for field in dataclasses.fields(Task)}:
            raise Skipped("tasks have no precision yet")
        options = {"precision": precision}
    worker = Worker(WorkerConfig(schedulers=(), device=device))
    await worker.start()
    found: list[Any] = []
    try:
        async with AsyncClient(worker.address) as client:
            for kind, model in TASKS:
                item = (
                    clip if kind is ClassifyClip else (photograph, photograph) if kind is EstimateFlow else photograph
                )
                task = dataclasses.replace(kind(model), **options)
                try:
                    found += [result.outcome async for result in client.stream(task, [item])]
                except UnimplementedError as error:
                    found.append(error)
    finally:
        await worker.stop()
    return found


def arrays_of(outcome: Any) -> dict[str, np.ndarray[Any, Any]]:
    if isinstance(outcome, ZoofleetError):
        raise outcome
    values = {
        name: getattr(outcome, name) for name in ("scores", "boxes", "label_map", "flow") if hasattr(outcome, name)
    }
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def runners(device: torch.device, precision: Precision) -> str:
    photograph, clip = (next(MEDIA.rglob(pattern)).read_bytes() for pattern in ("*.jpg", "*.mp4"))
    expected = asyncio.run(answers("cpu", Precision.EXACT, photograph, clip))
    found = asyncio.run(answers(str(device), precision, photograph, clip))
    if any(isinstance(each, UnimplementedError) for each in found):
        raise Skipped(f"{precision.name} is not there yet")
    # float32 in another order; and what a plan of FAST may stray.
    tolerance = 1e-3 if precision is Precision.EXACT else 5e-2
    told = []
    for (_, model), one, other in zip(TASKS, found, expected, strict=True):
        for name, values in arrays_of(one).items():
            wanted = arrays_of(other)[name]
            if values.shape != wanted.shape:
                raise AssertionError(f"{model}: {name} has shape {values.shape}, on the CPU {wanted.shape}")
            if name == "label_map":
                share = float((values == wanted).mean())
                if share < 1 - tolerance:
                    raise AssertionError(f"{model}: {share:.4f} of the pixels are labelled as on the CPU")
            else:
                scale = max(float(np.abs(wanted).max(initial=0)), 1.0)
                np.testing.assert_allclose(values / scale, wanted / scale, atol=tolerance, err_msg=f"{model}: {name}")
        told.append(model.partition("@")[0])
    return ", ".join(told)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The best of some runs, each to its end."""
    best = float("inf")
    for _ in range(7):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best * 1000


def graphed(model: torch.nn.Module, batch: Tensor) -> Callable[[], object]:
    stream = torch.cuda.Stream(batch.device)  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(batch)
    torch.cuda.synchronize(batch.device)
    with torch.cuda.graph(graph):
        model(batch)
    return graph.replay


@torch.inference_mode()
def table(device: torch.device) -> str:
    on_cuda = device.type == "cuda"
    sizes = (1, 4, 16, 64, 256) if on_cuda else (1,)
    rows = [("float32 NCHW", torch.float32, torch.contiguous_format, False, False)]
    rows += [("float32 NHWC", torch.float32, torch.channels_last, False, False)]
    rows += [("TF32 NHWC", torch.float32, torch.channels_last, True, False)] if on_cuda else []
    rows += [("bfloat16 NHWC", torch.bfloat16, torch.channels_last, False, False)]
    rows += [("bfloat16 NHWC, graph", torch.bfloat16, torch.channels_last, False, True)] if on_cuda else []
    print(f"\nResNet-50, 224x224, images/s on {device}\n\n| | " + " | ".join(f"batch {size}" for size in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    for name, dtype, layout, tf32, graph in rows:
        torch.backends.cudnn.allow_tf32 = tf32
        model = resnet50().eval().to(device, dtype)
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        cells = []
        for size in sizes:
            batch = torch.randn(size, 3, 224, 224, device=device).to(dtype).to(memory_format=layout)
            model(batch)
            run = graphed(model, batch) if graph else partial(model, batch)
            cells.append(f"{1000 * size / milliseconds(run, device):.0f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    torch.backends.cudnn.allow_tf32 = False
    return "above"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cuda:0 and so on, or cpu to rehearse")
    parser.add_argument("--only", help="names of checks, with commas")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.allow_tf32 = False
    checks: dict[str, Callable[[torch.device], str]] = {
        "device": verify_kernels,
        "kernels": kernels,
        "sanitizer": sanitized,
        "layouts": layouts,
        "streams": streams,
        "sizes": large,
        "threads": threads,
        "paths": paths,
        "tf32": warnings_of_tf32,
        "EXACT": lambda device: runners(device, Precision.EXACT),
        "FAST": lambda device: runners(device, Precision.FAST),
        "table": table,
    }
    wanted = arguments.only.split(",") if arguments.only else list(checks)
    failures = 0
    for name in wanted:
        started = time.perf_counter()
        try:
            verdict = f"ok       {checks[name](device)}"
        except Skipped as reason:
            verdict = f"skipped  {reason}"
        except Exception as error:  # noqa: BLE001 - the other checks go on
            failures += 1
            verdict = f"FAILED   {type(error).__name__}: {error}"
        print(f"{name:10} {time.perf_counter() - started:6.1f} s  {verdict}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
