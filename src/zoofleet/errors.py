"""Every error Zoofleet raises, as one tree.

    ZoofleetError
    ├── InvalidArgumentError            a value that can never be accepted
    │   ├── InvalidModelNameError
    │   ├── InvalidMediaError           bytes that are not the image or video they claim to be
    │   └── ItemTooLargeError           over the byte or pixel limit
    ├── NotFoundError
    │   ├── UnknownModelError
    │   ├── UnknownWeightsError
    │   ├── MediaNotFoundError          a path without a file
    │   ├── JobNotFoundError
    │   └── WorkerNotFoundError
    ├── AlreadyExistsError
    ├── PermissionDeniedError
    ├── FailedPreconditionError         right value, wrong state
    ├── ResourceExhaustedError          try again after `retry_after`
    ├── UnavailableError                try again
    │   └── WeightsUnavailableError
    ├── DeadlineExceededError
    ├── CancelledError
    ├── DataLossError                   bytes that fail their checksum
    │   └── InvalidWeightsError         a weight file with a wrong hash, wrong keys or shapes, or code inside
    ├── UnimplementedError
    ├── AbortedError                    lost a race; the work continues elsewhere
    │   └── LeaseLostError
    ├── InternalError
    │   ├── DeviceHungError             a batch that does not end; the worker's process does
    │   └── PoisonItemError             an item that killed every worker it met
    └── KernelLibraryError              libzoofleet_ops does not load

Each class carries the gRPC status code that it travels under, so that an error keeps its meaning, but never its
stack trace, on the way to a client.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "DataLossError",
    "DeadlineExceededError",
    "DeviceHungError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidMediaError",
    "InvalidModelNameError",
    "InvalidWeightsError",
    "ItemTooLargeError",
    "JobNotFoundError",
    "KernelLibraryError",
    "LeaseLostError",
    "MediaNotFoundError",
    "NotFoundError",
    "PermissionDeniedError",
    "PoisonItemError",
    "ResourceExhaustedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownModelError",
    "UnknownWeightsError",
    "WeightsUnavailableError",
    "WorkerNotFoundError",
    "ZoofleetError",
]


class ZoofleetError(Exception):
    """Base of all errors raised by Zoofleet."""

    code: ClassVar[int] = 2
    """The `google.rpc.Code` this error travels under (2 is UNKNOWN)."""


class InvalidArgumentError(ZoofleetError, ValueError):
    """A value that no state of the system would accept; names the value and what is accepted."""

    code = 3


class InvalidModelNameError(InvalidArgumentError):
    """A model name that is not written `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`."""


class InvalidMediaError(InvalidArgumentError):
    """Bytes that cannot be decoded as the image or video they should be."""


class ItemTooLargeError(InvalidArgumentError):
    """An item over the limit in bytes, pixels or frames."""


class NotFoundError(ZoofleetError, LookupError):
    """Something named does not exist."""

    code = 5


class UnknownModelError(NotFoundError, ValueError):
    """No builder has this name; the message suggests the nearest ones."""


class UnknownWeightsError(NotFoundError, ValueError):
    """The builder has no weight set of this name; the message lists those it has."""


class MediaNotFoundError(NotFoundError, FileNotFoundError):
    """A path that a caller gave as an item has no file behind it; names the path."""


class JobNotFoundError(NotFoundError):
    """No job has this name, or it has expired."""


class WorkerNotFoundError(NotFoundError):
    """No live worker has this name."""


class AlreadyExistsError(ZoofleetError):
    """A name or a request_id is in use with a different content."""

    code = 6


class PermissionDeniedError(ZoofleetError):
    """Not allowed: a URI outside the prefixes that the operator has set, or a file that the caller may not read."""

    code = 7


class FailedPreconditionError(ZoofleetError):
    """The system is not in a state in which the call makes sense."""

    code = 9


class ResourceExhaustedError(ZoofleetError):
    """A quota or a queue is full; `retry_after` is a hint in seconds, None where waiting alone does not help."""

    code = 8

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(ZoofleetError):
    """The other side cannot be reached or is going away; the call may be tried again."""

    code = 14


class WeightsUnavailableError(UnavailableError):
    """Published weights could not be fetched from their URL or mirror."""


class DeadlineExceededError(ZoofleetError, TimeoutError):
    """The deadline passed first."""

    code = 4


class CancelledError(ZoofleetError):
    """The job or call was cancelled."""

    code = 1


class DataLossError(ZoofleetError):
    """Stored or downloaded bytes are not what they must be."""

    code = 15


class InvalidWeightsError(DataLossError):
    """A weight file with a wrong hash, wrong keys or shapes, or code in its pickle; names the first differences."""


class UnimplementedError(ZoofleetError, NotImplementedError):
    """A part of the contract that this version does not serve yet."""

    code = 12


class AbortedError(ZoofleetError):
    """Somebody else got there first."""

    code = 10


class LeaseLostError(AbortedError):
    """The lease's fencing token is no longer the current one, so nothing was committed."""


class InternalError(ZoofleetError):
    """A fault of ours; the message carries a reference, the log the details."""

    code = 13


class DeviceHungError(InternalError):
    """A worker's device does not come to the end of a batch; says of which model and for how long."""


class PoisonItemError(InternalError):
    """An item whose every attempt ended with a dead worker."""


class KernelLibraryError(ZoofleetError, ImportError):
    """libzoofleet_ops could not be loaded; the message lists where it was looked for and why each failed."""
