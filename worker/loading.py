"""How a model is loaded into its runner."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor, nn

from zoofleet._catalog import ModelName
from zoofleet.errors import ResourceExhaustedError, UnimplementedError
from zoofleet.models import get_model, get_model_weights, transforms
from zoofleet.models._loading import load_model
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.plan import EXACT
from zoofleet.worker.runner import Runner
from zoofleet.worker.runners import published, runner_type

__all__ = ["make_runner", "memory_bytes", "runner_of", "warm_up"]

_BLANK_SIDE: Final = 64
"""Pixels a side of the images that a model is warmed up with; RAFT and the presets enlarge them to what they take."""

_drawing: Final = threading.Lock()


def make_runner(name: ModelName, device: torch.device, config: WorkerConfig) -> Runner[Any]:
    """Build a model and make it ready to run. Takes seconds, or minutes where its weights have to be downloaded.

    Random weights are drawn from seed 0, so that all workers host the same model.

    Raises:
        WeightsUnavailableError, InvalidWeightsError: the published weights cannot be fetched, or are not the model's.
        UnimplementedError: the model is an INT8 model and the device is not the CPU.
    """
    return runner_of(name, _build(name, device), device, config)


def runner_of(name: ModelName, module: nn.Module, device: torch.device, config: WorkerConfig) -> Runner[Any]:
    """Put a model that is in the host's memory on the device, and make it ready to run.

    On a CUDA device that happens on a stream of its own, so that it does not wait for the batches that run meanwhile,
    nor they for it. There the model also runs once, since its first run is slow: libraries are loaded, their plans
    made, and memory is taken from the system. On a CPU the first run is little slower than the next ones.

    Raises:
        ResourceExhaustedError: the device's memory does not suffice.
    """
    preset = transforms.preset(published(name).transforms)()
    try:
        with _own_stream(device):
            module = module.eval().requires_grad_(False).to(device, non_blocking=True)
            runner = runner_type(name)(name, module, preset, device, config)
            if device.type == "cuda":
                warm_up(runner)
    except torch.OutOfMemoryError as error:
        raise ResourceExhaustedError(f"{name} does not fit into the memory of {device}: {error}"[:500]) from None
    return runner


@contextlib.contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Run the block's work on the device on a stream of its own, and wait for it; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def warm_up(runner: Runner[Any]) -> None:
    """Run a model once, on one item of blank images that are as small as its preset lets them be."""
    options = runner.default_options()
    images = [Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE))] * runner.window(options).size
    prepared = runner.prepare(images, options)
    with torch.inference_mode():
        runner.forward([prepared], EXACT)


def _build(name: ModelName, device: torch.device) -> nn.Module:
    arguments = dict(runner_type(name).builder_arguments)
    if name.info.task == "quantization":
        if device.type != "cpu":
            raise UnimplementedError(f"{name} is an INT8 model, which runs on the CPU only, not on {device}")
        arguments["quantize"] = True
    if name.weights_info is not None:
        return load_model(name.builder, get_model_weights(name.builder).named(name.weights), **arguments)
    # Random weights are drawn from the process's one generator.
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_model(name.builder, weights=None, **arguments, progress=False)


def memory_bytes(runner: Runner[Any]) -> int:
    """Return the bytes of a model's parameters and buffers, packed INT8 weights among them."""
    state = runner.module.state_dict()
    return sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))
