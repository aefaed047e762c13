"""The operator `zoofleet::correlation_lookup`, by which RAFT looks correlations up without holding them all.

Letters in shapes: N image pairs, C channels, h and w pixels of the first image's feature map, h2 and w2 of the
second's.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _cuda, _library

__all__ = ["correlation_lookup"]

torch.library.define(
    "zoofleet::correlation_lookup", "(Tensor features1, Tensor features2, Tensor coords, int radius) -> Tensor"
)
torch.library.define(
    "zoofleet::correlation_lookup_backward",
    "(Tensor grad, Tensor features1, Tensor features2, Tensor coords, int radius) -> (Tensor, Tensor, Tensor)",
)

_MAX_RADIUS: Final = 8
"""What the kernels keep room for; RAFT takes 4 and 3."""


def correlation_lookup(features1: Tensor, features2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Compute the dot products of each feature vector with those of another map around a position.

    Memory grows with the inputs and the output alone: only the products that are looked up are ever computed.

    Args:
        features1: (N, h, w, C), floating.
        features2: (N, h2, w2, C), on the same device.
        coords: (N, 2, h, w), floating, on the same device: x and y, in pixels of features2, for each pixel of
            features1.
        radius: a lookup reads (2 * radius + 1) x (2 * radius + 1) products, one pixel apart; 0 to 8.

    Returns:
        (N, (2 * radius + 1)**2, h, w) of the dtype of features1, computed in float32, or in float64 for float64
        features; within a lookup the x offset is the slower index. Products are mixed bilinearly between pixels and
        count as 0 outside features2, as does everything around a position that is not finite.

    Raises:
        InvalidArgumentError: shapes, dtypes, devices or radius are not as above.
    """
    found: Tensor = torch.ops.zoofleet.correlation_lookup(features1, features2, coords, radius)
    return found


def _check(features1: Tensor, features2: Tensor, coords: Tensor, radius: int) -> None:
    if features1.ndim != 4 or not features1.is_floating_point():
        raise InvalidArgumentError(
            f"features1 are {tuple(features1.shape)} {features1.dtype}, not (N, h, w, C) of a floating dtype"
        )
    n, h, w, c = features1.shape
    if features2.ndim != 4 or features2.shape[0] != n or features2.shape[3] != c or not features2.is_floating_point():
        raise InvalidArgumentError(
            f"features2 are {tuple(features2.shape)} {features2.dtype}, not ({n}, h2, w2, {c}) of a floating dtype"
        )
    if coords.shape != (n, 2, h, w) or not coords.is_floating_point():
        raise InvalidArgumentError(
            f"coords are {tuple(coords.shape)} {coords.dtype}, not ({n}, 2, {h}, {w}) of a floating dtype"
        )
    for name, tensor in (("features2", features2), ("coords", coords)):
        if tensor.device != features1.device:
            raise InvalidArgumentError(f"{name} are on {tensor.device}, features1 on {features1.device}")
    if not 0 <= radius <= _MAX_RADIUS:
        raise InvalidArgumentError(f"radius is {radius}, not 0 to {_MAX_RADIUS}")


def _inputs(
    features1: Tensor, features2: Tensor, coords: Tensor, radius: int
) -> tuple[tuple[Tensor, Tensor, Tensor], _library.CorrelationParams]:
    """Check the arguments, and return tensors and parameters as the kernels take them."""
    _check(features1, features2, coords, radius)
    dtype = torch.float64 if features1.dtype == torch.float64 else torch.float32
    ready = (features1.to(dtype).contiguous(), features2.to(dtype).contiguous(), coords.to(dtype).contiguous())
    n, h, w, c = features1.shape
    params = _library.CorrelationParams(n, c, h, w, *features2.shape[1:3], radius, int(dtype == torch.float64))
    return ready, params


@torch.library.impl("zoofleet::correlation_lookup", ("cpu", "cuda"))
def _correlation_lookup(features1: Tensor, features2: Tensor, coords: Tensor, radius: int) -> Tensor:
    if _cuda.lacks_kernels(features1):
        found: Tensor = _cuda.on_host(torch.ops.zoofleet.correlation_lookup, features1, features2, coords, radius)
        return found
    inputs, params = _inputs(features1, features2, coords, radius)
    n, h, w, _ = features1.shape
    output = inputs[0].new_empty(n, (2 * radius + 1) ** 2, h, w)
    pointers = (ctypes.byref(params), *(tensor.data_ptr() for tensor in inputs))
    if (kernels := _cuda.kernels(features1.device)) is not None:
        kernels.enqueue("zoofleet_correlation_lookup_cuda", *pointers, output.data_ptr())
    else:
        kernel = _library.cpu.zoofleet_correlation_lookup
        _library.check(kernel(*pointers, torch.get_num_threads(), output.data_ptr()))
    return output.to(features1.dtype)


@torch.library.impl("zoofleet::correlation_lookup_backward", ("cpu", "cuda"))
def _correlation_lookup_backward(
    grad: Tensor, features1: Tensor, features2: Tensor, coords: Tensor, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    if _cuda.lacks_kernels(features1):
        operator = torch.ops.zoofleet.correlation_lookup_backward
        first, second, third = _cuda.on_host(operator, grad, features1, features2, coords, radius)
        return first, second, third
    inputs, params = _inputs(features1, features2, coords, radius)
    grad = grad.to(inputs[0].dtype).contiguous()
    gradients = (torch.empty_like(inputs[0]), torch.zeros_like(inputs[1]), torch.empty_like(inputs[2]))
    pointers = (ctypes.byref(params), grad.data_ptr(), *(tensor.data_ptr() for tensor in inputs))
    targets = tuple(tensor.data_ptr() for tensor in gradients)
    if (kernels := _cuda.kernels(features1.device)) is not None:
        kernels.enqueue("zoofleet_correlation_lookup_backward_cuda", *pointers, *targets)
    else:
        kernel = _library.cpu.zoofleet_correlation_lookup_backward
        _library.check(kernel(*pointers, torch.get_num_threads(), *targets))
    return gradients[0].to(features1.dtype), gradients[1].to(features2.dtype), gradients[2].to(coords.dtype)


def _correlation_lookup_fake(features1: Tensor, features2: Tensor, coords: Tensor, radius: int) -> Tensor:
    _check(features1, features2, coords, radius)
    n, h, w, _ = features1.shape
    return features1.new_empty(n, (2 * radius + 1) ** 2, h, w)


def _correlation_lookup_backward_fake(
    grad: Tensor, features1: Tensor, features2: Tensor, coords: Tensor, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (tensor.new_empty(tensor.shape) for tensor in (features1, features2, coords))
    return first, second, third


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.radius = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.zoofleet.correlation_lookup_backward(grad, *ctx.saved_tensors, ctx.radius), None


torch.library.register_fake("zoofleet::correlation_lookup", _correlation_lookup_fake)
torch.library.register_fake("zoofleet::correlation_lookup_backward", _correlation_lookup_backward_fake)
torch.library.register_autograd("zoofleet::correlation_lookup", _gradient, setup_context=_save_for_backward)
