"""The threads that make answers of outputs, and how the answers come back to the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from zoofleet.worker.batcher import use_threads

__all__ = ["Encoders"]

_PAUSE: Final = 0.001
"""Seconds that answers wait for further ones of the same batch, each of which would wake the event loop by itself."""

_T = TypeVar("_T")


class Encoders(Generic[_T]):
    """Threads that answers are made in. The outputs of a batch come at once, and so do its answers, within bounds.

    Must be made in the event loop.

    Args:
        threads: the number of threads.
        deliver: called in the event loop with each answer.
    """

    def __init__(self, threads: int, deliver: Callable[[_T], None]) -> None:
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        # None ends the thread that takes it.
        self._steps: queue.SimpleQueue[Callable[[], _T] | None] = queue.SimpleQueue()
        self._answers: deque[_T] = deque()
        self._is_waking = False
        self._is_closed = False
        self._threads = [threading.Thread(target=self._run, name=f"encode_{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def post(self, step: Callable[[], _T]) -> None:
        """Have an answer made by `step`, which raises nothing. May be called in any thread."""
        self._steps.put(step)

    def close(self, *, wait: bool) -> None:
        """Drop what waits. Blocks until what is under way is done where `wait` is set."""
        self._is_closed = True
        for _ in self._threads:
            self._steps.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        use_threads(1)
        while (step := self._steps.get()) is not None:
            if self._is_closed:
                continue
            self._answers.append(step())
            del step  # not to hold an output until the next one
            if not self._is_waking:
                self._is_waking = True
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._steps.empty():
            self._hand_over()
        else:
            self._loop.call_later(_PAUSE, self._hand_over)

    def _hand_over(self) -> None:
        self._is_waking = False  # before the answers are taken: one that comes later wakes again
        while self._answers:
            self._deliver(self._answers.popleft())
