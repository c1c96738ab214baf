"""Files of the lab's home directory: written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from foundry_lab.engine.paths import home, run_dir
from foundry_lab.engine.private import own_folder
from foundry_lab.errors import EngineError

LOCK_TIMEOUT_S = 1800
WORKSPACE_PREFIX = "preparing-"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the lock under which models are fetched, prepared, moved and removed. Not to be nested.

    Raises:
        EngineError: another process held it for half an hour, or an OSError came up while it was held; the
            message says what to do.
    """
    try:
        lock = _lock()
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            _log.warning("Another process is at work on the model; waiting for it.")
            held = lock.acquire(timeout=LOCK_TIMEOUT_S)
        with held:
            _empty()
            yield
    except filelock.Timeout:
        raise EngineError(
            f"Another process has been at work on the model in {home()} for {LOCK_TIMEOUT_S // 60} "
            "minutes. End it, then run this again."
        ) from None
    except OSError as error:
        raise EngineError(_explanation(error)) from error


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A temporary directory on the same disk as the model; gone afterwards. Call it under `exclusive()`."""
    place = tempfile.TemporaryDirectory(prefix=WORKSPACE_PREFIX, dir=home(), ignore_cleanup_errors=True)
    with place as directory:
        yield Path(directory)


def remove_leftovers() -> None:
    """Remove the workspaces of processes that were killed; none is removed while another is at work."""
    with contextlib.suppress(EngineError, OSError), _lock().acquire(timeout=0):
        _empty()


def _empty() -> None:
    """Under the lock, any workspace is of a process that was killed."""
    for leftover in home().glob(f"{WORKSPACE_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _lock() -> filelock.BaseFileLock:
    return filelock.FileLock(own_folder(run_dir()) / "models.lock")


def _explanation(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(f"The disk ran full ({error.strerror})")
    what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return (
        f"The lab's files in {home()} can't be written or read ({what}). If the service is running, end it "
        "with `foundry-lab stop`; else make that directory yours, or set FOUNDRY_LAB_HOME to one you can "
        "write to."
    )


def require_space(size: int, purpose: str, directory: Path | None = None) -> None:
    """Check that `size` bytes are free in `directory`, by default the home directory.

    Raises:
        EngineError: they aren't.
    """
    place = directory or home()
    free = shutil.disk_usage(place).free
    if free < size:
        needed = f"{purpose} takes {size / 1e6:,.0f} MB"
        raise EngineError(_full(f"{needed}, and only {free / 1e6:,.0f} MB are free in {place}"))


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _full(what: str) -> str:
    return (
        f"{what}. Nothing half-written was kept. Free some space and run this again, or set FOUNDRY_LAB_HOME "
        "to a directory on a larger disk."
    )
