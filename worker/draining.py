"""Waiting that ends when the worker drains."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from zoofleet.errors import UnavailableError

__all__ = ["unless_draining"]

_T = TypeVar("_T")


async def unless_draining(draining: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T:
    """Await `work`, which is cancelled if the worker begins to drain first.

    A caller that is cancelled in the moment in which `work` ends loses its result, which must therefore be nothing that
    has to be given back.

    Args:
        draining: set once the worker drains.
        work: what to wait for.

    Raises:
        UnavailableError: the worker drains.
    """
    working = asyncio.create_task(work)
    drained = asyncio.create_task(draining.wait())
    try:
        await asyncio.wait((working, drained), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise UnavailableError("the worker is draining")
        return working.result()
    finally:
        working.cancel()
        drained.cancel()
