"""The threads that decode: interactive work first, bulk while the device has room for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeAlias, TypeVar

from zoofleet.worker.turns import BULK_SHARE

__all__ = ["Decoders"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_Work: TypeAlias = Callable[[], object]


class Decoders(Executor):
    """Threads that serve two queues: of four works that are begun while both wait, three are interactive.

    Args:
        threads: number of threads.
        prepare: called first in each thread.
        takes_bulk: whether bulk work may be begun now. `wake` must be called when it has become true.
    """

    def __init__(self, threads: int, prepare: Callable[[], object], takes_bulk: Callable[[], bool]) -> None:
        self._prepare = prepare
        self._takes_bulk = takes_bulk
        self._interactive: deque[_Work] = deque()
        self._bulk: deque[_Work] = deque()
        self._in_a_row = 0
        """Interactive works that were begun since the last bulk one, while one waited."""
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._run, name=f"decode_{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def post(self, work: _Work, *, bulk: bool) -> None:
        """Have work done whose outcome nobody asks for. It must not raise.

        Raises:
            RuntimeError: the threads are shut down.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot take work after shutdown")
            (self._bulk if bulk else self._interactive).append(work)
            self._changed.notify()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a function called, as interactive work."""
        future: Future[_T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            else:
                future.set_result(result)

        self.post(call, bulk=False)
        return future

    def wake(self) -> None:
        """Look again whether bulk work may be begun."""
        if self._bulk:
            with self._changed:
                self._changed.notify_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work.

        Args:
            wait: whether to wait for the threads.
            cancel_futures: whether to forget what waits.
        """
        with self._changed:
            self._closed = True
            if cancel_futures:
                self._interactive.clear()
                self._bulk.clear()
            self._changed.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        self._prepare()
        while True:
            with self._changed:
                while (work := self._next()) is None:
                    if self._closed and not self._bulk:
                        return
                    self._changed.wait()
            work()
            del work  # not to hold the item until the next one

    def _next(self) -> _Work | None:
        """Take the work that is next, None where there is none."""
        bulk_waits = bool(self._bulk) and (self._takes_bulk() or self._closed)
        if self._interactive and not (bulk_waits and self._in_a_row >= BULK_SHARE - 1):
            self._in_a_row += bulk_waits
            return self._interactive.popleft()
        if bulk_waits:
            self._in_a_row = 0
            return self._bulk.popleft()
        return None
