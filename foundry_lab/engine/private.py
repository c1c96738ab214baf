"""What only its owner may change, as it is believed, loaded or run: the lab's home and the model.

Windows isn't looked at: there a user's folders are his own unless he says otherwise.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from foundry_lab.engine import paths
from foundry_lab.errors import EngineError


class Danger(NamedTuple):
    """Who else could change a file or folder, and the way out."""

    found: str
    advice: str


def danger(path: Path, *, of_others: bool = False) -> Danger | None:
    """Return who besides this user could change a file or folder; None if nobody but the administrator.

    Args:
        of_others: it may belong to another user, who was chosen to look after it.

    Raises:
        OSError: it isn't there, or can't be looked at.
    """
    if sys.platform == "win32":
        return None
    status = path.stat()
    if status.st_uid != os.getuid() and not of_others:
        return Danger(
            f"{path} belongs to {_user(status.st_uid)}, and you are {_user(os.getuid())}",
            "Set FOUNDRY_LAB_HOME to a folder of your own",
        )
    others = status.st_mode & stat.S_IWOTH
    if others or (status.st_mode & stat.S_IWGRP and not _is_alone_in(status.st_gid)):
        who = "every user of this machine" if others else f"the users of group {status.st_gid}"
        return Danger(
            f"{path} can be changed by {who}",
            f"Look whether somebody did, then: chmod -R go-w {shlex.quote(str(path))}",
        )
    return None


def check(path: Path, *, of_others: bool = False) -> None:
    """Raise EngineError, which says what to do, if there is a `danger`."""
    if found := danger(path, of_others=of_others):
        raise EngineError(f"{found.found}, so what is there can't be trusted. {found.advice}")


def own_folder(folder: Path) -> Path:
    """Return a folder below the home directory, closed to other users. It and the home are made if need be.

    Raises:
        EngineError: it can't be made or isn't ours.
    """
    home = paths.home()
    try:
        if not home.exists():
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        check(home)
        folder.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and folder.stat().st_uid == os.getuid():
            folder.chmod(0o700)
        check(folder)
    except OSError as error:
        raise EngineError(
            f"The folder {folder} can't be used: {error.strerror}. "
            "Make it writable for you, or set FOUNDRY_LAB_HOME to a folder that is."
        ) from error
    return folder


def model_parts() -> Iterator[Path]:
    """Yield the folders and files of the prepared model. Raises OSError if there is none."""
    model = paths.model_dir()
    yield from (paths.model_cache(), model.parent, model, *model.iterdir())


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
