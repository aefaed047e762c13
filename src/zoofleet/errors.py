"""Every error that Zoofleet raises, as one tree.

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

Each class has the gRPC status code that it travels under. On its way to a client, an error keeps its class and its
message; its stack trace stays behind.
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
    """The base class of all errors that Zoofleet raises."""

    code: ClassVar[int] = 2
    """The `google.rpc.Code` that the error travels under. 2 is UNKNOWN."""


class InvalidArgumentError(ZoofleetError, ValueError):
    """A value that is never accepted. The message has the value and what is accepted."""

    code = 3


class InvalidModelNameError(InvalidArgumentError):
    """A model name that is not written `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`."""


class InvalidMediaError(InvalidArgumentError):
    """Bytes that cannot be decoded as the image or video they should be."""


class ItemTooLargeError(InvalidArgumentError):
    """An item that has more bytes, pixels or frames than are accepted."""


class NotFoundError(ZoofleetError, LookupError):
    """Something that a name stands for does not exist."""

    code = 5


class UnknownModelError(NotFoundError, ValueError):
    """No builder has this name. The message suggests similar names."""


class UnknownWeightsError(NotFoundError, ValueError):
    """The builder has no weight set of this name. The message lists those that it has."""


class MediaNotFoundError(NotFoundError, FileNotFoundError):
    """There is no file at a path that a caller gave as an item. The message has the path."""


class JobNotFoundError(NotFoundError):
    """No job has this name, or the job has expired."""


class WorkerNotFoundError(NotFoundError):
    """No live worker has this name."""


class AlreadyExistsError(ZoofleetError):
    """A name or a request id is in use for something different."""

    code = 6


class PermissionDeniedError(ZoofleetError):
    """A URI is outside of the prefixes that the operator has allowed, or a file may not be read."""

    code = 7


class FailedPreconditionError(ZoofleetError):
    """The system is in a state in which the call cannot be carried out."""

    code = 9


class ResourceExhaustedError(ZoofleetError):
    """A quota, a queue or a memory budget is full.

    Args:
        message: what is full.
        retry_after: seconds after which another attempt may succeed. None where waiting alone does not help.
    """

    code = 8

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(ZoofleetError):
    """The other side cannot be reached or is shutting down. The call may be tried again."""

    code = 14


class WeightsUnavailableError(UnavailableError):
    """Published weights could not be fetched from their URL or from the mirror."""


class DeadlineExceededError(ZoofleetError, TimeoutError):
    """The deadline passed before the call had ended."""

    code = 4


class CancelledError(ZoofleetError):
    """The job or call was cancelled."""

    code = 1


class DataLossError(ZoofleetError):
    """Bytes that were stored, received or downloaded are not what they should be."""

    code = 15


class InvalidWeightsError(DataLossError):
    """A weight file has a wrong hash, wrong keys or shapes, or code in its pickle. The message lists differences."""


class UnimplementedError(ZoofleetError, NotImplementedError):
    """The call asks for a part of the contract that this version does not serve yet."""

    code = 12


class AbortedError(ZoofleetError):
    """Another party has already done this, or something that excludes it."""

    code = 10


class LeaseLostError(AbortedError):
    """The lease's fencing token is not the current one any more, so nothing was committed."""


class InternalError(ZoofleetError):
    """A fault in Zoofleet. The message has a reference, under which the server's log has the details."""

    code = 13


class DeviceHungError(InternalError):
    """A worker's device does not finish a batch. The message says of which model, and how long it has been running."""


class PoisonItemError(InternalError):
    """Every attempt to process the item ended with the death of a worker's process."""


class KernelLibraryError(ZoofleetError, ImportError):
    """The library libzoofleet_ops could not be loaded. The message lists the paths tried, and why each failed."""
