"""Published weights on their way into a model: fetched, checked, and read without running code.

The cache is torch.hub's own (`$TORCH_HOME/hub/checkpoints`, by default under `~/.cache/torch`), with its file names, so
what other programs fetched is found here and the other way round. A file that turns out not to be what it should is not
left there unless it was there before. Weights that come with the repository are read where they stand.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from zoofleet._catalog import download
from zoofleet.errors import InvalidWeightsError

if TYPE_CHECKING:
    from zoofleet.models._weights import WeightsEnum


@dataclass(frozen=True, slots=True)
class _Given:
    state: Mapping[str, Any]
    assign: bool


_given: Final[ContextVar[_Given | None]] = ContextVar("_given", default=None)


@contextmanager
def given_state(state: Mapping[str, Any], *, assign: bool) -> Iterator[None]:
    """Have `load_weights` take a state dict in this thread instead of reading the file.

    Args:
        state: what the file holds. It must not be used again where `assign` is set.
        assign: whether its tensors become the model's own; otherwise they are copied into the model's.
    """
    token = _given.set(_Given(state, assign))
    try:
        yield
    finally:
        _given.reset(token)


def load_weights(model: nn.Module, weights: WeightsEnum, progress: bool = True) -> None:
    """Load published weights into a model that was built for them.

    Args:
        model: its parameters and buffers are overwritten; unusable if this raises.
        weights: which ones.
        progress: write a progress line to stderr while downloading.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.
        InvalidWeightsError: the file is not the published one, holds code, or does not fit the model to the letter.
    """
    given = _given.get()
    if given is not None:
        assign_weights(model, weights, given.state, assign=given.assign)
        return
    with cached_if_valid(weights.url):
        assign_weights(model, weights, weights.get_state_dict(progress=progress))


def assign_weights(model: nn.Module, weights: WeightsEnum, state: Mapping[str, Any], *, assign: bool = False) -> None:
    """Put a state dict into a model.

    Args:
        model: its parameters and buffers are overwritten, in their own dtypes; unusable if this raises.
        weights: where the state comes from, named in the error.
        state: must have the model's keys and shapes.
        assign: whether its tensors become the model's own where they can, rather than being copied.

    Raises:
        InvalidWeightsError: it does not; the message names the first differences.
    """
    dtypes = [tensor.dtype for tensor in _tensors(model)]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=assign)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:  # all but the first come from INT8 layers
        raise InvalidWeightsError(f"{weights!r} does not fit {type(model).__name__}: {error}"[:2000]) from error
    if missing or unexpected:
        raise InvalidWeightsError(
            f"{weights!r} does not fit {type(model).__name__}: "
            + "; ".join(
                f"{len(keys)} {what} keys, the first {', '.join(k[:80] for k in keys[:5])}"
                for what, keys in (("missing", missing), ("unexpected", unexpected))
                if keys
            )
        )
    if assign:
        _own(model, dtypes)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())


def _own(model: nn.Module, dtypes: list[torch.dtype]) -> None:
    """Give each tensor that was assigned the dtype, and memory of its own, as it would have had it been copied."""
    seen = set()
    for tensor, dtype in zip(_tensors(model), dtypes, strict=True):
        memory = tensor.untyped_storage()
        data = tensor.data.to(dtype)
        if data.untyped_storage().nbytes() != data.nbytes or memory.data_ptr() in seen or not data.is_contiguous():
            data = data.clone(memory_format=torch.contiguous_format)
        seen.add(memory.data_ptr())
        tensor.data = data


def load_state_dict(url: str, *, progress: bool, check_hash: bool) -> dict[str, Any]:
    """Fetch a weight file unless it is cached, and read it onto the CPU.

    Args:
        url: where it is published; http, https or file, or a path in Zoofleet's repository.
        progress: write a progress line to stderr while downloading.
        check_hash: compare the file, cached or fetched, with the SHA-256 prefix in its name.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.
        InvalidWeightsError: the file's hash is wrong, it holds code, or it is no state dict.
    """
    with cached_if_valid(url):
        report = _ProgressLine(url) if progress else None
        path = download.fetch(url, check_hash=check_hash, report=report)
        read = _reader(path)
        try:
            state = read(path)
        except Exception as error:  # reading untrusted bytes can fail in any way
            raise InvalidWeightsError(f"{path} is not a file of tensors alone: {str(error)[:500]}") from error
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise InvalidWeightsError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return state


def _reader(path: Path) -> Callable[[Path], Any]:
    if path.suffix == ".safetensors":
        # Imported here, since from a checkout torch.hub builds all other models without it.
        from safetensors.torch import load_file

        return load_file
    return functools.partial(torch.load, map_location="cpu", weights_only=True)


@contextmanager
def cached_if_valid(url: str) -> Iterator[None]:
    """Where its block finds the URL's file invalid, that file leaves the cache, unless it was there before."""
    path = download.cache_dir() / download.file_name(url)
    was_there = path.exists()
    try:
        yield
    except InvalidWeightsError:
        if not was_there:
            path.unlink(missing_ok=True)
        raise


class _ProgressLine:
    """Says on stderr what is downloaded and, on a terminal, how far it is."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._started = False

    def __call__(self, received: int, total: int | None) -> None:
        if not self._started:
            self._started = True
            sys.stderr.write(f"Downloading {self._url}\n")
        if sys.stderr.isatty():
            shown = f" of {total / 1e6:.1f}" if total else ""
            sys.stderr.write(f"\r{received / 1e6:.1f}{shown} MB " + ("\n" if received == total else ""))
