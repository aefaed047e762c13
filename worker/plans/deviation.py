"""How far a plan's outputs are from EXACT's, and whether that is what its arithmetic explains.

A model is compared region by region (`zoofleet.worker.plans.regions`), each with the inputs that it has in EXACT. What
lies between them chooses among thousands of boxes, or feeds its output back twelve times. There the rounding of a
random model alone makes other boxes and other flows: final results say little of a plan, and the regions' outputs all.

A tolerance that lets through the rounding of 150 layers would let through a swapped channel of another model as well.
Each output is therefore held against a yardstick: the error of the same region, merely converted by torch to the
coarsest arithmetic that the plan may use.

Letters in shapes: N items of a batch, C categories, H and W pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet._wire.kinds import TaskKind
from zoofleet.models.ops import box_iou
from zoofleet.worker.plans.regions import calls

__all__ = ["Deviation", "compare"]

_MIN_COSINE: Final = 0.995
"""Least cosine of an output: an error of a tenth. In bfloat16 RAFT's feature encoder, of 20 instance norms, is furthest
off with random weights, at 0.9994, and SSDlite with trained ones."""

_YARDSTICK: Final = 2.0
"""How many times the error of the mere conversion a plan's may be. Folding and fusing round elsewhere, which gave
factors of 0.3 to 1.1."""

_FLOAT32_ERROR: Final = 1e-4
"""Relative error of an output that sums in another order explain in float32."""

_CLEAR_MARGIN: Final = 0.1
"""From which margin between the best and the second category, in standard deviations of an item's logits, they must not
change places. bfloat16 has 8 bits: logits are off by about a hundredth."""

_MIN_PIXELS: Final = 0.99
"""Least share of equal labels among the pixels whose margin is clear."""

_CLEAR_SCORE: Final = 0.6
"""Least score of detections that the other side must have too, with some score of `_SOME_SCORE`. Scores of random
detectors are below it."""

_SOME_SCORE: Final = 0.3

_SAME_BOX: Final = 0.7
"""Least overlap (IoU) of boxes that are the same."""

_MIN_DETECTIONS: Final = 0.9
"""Least share of the clear detections of either side that the other side has."""

_MAX_END_POINT_ERROR: Final = 0.1
"""Largest mean distance of flows, as a share of the mean flow: twelve rounds of a random RAFT made 0.02."""

_Leaves = Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a plan is from EXACT on the fixed pictures.

    Attributes:
        cosine: the least cosine between an output of a region and EXACT's; NaN where an output is not finite.
        error: the largest error of an output, relative to the output.
        excess: the largest error of an output as a multiple of what it may be; above 1 it is not rounding alone.
        agreement: the share of decisions that are EXACT's, among those that are not a matter of rounding: top-1
            classes, labels of pixels, detections; for flows 1 less the relative end-point error.
        enough: the least agreement that is accepted.
    """

    cosine: float
    error: float
    excess: float
    agreement: float
    enough: float

    @property
    def is_accepted(self) -> bool:
        """Whether the plan may serve in EXACT's place."""
        return self.cosine >= _MIN_COSINE and self.excess <= 1 and self.agreement >= self.enough

    def __str__(self) -> str:
        """Return what operators read of it."""
        return (
            f"cosine {self.cosine:.6f} (at least {_MIN_COSINE}), error {self.error:.2g}, {self.excess:.2g} of what "
            f"rounding explains, agreement {self.agreement:.4f} (at least {self.enough:g})"
        )


@torch.inference_mode()
def compare(
    kind: TaskKind,
    exact: nn.Module,
    plan: nn.Module,
    run: Callable[[nn.Module], Sequence[Mapping[str, Tensor]]],
    coarsest: torch.dtype | None = torch.float32,
) -> Deviation:
    """Compare a plan with EXACT.

    Args:
        kind: the models' kind of task.
        exact: the model in float32, in evaluation mode.
        plan: what runs in its place; its submodules at the regions' paths take what EXACT's take.
        run: runs a model on fixed pictures, of more than one size where the plan takes more than one, and returns
            each item's raw output, as a runner's `forward` does.
        coarsest: the coarsest arithmetic that the plan may use: torch.float32; torch.float16; or torch.bfloat16, which
            is coarser than TF32 too. None for INT8, which torch converts no region to: there is no yardstick then, and
            the cosine and the decisions judge alone.
    """
    expected: list[Mapping[str, Tensor]] = []
    made = calls(kind, exact, lambda: expected.extend(run(exact)))
    outputs: list[_Output] = []
    agreements: list[float] = []
    for path, each in made.items():
        region, instead = exact.get_submodule(path), plan.get_submodule(path)
        own: list[_Output] = []
        merely: nn.Module | None = region
        if coarsest != torch.float32:
            merely = None if coarsest is None else copy.deepcopy(region).to(coarsest)
        for arguments in each:
            wanted, given = _leaves(region(*arguments)), _leaves(instead(*arguments))
            own = own or [_Output() for _ in wanted]
            for output, one, other, rough in zip(own, wanted, given, _roughly(merely, arguments, wanted), strict=True):
                output.plan.add(one, other)
                output.yardstick.add(one, rough)
            if kind in (TaskKind.CLASSIFY, TaskKind.CLASSIFY_CLIP, TaskKind.SEGMENT):
                agreements.append(_same_labels(wanted[0], given[0]))
        outputs += own
    if kind is TaskKind.DETECT:
        agreements = [_same_detections(*pair) for pair in zip(expected, run(plan), strict=True)]
    elif kind is TaskKind.ESTIMATE_FLOW:
        agreements = [1 - _end_point_error(*pair) for pair in zip(expected, run(plan), strict=True)]
    enough = {
        TaskKind.SEGMENT: _MIN_PIXELS,
        TaskKind.DETECT: _MIN_DETECTIONS,
        TaskKind.ESTIMATE_FLOW: 1 - _MAX_END_POINT_ERROR,
    }
    return Deviation(
        min(output.plan.cosine for output in outputs),
        max(output.plan.error for output in outputs),
        max(output.excess for output in outputs),
        min(agreements),
        enough.get(kind, 1.0),
    )


@dataclass(slots=True)
class _Distance:
    """How far tensors are from those that are wanted, over all calls of a region.

    In double and without an epsilon: logits of random models are around 1e-10. Over all calls, since the last changes
    of a flow that has settled are next to nothing, and so is what their error does.
    """

    difference: float = 0.0
    wanted: float = 0.0
    given: float = 0.0
    product: float = 0.0

    def add(self, wanted: Tensor, given: Tensor) -> None:
        """Take in the tensors of a call."""
        if wanted.shape != given.shape:
            self.difference = math.inf
            return
        one, other = wanted.double().flatten(), given.double().flatten()
        self.difference += float((one - other).square().sum())
        self.wanted += float(one.square().sum())
        self.given += float(other.square().sum())
        self.product += float(one @ other)

    @property
    def error(self) -> float:
        """The norm of the difference, relative to that of what is wanted; infinite for what is not finite."""
        if self.difference == 0:  # also where all is 0: ViTs begin with a head of zeros
            return 0.0
        return math.sqrt(self.difference / self.wanted) if math.isfinite(self.difference) and self.wanted else math.inf

    @property
    def cosine(self) -> float:
        """The cosine of the angle between what is wanted and what is given."""
        if self.error in (0.0, math.inf):
            return 1.0 if self.error == 0 else -1.0
        return self.product / math.sqrt(self.wanted * self.given) if self.given else 0.0


@dataclass(slots=True)
class _Output:
    """One output of a region: how far it is by the plan, and where the region is merely converted."""

    plan: _Distance = field(default_factory=_Distance)
    yardstick: _Distance = field(default_factory=_Distance)

    @property
    def excess(self) -> float:
        """The plan's error as a multiple of what it may be."""
        return self.plan.error / (_FLOAT32_ERROR + _YARDSTICK * self.yardstick.error)


def _leaves(output: Any) -> list[Tensor]:
    """Return a region's outputs; a segmenter's auxiliary output is none of them, since not every plan makes it."""
    if isinstance(output, Mapping) and "out" in output:
        output = output["out"]
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _roughly(merely: nn.Module | None, arguments: tuple[Any, ...], wanted: _Leaves) -> _Leaves:
    """Return what a merely converted region gives.

    Args:
        merely: the region in the coarsest arithmetic of the plan. None where there is no such thing.
        arguments: what the region is called with.
        wanted: what the region gives in EXACT.
    """
    if merely is None:
        return [torch.full_like(tensor, math.inf) for tensor in wanted]
    dtype = next((tensor.dtype for tensor in merely.parameters()), torch.float32)
    if dtype == torch.float32:
        return wanted
    try:
        return _leaves(merely(*pytree.tree_map_only(Tensor, lambda tensor: tensor.to(dtype), arguments)))
    except RuntimeError:  # an operator that has no kernel for the dtype; compiled, it may well have one
        return [torch.full_like(tensor, math.inf) for tensor in wanted]


def _same_labels(wanted: Tensor, given: Tensor) -> float:
    """Return the share of equal best categories of logits (N, C, ...) where EXACT's margin is clear, or 1."""
    best = wanted.topk(2, dim=1)
    clear = best.values[:, 0] - best.values[:, 1] > _CLEAR_MARGIN * wanted.std(dim=1)  # (N, ...)
    same = given.argmax(dim=1) == best.indices[:, 0]
    return float(same[clear].double().mean()) if clear.any() else 1.0


def _same_detections(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> float:
    """Return the share of either side's clear detections that the other side has."""
    return min(_found(wanted, given), _found(given, wanted))


def _found(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> float:
    clear, some = wanted["scores"] >= _CLEAR_SCORE, given["scores"] >= _SOME_SCORE
    if not clear.any():
        return 1.0
    overlaps = box_iou(wanted["boxes"][clear], given["boxes"][some]) >= _SAME_BOX  # (clear, some)
    alike = wanted["labels"][clear][:, None] == given["labels"][some]
    return float((overlaps & alike).any(dim=1).double().mean())


def _end_point_error(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> float:
    """Return the mean distance of flows (2, H, W), relative to the mean length of those wanted."""
    one, other = wanted["flow"].double(), given["flow"].double()
    return float((one - other).norm(dim=0).mean() / one.norm(dim=0).mean())
