"""Turns what a call of grpc.aio raises into our errors."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc

from zoofleet._wire.status import from_rpc_error
from zoofleet.errors import UnavailableError

_T = TypeVar("_T")


_STATUS_LOST: Final = "Internal error from Core"
"""The details that grpc.aio puts in the place of a call's status after a write to it has failed (grpc/grpc#36066)."""


class Ending:
    """The status with which a call ended, kept because grpc.aio may replace it later.

    Args:
        call: a call with streamed requests that has just been opened.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        self.error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    def restore(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return the status that the call ended with where grpc.aio has replaced it, and else the error as it is."""
        return self.error if error.details() == _STATUS_LOST and self.error is not None else error

    def _keep(self, call: grpc.aio.Call) -> None:
        code = _result_of(call.code())
        if code is not grpc.StatusCode.OK:
            metadata = _result_of(call.initial_metadata()), _result_of(call.trailing_metadata())
            self.error = grpc.aio.AioRpcError(code, *metadata, _result_of(call.details()))


def _result_of(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns that waits for nothing, since the call that it asks is done."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    raise AssertionError("a call that is done has its status")


@contextmanager
def typed_errors(ending: Ending | None = None) -> Iterator[None]:
    """Turn what a call raises within the block into one of our errors.

    Args:
        ending: the status of the call; needed where its requests are streamed.

    Raises:
        ZoofleetError: the call failed, or was cut off.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if ending is not None:
            error = ending.restore(error)
        if error.code() is grpc.StatusCode.CANCELLED:  # our servers never answer so: the server's end cut the call off
            raise UnavailableError("the server cut the call off") from None
        if error.details() == _STATUS_LOST:
            raise UnavailableError("the server ended the call; its reason was lost") from None
        raise from_rpc_error(error) from None
    except grpc.aio.UsageError as error:  # the channel was closed
        raise UnavailableError(f"the client is closed: {error}") from None
    except asyncio.CancelledError:
        # A channel that is closed cancels its calls, which looks as if somebody had cancelled this task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise UnavailableError("the call was cancelled") from None
