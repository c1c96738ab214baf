"""Which process listens at a port of this machine, asked of the system."""

from __future__ import annotations  # what psutil gives has its name only since psutil 7.2

import contextlib
import os
import sys

import psutil


class Listener:
    """A process of this user that listens somewhere, told from a later process of the same number."""

    def __init__(self, pid: int) -> None:
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if sys.platform == "win32" or process.uids().effective == os.geteuid():
                self._process = process

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listener) and self._process == other._process

    def listens_at(self, port: int) -> bool:
        """Return whether the process listens there; True as well where the system doesn't tell.

        It takes milliseconds, as the system lists the process's connections for it.
        """
        if self._process is None or not self._process.is_running():
            return False
        try:
            return any(_is_listening(each, port) for each in self._process.net_connections("tcp"))
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True


def listener_at(port: int) -> Listener | None:
    """Return who listens at a port; None where the system doesn't tell, or it is another user's process."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.pid is not None and _is_listening(each, port):
                return Listener(each.pid)
    return None


def _is_listening(connection: psutil._ntuples.sconn | psutil._ntuples.pconn, port: int) -> bool:
    return connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
