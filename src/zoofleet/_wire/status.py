"""Errors as `google.rpc.Status` and gRPC status, and back, without a loss of their type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from zoofleet import errors
from zoofleet.errors import ResourceExhaustedError, ZoofleetError
from zoofleet.v1 import vision_pb2

DOMAIN: Final = "zoofleet"
"""The `domain` in the `google.rpc.ErrorInfo` of our errors, whose `reason` is the name of the class."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""The key of the trailing metadata in which gRPC carries a `google.rpc.Status`."""

_GRPC_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def _classes(root: type[ZoofleetError]) -> Iterator[type[ZoofleetError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


_BY_NAME: Final = {cls.__name__: cls for cls in _classes(ZoofleetError)}
# The most general class of each code stands for statuses that other programs made.
_BY_CODE: Final = {cls.code: cls for cls in reversed(list(_classes(ZoofleetError)))} | {
    errors.InternalError.code: errors.InternalError
}


def to_status(error: ZoofleetError) -> status_pb2.Status:
    """Return an error as a `google.rpc.Status` with an `ErrorInfo`, and a `RetryInfo` where it has a `retry_after`."""
    status = status_pb2.Status(code=error.code, message=str(error))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))
    if isinstance(error, ResourceExhaustedError) and error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_status(status: status_pb2.Status) -> ZoofleetError:
    """Return the error that a `google.rpc.Status` stands for.

    A status that is not ours becomes the most general error of its code. Details that do not parse, as another program
    may send them, count as absent.
    """
    cls = _BY_CODE.get(status.code, ZoofleetError)
    retry_after: float | None = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        with suppress(DecodeError):
            if detail.Unpack(info) and info.domain == DOMAIN:
                named = _BY_NAME.get(info.reason)
                cls = named if named is not None and named.code == status.code else cls
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    if issubclass(cls, ResourceExhaustedError):
        return cls(status.message, retry_after)
    return cls(status.message)


def error_result(item_id: str, model: str, error: ZoofleetError) -> vision_pb2.Result:
    """Return the result of an item that has an error in the place of an outcome."""
    return vision_pb2.Result(item_id=item_id, model=model, precision=vision_pb2.PRECISION_EXACT, error=to_status(error))


def grpc_code(error: ZoofleetError) -> grpc.StatusCode:
    """Return the gRPC status code that an error travels under."""
    return _GRPC_CODES[error.code]


def trailing_metadata(error: ZoofleetError) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata that carries the whole error beside its code and message."""
    return ((DETAILS_KEY, to_status(error).SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> ZoofleetError:
    """Return the error that a failed call stands for, with the details that a Zoofleet server sent along."""
    call: grpc.Call = error  # type: ignore[assignment]  # every RpcError that a channel raises is a Call too
    code = call.code()
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY:
            with suppress(DecodeError):  # another program sent it, whose code and message still count
                status = status_pb2.Status.FromString(value)
                if status.code == code.value[0]:
                    return from_status(status)
    return from_status(status_pb2.Status(code=code.value[0], message=call.details() or code.name))
