"""Opaque tokens that say where a list or a stream of results goes on."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from zoofleet.errors import InvalidArgumentError

_MAX_PAGE: Final = 1000


def encode(scope: str, position: str) -> str:
    """Make a token for a position within `scope`: the list that it belongs to."""
    return base64.urlsafe_b64encode(f"{scope}\n{position}".encode()).decode().rstrip("=")


def decode(field: str, scope: str, token: str) -> str:
    """Return the position in a token.

    Raises:
        InvalidArgumentError: not a token of this scope; `field` names it in the message.
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
    """Return the position in a token where it is a number, as `decode`."""
    position = decode(field, scope, token)
    if not (position.isascii() and position.isdecimal() and len(position) < 16):
        raise InvalidArgumentError(f"{field} {token[:80]!r} is not one that this list gave out")
    return int(position)


def size(page_size: int, default: int) -> int:
    """Return how many entries a page has.

    Raises:
        InvalidArgumentError: a negative size.
    """
    if page_size < 0:
        raise InvalidArgumentError(f"page_size is {page_size}; accepted: 0 to {_MAX_PAGE}")
    return min(page_size, _MAX_PAGE) or default
