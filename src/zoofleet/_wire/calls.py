"""What a call of grpc.aio raises, as our errors."""

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
"""What grpc.aio says in the place of the status of a call one of whose writes failed (grpc/grpc#36066)."""


class Ending:
    """The status of a call at the moment when it ended: the server's, mostly, even if grpc.aio replaces it later.

    Args:
        call: a call with streamed requests that has just been opened.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        self.error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._take_down)

    def restore(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What the call raised, or what grpc.aio has put it in the place of, where that is known."""
        return self.error if error.details() == _STATUS_LOST and self.error is not None else error

    def _take_down(self, call: grpc.aio.Call) -> None:
        code = _at_once(call.code())
        if code is not grpc.StatusCode.OK:
            metadata = _at_once(call.initial_metadata()), _at_once(call.trailing_metadata())
            self.error = grpc.aio.AioRpcError(code, *metadata, _at_once(call.details()))


def _at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine returns that has nothing to wait for: the call it asks is done."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    raise AssertionError("a call that is done has its status")


@contextmanager
def typed_errors(ending: Ending | None = None) -> Iterator[None]:
    """Turn what a call raises into one of our errors.

    Args:
        ending: of the call, where its requests are streamed.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if ending is not None:
            error = ending.restore(error)
        if error.code() is grpc.StatusCode.CANCELLED:  # no server of ours says so of a call: its end cut it off
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
