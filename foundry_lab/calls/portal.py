"""Async work in plain calls: an event loop in a daemon thread.

All sync clients of the process share one loop (`wait`): the sync client is the async one, seen through a
window. Who needs a loop of another kind, or one that a slow function may block, makes a `Portal` of his own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from foundry_lab._ground.forks import keep_unused, renew_after_fork

T = TypeVar("T")
POLL_S = 0.2
"""A Ctrl-C doesn't get through a wait on Windows, so waits are made of pieces."""
END_S = 5.0
"""How long `close` waits for what still runs."""


class Work(Generic[T]):
    """A coroutine under way in a portal's loop.

    Attributes:
        done: whether it has ended, its cleaning up included.
    """

    __slots__ = ("_ended", "_loop", "_task", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        if not asyncio.iscoroutine(coroutine):  # else nobody would ever release the lock below
            raise TypeError(f"{coroutine!r} is no coroutine.")
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        self.done = False
        self._ended = threading.Lock()  # a bare lock, held until the end: an Event costs three times as much
        self._ended.acquire()
        loop.call_soon_threadsafe(self._begin, coroutine)

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._end)

    def _end(self, _: asyncio.Task[T]) -> None:
        self.done = True
        self._ended.release()

    def cancel(self) -> None:
        """Ask it to end. It ends when it has cleaned up: see `wait`."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the work with it
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it has ended, after at most `timeout` seconds."""
        give_up_at = math.inf if timeout is None else time.monotonic() + timeout
        while not self.done and (left := give_up_at - time.monotonic()) > 0:
            if self._ended.acquire(timeout=min(POLL_S, left)):
                self._ended.release()  # others may wait as well
        return self.done

    def result(self) -> T:
        """Wait for the end; return its result or raise its error.

        A Ctrl-C cancels the work and waits until it has cleaned up: a batch has saved its results and removed
        its lock by then. A second Ctrl-C doesn't wait any longer.
        """
        try:
            self.wait()
        except BaseException:
            self.cancel()  # the task: a future of it would be done at once, before the cleaning up
            self.wait()
            raise
        assert self._task is not None, "work that has ended was begun"
        return self._task.result()


class Portal(contextlib.AbstractContextManager["Portal"]):
    """An event loop in a daemon thread, started when it is first needed; a forked child gets a new one.

    Args:
        name: the thread's.
        loop_factory: makes the loop; by default the platform's usual one.
    """

    def __init__(
        self, name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    ) -> None:
        self._name = name
        self._loop_factory = loop_factory
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inner: Portal | None = None
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The thread stayed with the parent."""
        keep_unused(self._loop)  # closing it would unregister the parent's sockets
        self._loop = self._thread = None
        self._lock = threading.Lock()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Work[T]:
        """Have a coroutine run; return it under way."""
        return Work(coroutine, self._loop or self._running())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine, or raise its error; a Ctrl-C cancels it and waits for its end."""
        if self._thread is threading.current_thread():  # a function of the caller's that the loop has called
            if self._inner is None:  # kept, as a stream is read in one loop
                self._inner = Portal(f"{self._name} (within)")
            return self._inner.wait(coroutine)
        return self.start(coroutine).result()

    def close(self) -> None:
        """Cancel what runs, wait for its end and stop the loop. The next use starts another."""
        with self._lock:
            loop, thread, inner = self._loop, self._thread, self._inner
            self._loop = self._thread = self._inner = None
        if inner is not None:
            inner.close()
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(lambda: loop.create_task(_wind_up(loop)))
        if thread is not threading.current_thread():
            thread.join(END_S)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop_factory()
                self._thread = threading.Thread(target=_run, args=(loop,), name=self._name, daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    stopped = False
    while not stopped:
        # A function of the caller's may call sys.exit(): its task has that, and whoever waits gets it.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            stopped = True
    loop.close()


async def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what runs. Not as asyncio.Runner does: a thread of its is refused at the end of Python 3.12."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
    loop.stop()


_shared = Portal("foundry-lab")
atexit.register(_shared.close)  # else Python complains of what was still under way

wait = _shared.wait
