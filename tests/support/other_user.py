"""Acting as another user of the machine, which only root can."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can act as another user"
)


def as_nobody(act: Callable[[], object]) -> str:
    """Return what `act` returns, or the kind of its error, when another user's process calls it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _become_nobody()
        try:
            said = str(act())
        except BaseException as error:
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@contextlib.contextmanager
def process_of_nobody(number: int = NOBODY) -> Iterator[int]:
    """Have a process of another user that does nothing; yield its pid."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        _become_nobody(number)
        os.write(tell, b"!")
        while True:
            signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(tell)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """Have a folder that other users may enter and read, which pytest's aren't."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _become_nobody(number: int = NOBODY) -> None:
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)
