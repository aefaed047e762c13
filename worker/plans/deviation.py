"""How far a plan's outputs are from EXACT's, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from zoofleet._wire.kinds import TaskKind

__all__ = ["Deviation", "compare"]

_LEAST_COSINE: Final = 0.999
_MARGIN: Final = 0.05
"""The least lead of the best category over the second that must be kept, as a share of the scores' spread."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a plan's outputs are from EXACT's.

    Attributes:
        cosine: of the raw outputs, the least of all items.
        top1_agreement: share of the items with a clear best category whose best category is the same, 0 to 1.
    """

    cosine: float
    top1_agreement: float = 1.0

    @property
    def is_accepted(self) -> bool:
        """Whether the plan may serve."""
        return self.cosine >= _LEAST_COSINE and self.top1_agreement >= 1

    def __str__(self) -> str:
        return f"cosine {self.cosine:.6f}, top-1 agreement {self.top1_agreement:.0%}"


def compare(kind: TaskKind, exact: Any, plan: Any) -> Deviation:
    """Compare what the model gave for the same batch.

    Args:
        kind: the model's kind of task.
        exact: EXACT's raw outputs, as the model returns them.
        plan: the plan's.
    """
    cosine = agreed = 1.0
    for one, other in zip(_tensors(exact), _tensors(plan), strict=True):
        a, b = one.double().flatten(1), other.double().flatten(1)
        # Logits of random weights are as small as 1e-10: no epsilon may be added to the norms.
        # NaN, of an output that is all zero or not finite, is no likeness.
        value = float(((a / a.norm(dim=1, keepdim=True)) * (b / b.norm(dim=1, keepdim=True))).sum(1).min())
        cosine = min(cosine, -1.0 if math.isnan(value) else value)
        if kind in (TaskKind.CLASSIFY, TaskKind.CLASSIFY_CLIP):
            best = a.topk(2)
            clear = best.values[:, 0] - best.values[:, 1] > _MARGIN * (best.values[:, 0] - a.mean(dim=1))
            same = best.indices[:, 0] == b.argmax(dim=1)
            agreed = float(same[clear].double().mean()) if bool(clear.any()) else 1.0
    return Deviation(cosine, agreed)


def _tensors(outputs: Any) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs.cpu()
    elif isinstance(outputs, dict):
        for name in sorted(outputs):
            yield from _tensors(outputs[name])
    elif isinstance(outputs, list | tuple):
        for output in outputs:
            yield from _tensors(output)
