"""The embedded service around a command: stopped after it, if the command had it started."""

import atexit
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from foundry_lab import engine

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
"""Signals by which a person or a system has a command end."""


@contextmanager
def left_as_found(*, keep: bool = False) -> Iterator[None]:
    """Stop the embedded service after the block if it wasn't running before it, unless it is to be kept."""
    if keep or engine.service_status() is not None:
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        # A thread may be about to start it. Python waits for that thread, and then does this.
        atexit.register(engine.stop_service)
        raise
    finally:
        with handled(signal.SIG_IGN):  # a second Ctrl-C must not leave it running
            engine.stop_service()


def interrupting() -> AbstractContextManager[None]:
    """Have SIGTERM, and SIGHUP where it isn't ignored, end the block as Ctrl-C does."""
    return handled(_interrupt)


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def handled(handler: Callable[[int, Any], Any] | signal.Handlers) -> Iterator[None]:
    """Give the signals a handler for the block; one that is ignored, as under nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():  # only there Python allows it
        yield
        return
    with ExitStack() as stack:
        for each in ENDING:
            if signal.getsignal(each) not in (signal.SIG_IGN, None):
                stack.callback(signal.signal, each, signal.signal(each, handler))
        yield
