"""What operating systems do differently with files: renaming what is open, and forcing data to the disk."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

WINDOWS = sys.platform == "win32"
PATIENCE_S = 2.0
PAUSE_S = 0.05

Given = ParamSpec("Given")
Result = TypeVar("Result")


def patiently(act: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Return what `act` does to a file, tried for two seconds on Windows.

    Windows refuses to rename, replace or remove a file while anybody has it open, be it a reader, a virus
    scanner or a synchronised folder, and to read one that is being replaced. That is over soon.

    Raises:
        OSError: as `act` does; PermissionError only when the time is over.
    """
    deadline = time.monotonic() + (PATIENCE_S if WINDOWS else 0.0)
    while True:
        try:
            return act(*args, **kwargs)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_S)


def force_to_disk(descriptor: int) -> None:
    """Have what was written to an open file survive a power cut. Raises OSError if the disk fails."""
    if sys.platform == "darwin":  # where fsync leaves it in the drive's own memory
        import fcntl

        with contextlib.suppress(OSError):  # a network's file system may not know this
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
