"""The client without asyncio: each method runs its counterpart in `AsyncClient` on an event loop in a thread."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from zoofleet._client.async_client import AsyncClient
from zoofleet._client.video_analysis import AsyncVideoAnalysis
from zoofleet._values.video import FrameResults, VideoInfo, VideoSummary
from zoofleet.errors import FailedPreconditionError

__all__ = ["Client", "VideoAnalysis"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _LoopThread:
    """An event loop in a daemon thread, one for all clients: gRPC is made for one event loop in a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine to its end, and return or raise what it does. An interrupt cancels the coroutine.

        Args:
            work: makes the coroutine; called on the loop.

        Raises:
            FailedPreconditionError: the interpreter is about to exit, so the loop has ended.
        """
        loop = self._running()
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[_T]] = []

        def begin() -> None:
            try:
                tasks.append(loop.create_task(work()))
            except Exception as error:  # noqa: BLE001 - such as a TypeError for wrong arguments: it is the caller's
                future.set_exception(error)
            else:
                tasks[0].add_done_callback(lambda task: _copy_outcome(task, future))

        def abandon() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                future.cancel()

        # An interrupt may come between any two of these lines, so all that counts happens on the loop, in order.
        try:
            loop.call_soon_threadsafe(begin)
            return future.result()
        except BaseException:
            if not future.done():
                loop.call_soon_threadsafe(abandon)
                concurrent.futures.wait([future], timeout=5.0)
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                started = threading.Event()
                thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(started)), name="zoofleet-client", daemon=True
                )
                thread.start()
                started.wait()
                atexit.register(self._end, thread)
            if self._loop is None or self._loop.is_closed():
                raise FailedPreconditionError("the interpreter is about to exit")
            return self._loop

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        started.set()
        await self._stop.wait()

    def _end(self, thread: threading.Thread) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()


def _copy_outcome(task: asyncio.Task[_T], future: concurrent.futures.Future[_T]) -> None:
    if task.cancelled():
        future.cancel()
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


_thread = _LoopThread()


def _iterate(source: AsyncGenerator[_T]) -> Iterator[_T]:
    try:
        while True:
            try:
                yield _thread.run(lambda: _step(source))
            except StopAsyncIteration:
                return
    finally:
        with suppress(FailedPreconditionError):  # at the interpreter's exit the loop has ended it already
            _thread.run(source.aclose)


async def _step(source: AsyncGenerator[_T]) -> _T:
    return await anext(source)


@overload
def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Client, _P], _T]: ...


@overload
def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], AsyncGenerator[_T]],
) -> Callable[Concatenate[Client, _P], Iterator[_T]]: ...


@overload
def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], AsyncVideoAnalysis],
) -> Callable[Concatenate[Client, _P], VideoAnalysis]: ...


def _blocking(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of `Client` from its counterpart in `AsyncClient`.

    The method has the counterpart's docstring and parameters, so that neither is written twice: help() and editors that
    run code show both. Editors that only read code get the parameters from the types above, and find the docstring one
    jump away, at the counterpart.
    """

    async def begin(client: AsyncClient, args: Any, kwargs: Any) -> Any:
        made = method(client, *args, **kwargs)  # on the loop, also a plain method: what it makes belongs to the loop
        return await made if isinstance(made, Coroutine) else made

    def call(self: Client, /, *args: Any, **kwargs: Any) -> Any:
        result = _thread.run(lambda: begin(self._client, args, kwargs))
        if isinstance(result, AsyncVideoAnalysis):
            return VideoAnalysis(result)
        return _iterate(result) if isinstance(result, AsyncGenerator) else result

    signature = inspect.signature(method)
    returned = str(signature.return_annotation).replace("AsyncGenerator", "Iterator").replace("Async", "")
    call.__name__, call.__qualname__, call.__doc__ = method.__name__, f"Client.{method.__name__}", method.__doc__
    call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
    return call


class Client:
    """A connection to a Zoofleet scheduler, or to a single worker, which serves `Vision` and `Models` alone.

    Calls that fail because the server cannot be reached are repeated, with growing pauses. All methods may be called
    from several threads at once. Iterators fetch results as they are read; closing an iterator, or leaving its loop,
    ends its call. Iterables of items are read in a thread of the client.

        with Client() as client:
            print(client.classify("cat.jpg", model="resnet50").categories[0])
            for result in client.stream(Detect("maskrcnn_resnet50_fpn"), Path("street").glob("*.jpg")):
                print(result.item_id, result.outcome)

    Args:
        address: the server as `host:port`. None for the value of the environment variable ZOOFLEET_ADDRESS, or
            127.0.0.1:50051 without one.
        retry_timeout: seconds without progress after which a call that the server does not answer fails. With 0, no
            call is repeated.

    Every method raises errors of `zoofleet.errors` only, and what the caller's own iterables raise.
    """

    def __init__(self, address: str | None = None, *, retry_timeout: float = 30.0) -> None:
        async def connect() -> AsyncClient:
            return AsyncClient(address, retry_timeout=retry_timeout)

        self._client = _thread.run(connect)  # on the loop, to which the channel belongs

    @property
    def address(self) -> str:
        """The server as `host:port`."""
        return self._client.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    close = _blocking(AsyncClient.close)
    wait_ready = _blocking(AsyncClient.wait_ready)

    classify = _blocking(AsyncClient.classify)
    segment = _blocking(AsyncClient.segment)
    detect = _blocking(AsyncClient.detect)
    classify_clip = _blocking(AsyncClient.classify_clip)
    estimate_flow = _blocking(AsyncClient.estimate_flow)
    stream = _blocking(AsyncClient.stream)

    analyze_video = _blocking(AsyncClient.analyze_video)

    create_job = _blocking(AsyncClient.create_job)
    get_job = _blocking(AsyncClient.get_job)
    list_jobs = _blocking(AsyncClient.list_jobs)
    cancel_job = _blocking(AsyncClient.cancel_job)
    delete_job = _blocking(AsyncClient.delete_job)
    watch_job = _blocking(AsyncClient.watch_job)
    wait_job = _blocking(AsyncClient.wait_job)
    read_results = _blocking(AsyncClient.read_results)

    list_models = _blocking(AsyncClient.list_models)
    get_model = _blocking(AsyncClient.get_model)
    load_model = _blocking(AsyncClient.load_model)
    unload_model = _blocking(AsyncClient.unload_model)
    pin_model = _blocking(AsyncClient.pin_model)

    list_workers = _blocking(AsyncClient.list_workers)
    drain_worker = _blocking(AsyncClient.drain_worker)


class VideoAnalysis:
    """An iterator over the results of a video's frames, in frame order, for a plain `for` loop."""

    def __init__(self, analysis: AsyncVideoAnalysis) -> None:
        self._analysis = analysis
        self._frames = _iterate(analysis.frames)

    @property
    def info(self) -> VideoInfo | None:
        """What the container says of the video. None before the first frame has come."""
        return self._analysis.info

    @property
    def summary(self) -> VideoSummary | None:
        """How the analysis ended. None before it has ended.

        Where the video turned unreadable on the way, the iteration raises `summary.error` after the results of all
        frames before.
        """
        return self._analysis.summary

    def __iter__(self) -> Iterator[FrameResults]:
        return self._frames
