"""The connection to Redis: commands, scripts, events, and one meaning for every failure."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from zoofleet.errors import UnavailableError
from zoofleet.scheduler import keys

_log: Final = logging.getLogger(__name__)
_LUA: Final = Path(__file__).parent / "lua"
_RECONNECT: Final = 0.2
"""Seconds between attempts to subscribe again."""

Listener: TypeAlias = Callable[[str], None]


@cache
def _script(name: str) -> tuple[str, str]:
    source = "".join((_LUA / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Store:
    """A Redis that answers or raises UnavailableError.

    Nothing is tried again in here: a command whose answer was lost may have run, and only its caller knows whether it
    may run twice.

    Args:
        url: `redis://`, `rediss://` or `unix://` URL.
        timeout: seconds that a command may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        # RESP2, because Redis 6.2 greets RESP3 clients with errors about newer features.
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=32,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._client: Any = Redis(connection_pool=self._pool)  # its methods are typed for its sync twin as well
        self._listeners: dict[str, list[Listener]] = {}
        self._last_failure = -math.inf

    @property
    def quiet(self) -> float:
        """Seconds since Redis last failed to answer; infinite where it never did."""
        return time.monotonic() - self._last_failure

    async def call(self, *command: Any) -> Any:
        """Run one command."""
        with self._reaching():
            return await self._client.execute_command(*command)

    async def call_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip."""
        with self._reaching():
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute()
                return replies

    async def run(self, name: str, *arguments: Any) -> Any:
        """Run `lua/{name}.lua` as one atomic step."""
        source, digest = _script(name)
        with self._reaching():
            try:
                return await self._client.execute_command("EVALSHA", digest, 1, keys.ROOT, *arguments)
            except NoScriptError:  # a new or restarted server
                return await self._client.execute_command("EVAL", source, 1, keys.ROOT, *arguments)

    @contextmanager
    def listening(self, topic: str, listener: Listener) -> Iterator[None]:
        """Have the listener called for each event `topic` or `topic {value}`, and after each gap between events.

        It gets the value, or "" for an event without one and for a gap.
        """
        self._listeners.setdefault(topic, []).append(listener)
        try:
            yield
        finally:
            self._listeners[topic].remove(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]

    async def listen(self) -> None:
        """Deliver events until cancelled, whatever becomes of the connection."""
        while True:
            pubsub = self._client.pubsub()
            try:
                await pubsub.subscribe(keys.EVENTS)
                self._deliver_gap()
                while True:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
                    if message is not None:
                        self._deliver(message["data"].decode())
            except (RedisError, OSError) as error:
                _log.warning("events interrupted: %s", type(error).__name__)
                await asyncio.sleep(_RECONNECT)
            finally:
                with suppress(RedisError, OSError):
                    await pubsub.aclose()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            self._last_failure = time.monotonic()
            if isinstance(error, ResponseError):
                _log.error("Redis refused a command: %s", error)  # out of memory, say, or a read-only replica
            raise UnavailableError(f"the queue's store cannot be reached: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._pool.aclose()

    def _deliver(self, event: str) -> None:
        topic, _, value = event.partition(" ")
        for listener in [*self._listeners.get(topic, ()), *self._listeners.get(event, ())]:
            listener(value)

    def _deliver_gap(self) -> None:
        for listeners in list(self._listeners.values()):
            for listener in list(listeners):
                listener("")
