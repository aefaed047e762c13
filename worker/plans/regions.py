"""Which parts of a model a plan replaces by a faster form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from zoofleet._wire.kinds import TaskKind

__all__ = ["VERSION", "Region", "regions"]

VERSION: Final = 1
"""Raised with each change of what `regions` returns, so that no older package is taken from a cache."""

_MAX_BATCH: Final = 1024
_MAX_SIDE: Final = 4096


@dataclass(frozen=True, slots=True)
class Region:
    """A submodule that takes tensors by position and gives tensors, for any batch size.

    Attributes:
        path: its name within the model, empty for the whole model.
        arguments: example inputs.
        dynamic: for each argument the least and the largest size of those of its dimensions that vary.
    """

    path: str
    arguments: tuple[Tensor, ...]
    dynamic: tuple[Mapping[int, tuple[int, int]], ...]


def regions(kind: TaskKind, module: nn.Module, run_example: Callable[[], Any]) -> tuple[Region, ...]:
    """Return the parts of a model that a plan replaces; none where the whole model has to stay as it is.

    Args:
        kind: the model's kind of task.
        module: the model.
        run_example: runs the model on an example batch of 2 or more items.
    """
    if kind not in (TaskKind.CLASSIFY, TaskKind.CLASSIFY_CLIP, TaskKind.SEGMENT):
        return ()
    seen: list[tuple[Tensor, ...]] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        run_example()
    finally:
        hook.remove()
    dynamic: dict[int, tuple[int, int]] = {0: (1, _MAX_BATCH)}
    if kind is TaskKind.SEGMENT:
        dynamic |= {2: (32, _MAX_SIDE), 3: (32, _MAX_SIDE)}
    return (Region("", seen[0], (dynamic,)),)
