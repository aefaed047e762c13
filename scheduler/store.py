"""The connection to Redis: commands, scripts, events, the meaning of failures, and the length of outages."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from zoofleet._serving.faults import fault
from zoofleet.errors import InternalError, ResourceExhaustedError, UnavailableError, ZoofleetError
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


_TEMPORARY: Final = re.compile(r"\b(?:READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS|BUSY)\b")
"""Error codes of a Redis that is failing over, loading, or kept from writing for a while."""

_OUT_OF_MEMORY: Final = "OOM command not allowed"
_MEMORY_RETRY: Final = 5.0
"""Seconds after which a client should try again that met a Redis without memory."""


class Store:
    """A Redis whose commands either answer or raise one of our errors.

    No command is tried again in here: one whose answer was lost may have run, and only the caller knows whether it may
    run twice.

    Every command raises UnavailableError where Redis does not answer or cannot write now, ResourceExhaustedError where
    Redis is out of memory, and InternalError where Redis refuses the command, a fault of ours or of its set-up.

    Args:
        url: the `redis://`, `rediss://` or `unix://` URL.
        timeout: the seconds that a command may take.
        pulse: the seconds between calls of `check`.
        longest_grace: the most seconds for which `is_settled` is false after an outage.
    """

    def __init__(self, url: str, timeout: float, *, pulse: float = 1.0, longest_grace: float = 10.0) -> None:
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
        self._longest_pause = max(2 * pulse, 1.0)
        self._longest_grace = longest_grace
        self._last_answer = math.inf
        self._grace_until = -math.inf
        self._clock_offset: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the silence of workers and replicas may count against them.

        It may not after an outage, for as long as the outage lasted, since nobody could be heard. An outage is a time
        without any answer of Redis, whether Redis did not answer or this process was paused and did not ask.
        """
        return time.monotonic() >= self._grace_until

    async def check(self) -> None:
        """Ask Redis for its time, so that an outage is noticed. Call it before silence is judged.

        The clock of Redis against ours also shows that both were paused at once, as on a suspended machine.
        """
        seconds, microseconds = await self.call("TIME")
        offset = int(seconds) + int(microseconds) / 1e6 - time.monotonic()
        if self._clock_offset is not None and offset - self._clock_offset > self._longest_pause:
            self._begin_grace(offset - self._clock_offset)
        self._clock_offset = offset

    async def warn_of_data_loss(self) -> None:
        """Log which of its settings let this Redis lose jobs that were acknowledged."""
        try:
            info = await self.call("INFO")  # parsed by redis-py
        except InternalError:
            _log.warning("this Redis does not tell how it is set up; see to it that it cannot lose jobs")
            return
        if not info.get("aof_enabled"):
            _log.warning(
                "this Redis has no append-only file: what was acknowledged since its last snapshot is lost when it "
                "dies; set 'appendonly yes'"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            _log.warning(
                "this Redis evicts keys when its memory is full (maxmemory-policy %s), and with them parts of jobs; "
                "set 'maxmemory-policy noeviction'",
                policy,
            )

    async def call(self, *command: Any) -> Any:
        """Run one command, and return its reply."""
        with self._reaching():
            return await self._client.execute_command(*command)

    async def call_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip, and return their replies."""
        with self._reaching():
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute()
                return replies

    async def run(self, name: str, *arguments: Any) -> Any:
        """Run `lua/{name}.lua` as one atomic step, and return its reply."""
        source, digest = _script(name)
        with self._reaching():
            try:
                return await self._client.execute_command("EVALSHA", digest, 1, keys.ROOT, *arguments)
            except NoScriptError:  # a new or restarted server
                return await self._client.execute_command("EVAL", source, 1, keys.ROOT, *arguments)

    @contextmanager
    def listening(self, topic: str, listener: Listener) -> Iterator[None]:
        """Have a listener called for each event of a topic, and after each gap in the events, until the block ends.

        Args:
            topic: the events `topic` and `topic {value}`.
            listener: called with the value, or with "" for an event without one and for a gap.
        """
        self._listeners.setdefault(topic, []).append(listener)
        try:
            yield
        finally:
            self._listeners[topic].remove(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]

    async def listen(self) -> None:
        """Deliver events until cancelled, and connect again whenever the connection breaks."""
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
        except ResponseError as error:
            self._note_answer()
            raise _refusal(error) from error
        except (RedisError, OSError) as error:
            raise UnavailableError(f"the queue's store cannot be reached: {type(error).__name__}") from error
        self._note_answer()

    def _note_answer(self) -> None:
        now = time.monotonic()
        silence, self._last_answer = now - self._last_answer, now
        if silence > self._longest_pause:
            self._begin_grace(silence)

    def _begin_grace(self, outage: float) -> None:
        grace = min(outage, self._longest_grace)
        _log.warning("no word of Redis for %.1f s; nobody is given up for the next %.1f s", outage, grace)
        self._grace_until = max(self._grace_until, time.monotonic() + grace)

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


def _refusal(error: ResponseError) -> ZoofleetError:
    """Return our error for one that Redis answered. Where a script failed, the cause stands within the text."""
    text = str(error)
    if _OUT_OF_MEMORY in text:
        return ResourceExhaustedError("the queue's store is out of memory; try later", _MEMORY_RETRY)
    if isinstance(error, ReadOnlyError | MasterDownError | ClusterDownError | TryAgainError) or _TEMPORARY.search(text):
        return UnavailableError(f"the queue's store cannot do this at present: {text[:200]}")
    return fault("a command to the queue's store")
