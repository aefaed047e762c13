"""How a model is loaded into its runner."""

from __future__ import annotations

import threading
from typing import Any, Final

import torch
from torch import Tensor, nn

from zoofleet._catalog import ModelName
from zoofleet.errors import UnimplementedError
from zoofleet.models import get_model, get_model_weights, transforms
from zoofleet.models._loading import load_model
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.runner import Runner
from zoofleet.worker.runners import published, runner_type

__all__ = ["make_runner", "memory_bytes"]

_drawing: Final = threading.Lock()


def make_runner(name: ModelName, device: torch.device, config: WorkerConfig) -> Runner[Any]:
    """Build a model and make it ready to run. Takes seconds, or minutes where its weights have to be downloaded.

    Random weights are drawn from seed 0, so that all workers host the same model.

    Raises:
        WeightsUnavailableError, InvalidWeightsError: the published weights cannot be fetched, or are not the model's.
        UnimplementedError: the model is an INT8 model and the device is not the CPU.
    """
    module = _build(name, device).eval().requires_grad_(False).to(device)
    preset = transforms.preset(published(name).transforms)()
    return runner_type(name)(name, module, preset, device, config)


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
