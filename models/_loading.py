"""Models that are built for their published weights alone, without drawing random ones first.

`get_model` draws random weights even where published ones replace them, as the reference does, so that equal seeds
leave equal numbers to what is drawn next. A server draws nothing next: here parameters stay what the allocator gave,
and then are the file's own tensors. They are copies in memory, not a mapping of the file, so that a file that is cut or
overwritten in place later cannot end the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoofleet.models._hub import cached_if_valid, given_state
from zoofleet.models._registry import get_model
from zoofleet.models._weights import WeightsEnum

__all__ = ["load_model"]

_DRAWING: Final = frozenset(
    {"uniform_", "normal_", "trunc_normal_", "erfinv_"}
    | {f"{rule}_{shape}_" for rule in ("kaiming", "xavier") for shape in ("uniform", "normal")}
)
"""Functions of `torch.nn.init`, and methods of tensors, that draw numbers; `erfinv_` is a step of `trunc_normal_`."""

_DRAWING_AGAIN: Final = frozenset({"uniform_", "normal_"})
"""Those of them that `torch.nn.init.trunc_normal_` repeats until all numbers lie within its bounds, as zeros do."""

_quantizing: Final = threading.Lock()
"""Converting to INT8 silences warnings, which is a setting of the process."""


def load_model(name: str, weights: WeightsEnum, **config: Any) -> nn.Module:
    """Build a model as `get_model` does with published weights, in about the time that reading them takes.

    It draws no random numbers, neither from torch's generator nor from another one, and several threads may build
    models at once.

    Args:
        name: a registered name.
        weights: the weight set, one of the builder's.
        **config: the builder's arguments beside `weights` and `progress`.

    Returns:
        The model on the CPU, equal in all its tensors to what `get_model` returns.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.
        InvalidWeightsError: the file is not the published one, holds code, or does not fit the model.
    """
    converts = bool(config.get("quantize"))
    with cached_if_valid(weights.url):
        state = weights.get_state_dict(progress=False)  # what may take minutes happens outside of the lock
        with (
            _quantizing if converts else contextlib.nullcontext(),
            _Undrawn(zeros=converts),
            given_state(state, assign=not converts),
        ):
            return get_model(name, weights=weights, progress=False, **config)


class _Undrawn(TorchFunctionMode):
    """Within it, what would draw random numbers in this thread draws none.

    Args:
        zeros: whether to fill with zeros all that would be drawn, where something is computed from it: INT8 layers are
            made by packing the float ones. Otherwise most of it is left as it is, and its memory is never touched.
    """

    def __init__(self, *, zeros: bool) -> None:
        super().__init__()
        self._zeros = zeros

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in _DRAWING:
            return func(*args, **kwargs)
        tensor: Tensor = args[0] if args else kwargs["tensor"]
        if self._zeros or name in _DRAWING_AGAIN:
            with torch.no_grad():
                tensor.zero_()
        return tensor
