"""From a float model to INT8, in eager mode, after training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch
from torch import Tensor
from torch.ao import quantization
from torch.ao.quantization import QConfig, QuantStub

from zoofleet.errors import FailedPreconditionError, InvalidArgumentError
from zoofleet.models._registry import load_published
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.quantization._quantizable import Quantizable, without_expected_warnings

__all__ = ["Layout", "convert", "quantized"]

Layout = Literal["fbgemm", "qnnpack"]
"""fbgemm has weights with a scale for each output channel, qnnpack has weights with one scale."""

# The engines that hold themselves to a layout's ranges first, of these the fastest first. PyTorch lists only those that
# the processor can run: x86 and fbgemm need AVX2, and ARM has qnnpack and, in some builds, onednn.
_ENGINES: Final = {
    "fbgemm": ("x86", "fbgemm", "onednn", "qnnpack"),
    "qnnpack": ("qnnpack", "onednn", "x86", "fbgemm"),
}
_engine_lock = threading.Lock()


def convert(model: Quantizable, batches: Iterable[Tensor], *, backend: str | None = None) -> None:
    """Turn a float model into INT8 in place, with the scales of activations measured on images.

    Args:
        model: as built with `quantize=False`, usually with trained weights. Afterwards it is in eval mode, runs on the
            CPU and takes and returns float tensors as before; it is unusable if this raises while it runs on a batch.
        batches: the images to measure, a few hundred in all of the kind that it will see: float (N, 3, H, W),
            normalised as the weights' transforms do.
        backend: the engine, of x86, fbgemm, qnnpack and onednn, whose ranges and kernels are used; None for the one
            that suits this processor best.

    Raises:
        InvalidArgumentError: the model is not one of this package's, there is no batch, or there is no such engine.
        FailedPreconditionError: the model is INT8 already, or this processor or build of PyTorch lacks the engine.
    """
    if not isinstance(model, Quantizable):
        raise InvalidArgumentError(
            f"{type(model).__name__} cannot be quantized; build it with zoofleet.models.quantization, quantize=False"
        )
    if not isinstance(model.quant, QuantStub):
        raise FailedPreconditionError(f"this {type(model).__name__} is INT8 already")
    engine = _engine("fbgemm", backend)
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise InvalidArgumentError("calibration takes at least one batch of images, got none")
    _prepare(model, quantization.get_default_qconfig, engine, is_qat=False)
    with torch.no_grad():
        model(first)
        for batch in remaining:
            model(batch)
    _pack(model, engine)


def quantized(layout: Layout, *, trained_rounding: bool = False) -> Callable[..., None]:
    """Make the step after a quantizable builder's body: load weights, and convert the model if asked to.

    Args:
        layout: the layout of the published INT8 weights, which random ones get too unless a backend is given.
        trained_rounding: the published file is not INT8 but what training with rounded weights (QAT) left, in float.

    Returns:
        One of the steps that `register_model` takes as `finish`.
    """

    def finish(
        model: Quantizable,
        *,
        weights: WeightsEnum | None = None,
        progress: bool = True,
        quantize: bool = False,
        backend: str | None = None,
    ) -> None:
        """Load weights, if any, and convert the model in place if asked to.

        Args:
            model: float.
            weights: INT8 weights with `quantize`, float ones without.
            progress: write a progress line to stderr while the weights are downloaded.
            quantize: convert to INT8; the model is then in eval mode and runs on the CPU.
            backend: the engine that packs and runs INT8 weights, of x86, fbgemm, qnnpack and onednn; None for the one
                that suits the weights' layout and this processor best.

        Raises:
            WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.
            InvalidWeightsError: the file is not the published one, holds code, or does not fit the model.
            InvalidArgumentError: there is no such engine.
            FailedPreconditionError: this processor or build of PyTorch lacks the engine.
        """
        if not quantize:
            load_published(model, weights=weights, progress=progress)
            return
        engine = _engine(layout, backend)
        if trained_rounding:
            # Training would have measured the scales; with random weights they stay 1, as the reference's do.
            _prepare(model, quantization.get_default_qat_qconfig, backend or layout, is_qat=True)
            load_published(model, weights=weights, progress=progress)
            _pack(model, engine)
            return
        _prepare(model, _whole_range_qconfig, backend or layout, is_qat=False)
        if weights is None:
            # The reference draws this image right after the weights, whatever the model: equal seeds, equal scales.
            with torch.no_grad():
                model(torch.rand(1, 3, 299, 299, device="cpu"))
        _pack(model, engine)
        with _packing_for(engine):
            load_published(model, weights=weights, progress=progress)

    return finish


def _engine(layout: Layout, backend: str | None) -> str:
    """The engine asked for, or else the one that suits the layout and the processor best."""
    known = _ENGINES[layout]
    choices = [engine for engine in known if engine in torch.backends.quantized.supported_engines]
    if backend is None and choices:
        return choices[0]
    if backend is not None and backend not in known:
        raise InvalidArgumentError(f"backend must be one of {', '.join(sorted(known))}, got {backend!r}")
    if backend not in choices:
        raise FailedPreconditionError(
            f"PyTorch cannot run INT8 with {backend or 'any engine'} on this processor; "
            f"it has {', '.join(choices) or 'none of ' + ', '.join(sorted(known))}"
        )
    return backend


def _whole_range_qconfig(backend: str) -> QConfig:
    """Observers of the published layouts: activations have 7 bits, which span all values that were seen."""
    weight = (
        quantization.default_weight_observer
        if backend == "qnnpack"
        else quantization.default_per_channel_weight_observer
    )
    return QConfig(activation=quantization.default_observer, weight=weight)  # type: ignore[no-untyped-call]


def _prepare(model: Quantizable, qconfig: Callable[[str], QConfig], backend: str, *, is_qat: bool) -> None:
    """Join layers and add observers, for trained rounding in QAT's form."""
    model.to("cpu").train(is_qat)
    with without_expected_warnings():
        model.fuse_model(is_qat)
        model.qconfig = qconfig(backend)  # type: ignore[assignment]
        if is_qat:
            quantization.prepare_qat(model, inplace=True)  # type: ignore[no-untyped-call]
        else:
            quantization.prepare(model, inplace=True)  # type: ignore[no-untyped-call]


def _pack(model: Quantizable, engine: str) -> None:
    """Replace observed float layers by INT8 ones, in place."""
    model.eval()
    with _packing_for(engine):
        quantization.convert(model, inplace=True)  # type: ignore[no-untyped-call]


@contextmanager
def _packing_for(engine: str) -> Iterator[None]:
    """PyTorch's engine is a setting of the process, so one thread at a time packs; packed weights keep their engine."""
    with _engine_lock, without_expected_warnings():
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            yield
        finally:
            torch.backends.quantized.engine = before
