"""Run a batch from plain calls: the async one, in an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from foundry_lab.batch.options import Items
from foundry_lab.batch.report import BatchReport
from foundry_lab.batch.run import run_batch
from foundry_lab.calls.core import ClientCore

POLL_S = 0.2


def run_batch_in_thread(core: ClientCore, items: Items, options: Mapping[str, Any]) -> BatchReport:
    """Run it to its end. A notebook has a running loop already, so this one can't be in the same thread.

    Raises:
        FoundryError: as `run_batch`.
        KeyboardInterrupt: after everything finished was saved.
    """
    outcome: list[BatchReport | BaseException] = []
    started, finished = threading.Event(), threading.Event()
    handles: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[BatchReport]]] = []

    async def main() -> BatchReport:
        task = asyncio.ensure_future(run_batch(core, items, options))
        handles.append((asyncio.get_running_loop(), task))
        started.set()
        return await task

    def target() -> None:
        try:
            outcome.append(asyncio.run(main()))
        except BaseException as error:  # handed to the caller's thread below
            outcome.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=target, name="foundry-lab batch")
    thread.start()
    try:
        while not finished.wait(POLL_S):  # in pieces, as a Ctrl-C doesn't get through a wait on Windows
            pass
    except KeyboardInterrupt:
        started.wait()
        loop, task = handles[0]
        loop.call_soon_threadsafe(task.cancel)
        finished.wait()  # not Thread.join: one that was interrupted may return at once (python/cpython#90882)
        raise
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result
