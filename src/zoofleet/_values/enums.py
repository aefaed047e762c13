"""Values of the contract's enums as members of ours."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from zoofleet.errors import DataLossError

_E = TypeVar("_E", bound=Enum)


def member(enum: type[_E], value: int) -> _E:
    """Return the member of an enum that has a value.

    Raises:
        DataLossError: no member has the value, which may come from a later version.
    """
    try:
        return enum(value)
    except ValueError:
        raise DataLossError(f"{value} is no {enum.__name__} that this version knows") from None
