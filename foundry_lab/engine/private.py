"""The lab's home and the model: only their owner may change them, as they are believed, loaded or run.

Models are made there by one process at a time. On Windows nobody is asked who may change what: there a user's
folders are his own unless he says otherwise.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from foundry_lab.engine import paths
from foundry_lab.errors import EngineError

_log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 1800
WORKSPACE_PREFIX = "preparing-"


def check(path: Path, *, of_others: bool = False) -> None:
    """Make sure that nobody but this user and the administrator could change a file or folder.

    Args:
        of_others: it may belong to another user, who was chosen to look after it.

    Raises:
        EngineError: somebody could; the message says what to do.
        OSError: it isn't there, or can't be looked at.
    """
    if sys.platform == "win32":
        return
    status = path.stat()
    if status.st_uid != os.getuid() and not of_others:
        raise EngineError(
            f"{path} belongs to {_user(status.st_uid)}, and you are {_user(os.getuid())}, so what is there "
            "can't be trusted. Set FOUNDRY_LAB_HOME to a folder of your own"
        )
    others = status.st_mode & stat.S_IWOTH
    if others or (status.st_mode & stat.S_IWGRP and not _is_alone_in(status.st_gid)):
        who = "every user of this machine" if others else f"the users of group {status.st_gid}"
        raise EngineError(
            f"{path} can be changed by {who}, so what is there can't be trusted. Look whether somebody did, "
            f"then: chmod -R go-w {shlex.quote(str(path))}"
        )


def check_model() -> None:
    """Make sure that nobody else could change the prepared model. Errors as for `check`."""
    shared = paths.shared_models() is not None
    for path in model_parts():
        check(path, of_others=shared)


def model_parts() -> Iterator[Path]:
    """Yield the folders and files of the prepared model. Raises OSError if there is none."""
    model = paths.model_dir()
    yield from (paths.model_cache(), model.parent, model, *model.iterdir())


@contextlib.contextmanager
def using_home() -> Iterator[None]:
    """Raise EngineError, which says what to do, for an OSError in the block."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineError(
                f"The disk is too full ({error.strerror}). Nothing half-written was kept. Free some space "
                "and run this again, or set FOUNDRY_LAB_HOME to a directory on a larger disk."
            ) from error
        what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        raise EngineError(
            f"The lab's files in {paths.home()} can't be written or read ({what}). If the service is running,"
            " end it with `foundry-lab stop`; else make that directory yours, or set FOUNDRY_LAB_HOME to one "
            "you can write to."
        ) from error


def own_folder(folder: Path) -> Path:
    """Return a folder below the home directory, closed to other users. It and the home are made if need be.

    Raises:
        EngineError: it can't be made or isn't ours.
    """
    home = paths.home()
    with using_home():
        if not home.exists():
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        check(home)
        folder.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and folder.stat().st_uid == os.getuid():
            folder.chmod(0o700)
        check(folder)
    return folder


@contextlib.contextmanager
def locked(name: str, work: str, timeout: float) -> Iterator[None]:
    """Hold a lock of the home, across processes and threads. Not to be nested.

    Args:
        name: of the lock.
        work: what is done under it, for those who wait.
        timeout: seconds to wait for it.

    Raises:
        EngineError: another process held it so long, or an OSError came up while it was held.
    """
    with using_home():
        lock = filelock.FileLock(own_folder(paths.run_dir()) / f"{name}.lock")
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            _log.warning("Another process is %s; waiting for it.", work)
            try:
                held = lock.acquire(timeout=timeout)
            except filelock.Timeout:
                raise EngineError(
                    f"Another process has been {work} for {timeout:.0f} s (lock {lock.lock_file}). End it, "
                    "then run this again."
                ) from None
        with held:
            yield


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the lock under which models are fetched, prepared, moved and removed. Not to be nested.

    Raises:
        EngineError: another process held it for half an hour, or an OSError came up while it was held; the
            message says what to do.
    """
    with locked("models", f"at work on the model in {paths.home()}", LOCK_TIMEOUT_S):
        # As we have the lock, any workspace is of a process that was killed.
        for leftover in paths.home().glob(f"{WORKSPACE_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A temporary directory on the same disk as the model; gone afterwards. Call it under `exclusive()`."""
    home = paths.home()
    with tempfile.TemporaryDirectory(prefix=WORKSPACE_PREFIX, dir=home, ignore_cleanup_errors=True) as work:
        yield Path(work)


def require_space(size: int, purpose: str) -> None:
    """Check that `size` bytes are free in the home directory. Call it under `exclusive()`.

    Raises:
        OSError: ENOSPC, they aren't.
    """
    free = shutil.disk_usage(paths.home()).free
    if free < size:
        needed = f"{purpose} takes {size / 1e6:,.0f} MB"
        raise OSError(errno.ENOSPC, f"{needed}, and only {free / 1e6:,.0f} MB are free in {paths.home()}")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _user(number: int) -> str:
    import pwd  # not on Windows

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:  # in a container, or out of an archive
        return f"user {number}"


def _is_alone_in(group: int) -> bool:
    """Whether it is the private group that many a Linux gives to each user, along with umask 002."""
    import grp
    import pwd

    try:
        own = pwd.getpwuid(os.getuid()).pw_name
        entry = grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == own and not set(entry.gr_mem) - {own}
