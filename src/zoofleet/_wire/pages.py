"""Pages of lists (https://google.aip.dev/158), and the opaque tokens that say where a list or a stream goes on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from zoofleet.errors import InvalidArgumentError

_MAX_PAGE: Final = 1000


def encode(scope: str, position: str) -> str:
    """Make a token for a position within `scope`: the list that it belongs to."""
    return base64.urlsafe_b64encode(f"{scope}\n{position}".encode()).decode().rstrip("=")


def decode(field: str, scope: str, token: str) -> str:
    """Return the position in a token.

    Raises:
        InvalidArgumentError: the token is not one of this scope; the message names its `field`.
    """
    try:
        padded = token.encode() + b"=" * (-len(token) % 4)
        found, newline, position = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition("\n")
    except (binascii.Error, UnicodeError):
        found = newline = position = ""
    if not newline or found != scope:
        raise InvalidArgumentError(f"{field} {token[:80]!r} is not one that this list gave out")
    return position


def decode_number(field: str, scope: str, token: str) -> int:
    """Return the position in a token whose position is a number.

    Raises:
        InvalidArgumentError: the token is not one of this scope, or its position is no number of up to 15 digits; the
            message names its `field`.
    """
    position = decode(field, scope, token)
    if not (position.isascii() and position.isdecimal() and len(position) < 16):
        raise InvalidArgumentError(f"{field} {token[:80]!r} is not one that this list gave out")
    return int(position)


def size(page_size: int, default: int) -> int:
    """Return how many entries a page has: `default` where the request leaves it open, and never more than 1000.

    Raises:
        InvalidArgumentError: the size is negative.
    """
    if page_size < 0:
        raise InvalidArgumentError(f"page_size is {page_size}; accepted: 0 to {_MAX_PAGE}")
    return min(page_size, _MAX_PAGE) or default


def page(scope: str, names: Sequence[str], page_size: int, page_token: str, default: int) -> tuple[list[str], str]:
    """Cut a page out of a list of unique names.

    Args:
        scope: what the list is, with its filters; tokens of other lists are refused.
        names: all names; they may be others at the next page, which goes on after the last name of this one.
        page_size: the request's field of that name.
        page_token: the request's field of that name.
        default: entries of a page whose request leaves the size open.

    Returns:
        The page's names in order, and the token of the next page, "" after the last one.

    Raises:
        InvalidArgumentError: the size is negative, or the token is none of this list.
    """
    count = size(page_size, default)
    after = decode("page_token", scope, page_token) if page_token else ""
    rest = sorted(name for name in names if name > after)
    return rest[:count], encode(scope, rest[count - 1]) if len(rest) > count else ""
