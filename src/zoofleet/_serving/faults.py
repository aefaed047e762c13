"""What a client is told of a fault in a server, and what the log keeps of it."""

from __future__ import annotations

import logging
import uuid
from typing import Final

from zoofleet.errors import InternalError

__all__ = ["fault"]

_log: Final = logging.getLogger(__name__)


def fault(where: str) -> InternalError:
    """Log the exception that is being handled under a reference, and return an error that carries the reference only.

    Args:
        where: what the server was doing, as in "a fault of the server in {where}".
    """
    reference = uuid.uuid4().hex[:12]
    _log.exception("fault %s in %s", reference, where)
    return InternalError(f"a fault of the server in {where}; its log has the details under {reference}")
