"""From a float model to INT8, in eager mode, after training."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, Protocol, cast

import torch
from torch import nn
from torch.ao import quantization

from zoofleet.errors import FailedPreconditionError, InvalidArgumentError
from zoofleet.models._hub import load_weights
from zoofleet.models._weights import WeightsEnum

__all__ = ["Backend", "Quantizable", "finish", "fuse"]

Backend = Literal["fbgemm", "qnnpack"]

# fbgemm's weights have a scale for each output channel, qnnpack's one for the whole tensor.
_WEIGHT_OBSERVERS: Final = {
    "fbgemm": quantization.default_per_channel_weight_observer,
    "qnnpack": quantization.default_weight_observer,
}
# PyTorch announces the end of eager quantization in three ways, for which the constraints file pins a release that has
# it; and blocks without a shortcut never use the sum that their published state dict holds a scale for.
_EXPECTED_WARNINGS: Final = (
    "torch.ao.quantization is deprecated",
    "torch.quantize_per_tensor",
    "TypedStorage is deprecated",
    "must run observer before calling calculate_qparams",
)
_engine_lock = threading.Lock()


class Quantizable(Protocol):
    """What a model needs in order to be quantized."""

    def fuse_model(self) -> None:
        """Join each convolution with the normalisation and activation after it, in place."""


def fuse(module: nn.Module, names: Sequence[str]) -> None:
    """Join the named children, such as convolution, batch norm and ReLU, into the first of them, in place.

    The mode of the module decides how: for training the batch norm stays a part of its own inside.
    """
    join = quantization.fuse_modules_qat if module.training else quantization.fuse_modules
    with _without_expected_warnings():
        join(module, list(names), inplace=True)  # type: ignore[no-untyped-call]


def finish(model: nn.Module, weights: WeightsEnum | None, progress: bool, *, quantize: bool, backend: Backend) -> None:
    """Convert a quantizable model in place if asked to, and load its weights, if any.

    Args:
        model: a `Quantizable`, float.
        weights: INT8 weights with `quantize`, float ones without.
        progress: show a progress line while downloading.
        quantize: convert to INT8; the model is then in eval mode and runs on the CPU.
        backend: for which the INT8 weights are laid out; once packed, they run under any engine setting.

    Raises:
        FailedPreconditionError: this build of PyTorch lacks the backend.
        InvalidArgumentError: the weights are laid out for another backend.
    """
    if quantize:
        meant_for = weights.meta["backend"] if weights is not None else backend
        if meant_for != backend:
            raise InvalidArgumentError(f"{weights!r} is laid out for {meant_for}, not for {backend}")
        with _packing_for(backend), _without_expected_warnings():
            _convert(model, backend)
            if weights is not None:
                load_weights(model, weights, progress)
    elif weights is not None:
        load_weights(model, weights, progress)


@contextmanager
def _packing_for(backend: Backend) -> Iterator[None]:
    """PyTorch's engine is a setting of the process, so one thread at a time packs weights."""
    engines = torch.backends.quantized.supported_engines
    if backend not in engines:
        raise FailedPreconditionError(
            f"INT8 weights for {backend} need PyTorch's {backend} engine; this build has {', '.join(engines)}"
        )
    with _engine_lock:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = backend
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def _convert(model: nn.Module, backend: Backend) -> None:
    model.eval()
    model.qconfig = quantization.QConfig(  # type: ignore[assignment,no-untyped-call]
        activation=quantization.default_observer, weight=_WEIGHT_OBSERVERS[backend]
    )
    cast("Quantizable", model).fuse_model()
    quantization.prepare(model, inplace=True)  # type: ignore[no-untyped-call]
    # Activations are calibrated on noise of a fixed seed: published weights bring their own scales.
    noise = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(noise)
    quantization.convert(model, inplace=True)  # type: ignore[no-untyped-call]
