"""Files that are written: past planted links, whole or not at all, under any system's rules.

Another user of the machine can put a link at a name that he guesses, in any folder that both may write to.
Who writes there by that name writes into a file of his own that the link leads to.
"""

import contextlib
import errno
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from foundry_lab.errors import ConfigurationError

WINDOWS = sys.platform == "win32"
LONGEST_NAME = 255
"""Bytes of one part of a path, on every file system that people have."""
PATIENCE_S = 2.0
PAUSE_S = 0.05

_RESERVED = frozenset(
    ("con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(10)))
)
"""Devices on Windows, with whatever ending."""

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


def as_path(value: str | os.PathLike[str], name: str) -> Path:
    """Return what a caller gave as a path, with `~` as the user's home.

    Raises:
        ConfigurationError: `name` is no path, or one that no file of this system can have.
    """
    try:
        path = Path(value).expanduser()
        problem = _problem(path)
    except TypeError:
        problem = f"it is a {type(value).__name__}"
    except (RuntimeError, UnicodeError):
        problem = "nobody's home is called so" if str(value).startswith("~") else "it is no text in UTF-8"
    if problem:
        raise ConfigurationError(f"{name}={value!r:.200} can't be a file: {problem}. Give another name.")
    return path


def _problem(path: Path) -> str | None:
    os.fsencode(path)
    if "\0" in str(path):
        return "it holds a NUL character"
    for part in path.parts[path.anchor != "" :]:
        if len(os.fsencode(part)) > LONGEST_NAME:
            return f"{part[:20]}… is longer than {LONGEST_NAME} bytes"
        if WINDOWS and (set(part) & set('<>:"|?*') or part.partition(".")[0].strip().lower() in _RESERVED):
            return f"Windows has no file {part!r}"
    return None


def no_link(path: str, flags: int) -> int:
    """Open as `os.open` does, but no link; for the `opener` of Python's `open`.

    Raises:
        OSError: as `os.open`; ELOOP for a link.
    """
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # the second on BSDs
            raise OSError(errno.ELOOP, f"{Path(path).name} is a link, and isn't followed", path) from None
        raise


def check_links(path: Path) -> None:
    """Make sure that a path leads through no link which another user made, unless it is the system's.

    Raises:
        OSError: EPERM for such a link; ELOOP for links that lead in a circle.
    """
    if WINDOWS:  # where making links takes a right of its own
        return
    for _ in range(40):
        try:
            owner = path.lstat().st_uid
            target = path.readlink()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):  # nothing there, or no link
                return
            raise
        if owner not in (0, os.geteuid()):
            raise OSError(errno.EPERM, "another user put a link there", os.fspath(path))
        path = path.parent / target
    raise OSError(errno.ELOOP, "links lead in a circle there", os.fspath(path))


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a new file, which takes the place of `path` in one step when the block has ended.

    Nobody reads half of it, and a block that fails, as with a full disk, leaves there what was there. A link
    at its name is replaced, and what it leads to stays as it is. Two who write there at once get into each
    other's way: a lock keeps them apart.

    Args:
        private: nobody else may read it.

    Raises:
        OSError: it can't be made or put in place.
    """
    part = path.with_name(path.name + ".part")
    opener = functools.partial(os.open, mode=0o600 if private else 0o666)
    try:
        patiently(part.unlink, missing_ok=True)
        with open(part, "xb", opener=opener) as file:  # "x" follows no link
            yield file
        patiently(part.replace, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put a file with these bytes in place in one step. Arguments and errors as for `replacing`."""
    with replacing(path, private=private) as file:
        file.write(data)
