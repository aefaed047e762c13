"""The operators `zoofleet::nms` and `zoofleet::roi_align`, and the functions that call them.

Letters in shapes: N boxes, or images of a batch, M boxes that stay, K boxes of all images, L boxes of one image, C
channels, H and W cells of a feature map.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _cuda, _library

__all__ = ["batched_nms", "nms", "roi_align"]

torch.library.define("zoofleet::nms", "(Tensor boxes, Tensor scores, float iou_threshold, Tensor? idxs=None) -> Tensor")
torch.library.define(
    "zoofleet::roi_align",
    "(Tensor input, Tensor boxes, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio, "
    "bool aligned) -> Tensor",
)
torch.library.define(
    "zoofleet::roi_align_backward",
    "(Tensor grad, Tensor boxes, SymInt[] input_shape, float spatial_scale, int sampling_ratio, bool aligned) "
    "-> Tensor",
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes greedily: a box goes when it overlaps a better one that stays (non-maximum suppression).

    Args:
        boxes: (N, 4), floating; x1, y1, x2, y2 in any unit.
        scores: (N,), floating, on the same device. Equal scores keep their order; NaN counts as the highest.
        iou_threshold: a box goes when its IoU with a better box is above this; at least 0. An IoU that is NaN, as of
            two empty boxes or of a box with a NaN coordinate, is above nothing.

    Returns:
        (M,), int64: indices of the boxes that stay, by descending score.

    Raises:
        InvalidArgumentError: shapes, dtypes, devices or threshold are not as above.
    """
    kept: Tensor = torch.ops.zoofleet.nms(boxes, scores, iou_threshold)
    return kept


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes greedily within each class: a box goes when it overlaps a better one of its class that stays.

    One call serves all classes, and compares coordinates as they are, at full precision.

    Args:
        boxes: (N, 4), floating; x1, y1, x2, y2 in any unit.
        scores: (N,), floating, on the same device. Equal scores keep their order; NaN counts as the highest.
        idxs: (N,), of an integer dtype, on the same device: the class of each box.
        iou_threshold: a box goes when its IoU with a better box of its class is above this; at least 0. An IoU that is
            NaN, as of two empty boxes or of a box with a NaN coordinate, is above nothing.

    Returns:
        (M,), int64: indices of the boxes that stay, by descending score over all classes.

    Raises:
        InvalidArgumentError: shapes, dtypes, devices or threshold are not as above.
    """
    kept: Tensor = torch.ops.zoofleet.nms(boxes, scores, iou_threshold, idxs)
    return kept


def roi_align(
    input: Tensor,  # noqa: A002 - the name users of the reference pass it under
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Average bilinear samples of feature maps in each bin of each box: RoIAlign, arXiv:1703.06870, section 3.

    Args:
        input: (N, C, H, W), floating: the feature maps.
        boxes: (K, 5), floating: batch index, x1, y1, x2, y2; or N tensors (L, 4), one for each image. A box with a
            coordinate that is not finite gives zeros.
        output_size: number of bins as (height, width), or one number for both; at least 1.
        spatial_scale: factor from box coordinates to cells of the feature maps, such as 1/16.
        sampling_ratio: samples in each bin along each axis; 0 or less for as many as the bin has cells, rounded up.
        aligned: whether to shift boxes by half a cell, so that they meet the centres of cells; boxes are otherwise
            taken to be at least one cell high and wide.

    Returns:
        (K, C, height, width) of the dtype of input, computed in float32, or in float64 for float64 input.

    Raises:
        InvalidArgumentError: shapes, dtypes or devices are not as above or a batch index names no image. On a CUDA
            device with kernels of its own the result of such a row is NaN instead.
    """
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    if not isinstance(boxes, Tensor):
        boxes = _with_batch_index(boxes)
    pooled: Tensor = torch.ops.zoofleet.roi_align(input, boxes, spatial_scale, height, width, sampling_ratio, aligned)
    return pooled


def _with_batch_index(boxes: Sequence[Tensor]) -> Tensor:
    for image, each in enumerate(boxes):
        if each.ndim != 2 or each.shape[1] != 4:
            raise InvalidArgumentError(f"boxes[{image}] has shape {tuple(each.shape)}, not (L, 4)")
    if not boxes:
        raise InvalidArgumentError("boxes is an empty list; it needs a tensor (L, 4) for each image")
    # float32 holds every batch index; a half would stop at 2048.
    return torch.cat([torch.nn.functional.pad(_computable(b), (1, 0), value=i) for i, b in enumerate(boxes)])  # (K, 5)


def _computable(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, idxs: Tensor | None = None) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise InvalidArgumentError(f"boxes are {tuple(boxes.shape)} {boxes.dtype}, not (N, 4) of a floating dtype")
    if scores.shape != boxes.shape[:1] or not scores.is_floating_point():
        raise InvalidArgumentError(
            f"scores are {tuple(scores.shape)} {scores.dtype}, not ({boxes.shape[0]},) of a floating dtype"
        )
    if idxs is not None and (idxs.shape != boxes.shape[:1] or idxs.is_floating_point() or idxs.is_complex()):
        raise InvalidArgumentError(
            f"idxs are {tuple(idxs.shape)} {idxs.dtype}, not ({boxes.shape[0]},) of an integer dtype"
        )
    for name, tensor in (("scores", scores), ("idxs", idxs)):
        if tensor is not None and tensor.device != boxes.device:
            raise InvalidArgumentError(f"{name} are on {tensor.device}, boxes on {boxes.device}")
    if not iou_threshold >= 0:
        raise InvalidArgumentError(f"iou_threshold is {iou_threshold}, not a number of at least 0")


def _check_roi_align(features: Tensor, boxes: Tensor, pooled_height: int, pooled_width: int) -> None:
    if features.ndim != 4 or not features.is_floating_point():
        raise InvalidArgumentError(
            f"input is {tuple(features.shape)} {features.dtype}, not (N, C, H, W) of a floating dtype"
        )
    if boxes.ndim != 2 or boxes.shape[1] != 5 or not boxes.is_floating_point():
        raise InvalidArgumentError(f"boxes are {tuple(boxes.shape)} {boxes.dtype}, not (K, 5) of a floating dtype")
    if boxes.device != features.device:
        raise InvalidArgumentError(f"boxes are on {boxes.device}, input on {features.device}")
    if pooled_height < 1 or pooled_width < 1:
        raise InvalidArgumentError(f"output_size is ({pooled_height}, {pooled_width}), not at least (1, 1)")


def _dtype_code(tensor: Tensor) -> int:
    return int(tensor.dtype == torch.float64)


@torch.library.impl("zoofleet::nms", ("cpu", "cuda"))
def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, idxs: Tensor | None = None) -> Tensor:
    _check_nms(boxes, scores, iou_threshold, idxs)
    if _cuda.lacks_kernels(boxes):
        kept_there: Tensor = _cuda.on_host(torch.ops.zoofleet.nms, boxes, scores, iou_threshold, idxs)
        return kept_there
    count = len(boxes)
    boxes = _computable(boxes).contiguous()
    order = scores.sort(descending=True, stable=True).indices
    labels = None if idxs is None else idxs.long().contiguous()
    keep = torch.empty_like(order)
    kept = order.new_zeros(())
    pointers = (boxes.data_ptr(), order.data_ptr(), None if labels is None else labels.data_ptr())
    dtype = _dtype_code(boxes)
    if (kernels := _cuda.kernels(boxes.device)) is not None:
        workspace = order.new_empty(_library.cpu.zoofleet_nms_cuda_workspace(count, dtype), dtype=torch.uint8)
        targets = (workspace.data_ptr(), keep.data_ptr(), kept.data_ptr())
        kernels.enqueue("zoofleet_nms_cuda", *pointers, count, iou_threshold, dtype, *targets)
    else:
        threads = torch.get_num_threads()
        outputs = (keep.data_ptr(), kept.data_ptr())
        _library.check(_library.cpu.zoofleet_nms(*pointers, count, iou_threshold, dtype, threads, *outputs))
    return keep[: int(kept)].clone()


def _nms_fake(boxes: Tensor, scores: Tensor, iou_threshold: float, idxs: Tensor | None = None) -> Tensor:
    _check_nms(boxes, scores, iou_threshold, idxs)
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@torch.library.impl("zoofleet::roi_align", ("cpu", "cuda"))
def _roi_align(
    features: Tensor,
    boxes: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    _check_roi_align(features, boxes, pooled_height, pooled_width)
    if _cuda.lacks_kernels(features):
        options = (spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned)
        pooled: Tensor = _cuda.on_host(torch.ops.zoofleet.roi_align, features, boxes, *options)
        return pooled
    source = _computable(features).contiguous()
    output = source.new_empty(len(boxes), source.shape[1], pooled_height, pooled_width)
    params = _params(source, source.shape, boxes, output, spatial_scale, sampling_ratio, aligned)
    _run("zoofleet_roi_align", params, source, boxes, output)
    return output.to(features.dtype)


def _roi_align_fake(
    features: Tensor,
    boxes: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    _check_roi_align(features, boxes, pooled_height, pooled_width)
    return features.new_empty(boxes.shape[0], features.shape[1], pooled_height, pooled_width)


@torch.library.impl("zoofleet::roi_align_backward", ("cpu", "cuda"))
def _roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    if _cuda.lacks_kernels(grad):
        options = (input_shape, spatial_scale, sampling_ratio, aligned)
        gradient: Tensor = _cuda.on_host(torch.ops.zoofleet.roi_align_backward, grad, boxes, *options)
        return gradient
    source = _computable(grad).contiguous()
    grad_input = source.new_zeros(*input_shape)
    params = _params(source, input_shape, boxes, source, spatial_scale, sampling_ratio, aligned)
    _run("zoofleet_roi_align_backward", params, source, boxes, grad_input)
    return grad_input.to(grad.dtype)


def _roi_align_backward_fake(
    grad: Tensor,
    boxes: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return grad.new_empty(*input_shape)


def _params(
    source: Tensor,
    input_shape: Sequence[int],
    boxes: Tensor,
    pooled: Tensor,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> _library.RoIAlignParams:
    return _library.RoIAlignParams(
        *input_shape, len(boxes), *pooled.shape[2:], spatial_scale, sampling_ratio, aligned, _dtype_code(source)
    )


def _run(function: str, params: _library.RoIAlignParams, source: Tensor, boxes: Tensor, target: Tensor) -> None:
    boxes = boxes.to(source.dtype).contiguous()
    pointers = (ctypes.byref(params), source.data_ptr(), boxes.data_ptr())
    if (kernels := _cuda.kernels(source.device)) is not None:
        kernels.enqueue(f"{function}_cuda", *pointers, target.data_ptr())
    else:
        kernel = getattr(_library.cpu, function)
        _library.check(kernel(*pointers, torch.get_num_threads(), target.data_ptr()))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, boxes, spatial_scale, _, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(boxes)
    ctx.input_shape = features.shape
    ctx.options = (spatial_scale, sampling_ratio, aligned)


def _roi_align_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (boxes,) = ctx.saved_tensors
    gradient = torch.ops.zoofleet.roi_align_backward(grad, boxes, ctx.input_shape, *ctx.options)
    return gradient, None, None, None, None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, boxes, _, *options = inputs
    ctx.save_for_backward(boxes)
    ctx.pooled = grad.shape[2:]
    ctx.options = options


def _roi_align_double_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The gradient is linear in grad_output, so its own gradient is the pooling again.
    (boxes,) = ctx.saved_tensors
    spatial_scale, sampling_ratio, aligned = ctx.options
    gradient = torch.ops.zoofleet.roi_align(grad, boxes, spatial_scale, *ctx.pooled, sampling_ratio, aligned)
    return gradient, None, None, None, None, None


torch.library.register_fake("zoofleet::nms", _nms_fake)
torch.library.register_fake("zoofleet::roi_align", _roi_align_fake)
torch.library.register_fake("zoofleet::roi_align_backward", _roi_align_backward_fake)
torch.library.register_autograd("zoofleet::roi_align", _roi_align_gradient, setup_context=_save_for_backward)
torch.library.register_autograd(
    "zoofleet::roi_align_backward", _roi_align_double_gradient, setup_context=_save_for_double_backward
)
