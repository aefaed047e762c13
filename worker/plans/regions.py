"""What of each model is compiled: its regions, and how each is exported.

A classifier, also of clips, and a segmenter is one region. Of a detector the regions are its backbone and heads, of
RAFT its encoders, its update and what upsamples the flow: all that has weights. What lies between them makes as many
boxes as there are, or is an operator of our own, and stays as it is.

Letters in shapes: N items of a batch, C channels, H and W pixels or cells, L tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional
from torch.utils import _pytree as pytree

from zoofleet._wire.kinds import TaskKind
from zoofleet.models.detection import Detector

__all__ = ["VERSION", "Range", "Region", "arranged", "calls", "region_paths", "regions"]

VERSION: Final = 2
"""Raised with each change of what is compiled, so that no older package is taken from a cache."""

Range: TypeAlias = tuple[int, int]
"""The least and the greatest length of a dimension."""

_PATHS: Final[Mapping[TaskKind, tuple[str, ...]]] = {
    TaskKind.CLASSIFY: ("",),
    TaskKind.CLASSIFY_CLIP: ("",),
    TaskKind.SEGMENT: ("",),
    TaskKind.DETECT: (
        "backbone",
        "head",
        "rpn.head",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
        "roi_heads.mask_head",
        "roi_heads.mask_predictor",
        "roi_heads.keypoint_head",
        "roi_heads.keypoint_predictor",
    ),
    TaskKind.ESTIMATE_FLOW: ("feature_encoder", "context_encoder", "update_block", "mask_predictor"),
}
"""The submodules that are regions, where a model has them."""

_ITEMS: Final[Range] = (1, 256)
"""How many items a batch may have."""

_BOXES: Final[Range] = (1, 65536)
"""How many regions of interest all images of a batch may have: 1000 proposals each."""

_SIDES: Final[Range] = (1, 8192)
"""Pixels or cells of a side that varies: presets fix the shorter one, and allow 4 Mi pixels."""


@dataclass(frozen=True, slots=True)
class Region:
    """A submodule that is compiled alone, and then stands in the submodule's place.

    Attributes:
        path: the submodule's name within the model; empty for the model itself.
        arguments: what it was called with: float32 tensors, and lists of such.
        dynamic: for each of these tensors, in the order of `torch.utils._pytree.tree_leaves`, the dimensions whose
            length varies.
    """

    path: str
    arguments: tuple[Any, ...]
    dynamic: tuple[Mapping[int, Range], ...]

    def export(self, module: nn.Module, dtype: torch.dtype) -> ExportedProgram:
        """Export what stands for the submodule, for `arranged` arguments of any length in the dynamic dimensions.

        Args:
            module: the submodule, or a copy of it whose norms are folded and whose tensors are converted.
            dtype: of the arguments.

        Raises:
            RuntimeError: torch.export's own errors among its subclasses: the module cannot be exported so.
        """
        leaves, tree = pytree.tree_flatten(self.arguments)
        # Export takes a length of 1, unlike one of 2, for one that never changes.
        examples = [leaf if leaf.shape[0] > 1 else torch.cat([leaf, leaf]) for leaf in leaves]
        arguments = arranged(pytree.tree_unflatten([example.to(dtype) for example in examples], tree))
        shapes = [{axis: Dim.DYNAMIC(min=low, max=high) for axis, (low, high) in axes.items()} for axes in self.dynamic]
        with torch.no_grad():
            return torch.export.export(
                _exportable(module), arguments, dynamic_shapes=pytree.tree_unflatten(shapes, tree), strict=False
            )


def arranged(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments of a region with the channels last in memory, where they have channels.

    What is compiled computes addresses from the strides that it was exported with, and checks none: it must be given
    the same memory format.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    same: tuple[Any, ...] = pytree.tree_map_only(
        Tensor, lambda x: x.contiguous(memory_format=formats.get(x.ndim, torch.contiguous_format)), arguments
    )
    return same


def region_paths(kind: TaskKind, module: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's regions within it; together they have all of its parameters."""
    return tuple(path for path in _PATHS[kind] if _has(module, path))


def _has(module: nn.Module, path: str) -> bool:
    try:
        return isinstance(module.get_submodule(path), nn.Module)
    except AttributeError:  # a part that this model does not have, or that is None
        return False


def regions(kind: TaskKind, module: nn.Module, run_example: Callable[[], object]) -> tuple[Region, ...]:
    """Return a model's regions.

    Args:
        kind: the model's kind of task.
        module: the model, in evaluation mode.
        run_example: runs the module on an example, by which the shapes that do not vary are known.
    """
    resized = kind in (TaskKind.SEGMENT, TaskKind.ESTIMATE_FLOW) or (
        isinstance(module, Detector) and module.transform.fixed_size is None
    )
    return tuple(
        Region(path, made[0], tuple(_dynamic(path, resized) for _ in pytree.tree_leaves(made[0])))
        for path, made in calls(kind, module, run_example).items()
    )


def _dynamic(path: str, resized: bool) -> Mapping[int, Range]:
    if path.startswith("roi_heads."):
        return {0: _BOXES}
    return {0: _ITEMS, 2: _SIDES, 3: _SIDES} if resized else {0: _ITEMS}


@torch.inference_mode()
def calls(kind: TaskKind, module: nn.Module, run: Callable[[], object]) -> dict[str, list[tuple[Any, ...]]]:
    """Return what a model's regions are called with, by path, in the order of the calls.

    Heads for masks and keypoints, which get no box where nothing is found, are called with parts of feature maps.

    Args:
        kind: the model's kind of task.
        module: the model, in evaluation mode.
        run: runs the module.
    """
    made: dict[str, list[tuple[Any, ...]]] = {path: [] for path in region_paths(kind, module)}

    def recorder(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, arguments: made[path].append(arguments)

    hooks = [module.get_submodule(path).register_forward_pre_hook(recorder(path)) for path in made]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for branch in ("mask", "keypoint"):
        head, predictor = f"roi_heads.{branch}_head", f"roi_heads.{branch}_predictor"
        if head in made:
            pool: Any = module.get_submodule(f"roi_heads.{branch}_roi_pool")
            pooled = _pooled(made["rpn.head"][0][0][0], pool.output_size)
            made[head] = [(pooled,)]
            made[predictor] = [(module.get_submodule(head)(pooled),)]
    return made


def _pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what stands for pooled regions: four parts of a size, of the first image's features (N, C, H, W)."""
    height, width = size
    corners = torch.cartesian_prod(
        torch.linspace(0, features.shape[2] - height, 2).long(), torch.linspace(0, features.shape[3] - width, 2).long()
    )  # (4, 2)
    return torch.stack([features[0, :, y : y + height, x : x + width] for y, x in corners.tolist()])


def _exportable(module: nn.Module) -> nn.Module:
    """Return a module that exports well, with the same tensors."""
    if not any(isinstance(child, nn.MultiheadAttention) for child in module.modules()):
        return module
    made = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
    for path, child in list(made.named_modules()):
        if isinstance(child, nn.MultiheadAttention):
            parent, _, name = path.rpartition(".")
            setattr(made.get_submodule(parent), name, _SelfAttention(child))
    return made


class _SelfAttention(nn.Module):
    """The self-attention of `nn.MultiheadAttention`, with its projections over all tokens of the batch as one matrix.

    That one transposes its input, whose projection inductor then takes for a product of matrices for each token, each
    with a copy of the weights: ViT-B/16 took 24 times as long compiled as it did eager.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.num_heads = attention.num_heads

    def forward(self, x: Tensor, _key: Tensor, _value: Tensor, *, need_weights: bool) -> tuple[Tensor, None]:
        """Return what x (N, L, C), given three times, attends to, (N, L, C), and no weights."""
        count, length, channels = x.shape
        projected = functional.linear(x.reshape(-1, channels), self.in_proj_weight, self.in_proj_bias)  # (N * L, 3 * C)
        parts = projected.reshape(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (3, N, heads, L, c)
        query, key, value = parts.unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (N, heads, L, c)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(-1, channels))
        return out.reshape(count, length, channels), None
