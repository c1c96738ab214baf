"""Files of the lab's home directory: written whole or not at all, by one process at a time."""

import contextlib
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from foundry_lab.engine.paths import home
from foundry_lab.engine.private import locked

LOCK_TIMEOUT_S = 1800
WORKSPACE_PREFIX = "preparing-"


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the lock under which models are fetched, prepared, moved and removed. Not to be nested.

    Raises:
        EngineError: another process held it for half an hour, or an OSError came up while it was held; the
            message says what to do.
    """
    with locked("models", f"at work on the model in {home()}", LOCK_TIMEOUT_S):
        # As we have the lock, any workspace is of a process that was killed.
        for leftover in home().glob(f"{WORKSPACE_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A temporary directory on the same disk as the model; gone afterwards. Call it under `exclusive()`."""
    place = tempfile.TemporaryDirectory(prefix=WORKSPACE_PREFIX, dir=home(), ignore_cleanup_errors=True)
    with place as directory:
        yield Path(directory)


def require_space(size: int, purpose: str) -> None:
    """Check that `size` bytes are free in the home directory. Call it under `exclusive()`.

    Raises:
        OSError: ENOSPC, they aren't.
    """
    free = shutil.disk_usage(home()).free
    if free < size:
        needed = f"{purpose} takes {size / 1e6:,.0f} MB"
        raise OSError(errno.ENOSPC, f"{needed}, and only {free / 1e6:,.0f} MB are free in {home()}")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
