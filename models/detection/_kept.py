"""Tensors that depend on sizes alone, kept from one batch to the next.

Making such a tensor on a CUDA device from Python's numbers waits for the device, or takes several launches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["Kept", "constant"]


class Kept:
    """The tensors of one kind that were used last. May be used from any thread.

    Args:
        most: greatest number of tensors.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return what `make` makes, or made of an equal key, device and CUDA stream before.

        Args:
            key: all that the tensor depends on, but for its device.
            like: a tensor of the batch at hand, on the device that `make` uses.
            make: makes the tensor.

        Returns:
            A tensor that nobody may write to.
        """
        # What is traced or captured is used no further: a fake tensor has no values, and a CUDA graph would go on to
        # read the memory of a tensor that is no longer kept.
        if torch.compiler.is_compiling() or type(like) is not Tensor:
            return make()
        stream = 0
        if like.is_cuda:
            if torch.cuda.is_current_stream_capturing():
                return make()
            # Another stream might read the tensor before it is made.
            stream = torch.cuda.current_stream(like.device).cuda_stream
        full_key = (key, like.device, stream)
        with self._lock:
            if full_key in self._tensors:
                self._tensors.move_to_end(full_key)
                return self._tensors[full_key]
        # Autograd refuses tensors that were made in inference mode, and a later call may be one of training.
        with torch.inference_mode(False), torch.no_grad():
            made = make()
        with self._lock:
            self._tensors[full_key] = made
            while len(self._tensors) > self._most:
                self._tensors.popitem(last=False)
        return made


_constants: Final = Kept(1024)


def constant(values: Sequence[float] | Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Return numbers as a tensor of the dtype and on the device of `like`; nobody may write to it."""
    key = (tuple(tuple(v) if isinstance(v, Sequence) else v for v in values), like.dtype)
    return _constants.get(key, like, lambda: torch.tensor(values, dtype=like.dtype, device=like.device))
