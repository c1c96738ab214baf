"""The threads of this process that do something."""

from __future__ import annotations

import sys
import threading
import time


def working() -> set[str]:
    """Name the threads, but for those that wait for work in a pool and the one that tqdm starts and keeps.

    A loop keeps the threads of `asyncio.to_thread` for its next call, and starts one more if none waits.
    """
    frames = sys._current_frames()
    return {
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if thread.name != "tqdm_monitor" and not _waits_in_a_pool(frames.get(thread.ident or 0))
    }


def left(before: set[str], limit_s: float = 20.0) -> set[str]:
    """Return those that work and weren't there before, after at most `limit_s` seconds for them to end."""
    end = time.monotonic() + limit_s
    while (new := working() - before) and time.monotonic() < end:
        time.sleep(0.005)
    return new


def _waits_in_a_pool(frame: object) -> bool:
    code = getattr(frame, "f_code", None)
    return code is not None and code.co_name == "_worker" and "concurrent" in code.co_filename
