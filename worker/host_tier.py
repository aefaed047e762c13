"""Models that have left a device, kept in the host's memory, from which they are back in milliseconds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import torch
from torch import Tensor, nn

from zoofleet._catalog import ModelName

__all__ = ["HostTier", "move_to_host"]

_SHARE: Final = 0.3
"""Share of the host's free memory that a tier may take by default; decoded images and page cache need the rest."""


class HostTier:
    """Models out of the device, the least recently used of which is dropped where the budget is full.

    All methods must be called in the event loop; moving a model is its caller's, in a thread.

    Args:
        budget: bytes that the models may take.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[ModelName, tuple[nn.Module, int]] = OrderedDict()

    @classmethod
    def of_free(cls, free: int, sharers: int) -> HostTier:
        """Return a tier with the default budget.

        Args:
            free: bytes that are free on the host.
            sharers: number of workers that share them.
        """
        return cls(int(_SHARE * free / sharers))

    @property
    def used(self) -> int:
        """Bytes that its models take."""
        return sum(size for _, size in self._kept.values())

    @property
    def names(self) -> list[ModelName]:
        """Its models, least recently used first."""
        return list(self._kept)

    def make_room(self, size: int) -> bool:
        """Drop models until one of `size` bytes fits; false where it never will."""
        if size > self.budget:
            return False
        while self.used + size > self.budget:
            self._kept.popitem(last=False)
        return True

    def put(self, name: ModelName, module: nn.Module, size: int) -> None:
        """Keep a model, which must be on the host, if it fits."""
        self.take(name)
        if self.make_room(size):
            self._kept[name] = (module, size)

    def take(self, name: ModelName) -> nn.Module | None:
        """Return a model, which the tier then has no more; None where it has none of that name."""
        module, _ = self._kept.pop(name, (None, 0))
        return module


def move_to_host(module: nn.Module) -> nn.Module:
    """Move a module's tensors to the host, into pinned memory where there is a CUDA device that can pin it.

    Returns:
        The module itself.
    """
    pins = torch.cuda.is_available()

    def host(tensor: Tensor) -> Tensor:
        try:
            copy = torch.empty_like(tensor, device="cpu", pin_memory=pins)
        except RuntimeError:  # the system's limit of pinned memory
            copy = torch.empty_like(tensor, device="cpu")
        return copy.copy_(tensor, non_blocking=True)

    with torch.no_grad():
        module._apply(host)  # type: ignore[no-untyped-call]  # as `Module.to` does
    if pins:
        torch.cuda.synchronize()
    return module
