"""Which process listens at a port of this machine, asked of the system."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys

import psutil

_HEADER = struct.Struct("=IHHII")
"""A netlink message's length, type, flags, number and sender."""
_QUESTION = struct.Struct("=BBBxI2s2s16s16sIII")
"""Family, protocol, extras, states; port and peer's port, address and peer's; interface, cookie."""
_BY_FAMILY, _REQUEST = 20, 1
_NO_COOKIE = 0xFFFFFFFF
_INODE_AT = 84


class Listener:
    """A process of this user that listens somewhere, told from a later process of the same number."""

    def __init__(self, pid: int) -> None:
        self._process: psutil.Process | None = None
        self._proven: int | None = None
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if sys.platform == "win32" or process.uids().effective == os.geteuid():
                self._process = process

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listener) and self._process == other._process

    def __hash__(self) -> int:
        return hash(self._process)

    def listens_at(self, host: str, port: int) -> bool:
        """Return whether the process listens there; True as well where the system doesn't tell.

        The first answer takes milliseconds, as the system lists its connections for it. Linux then tells in
        microseconds whether the same socket is still listening.
        """
        if self._process is None or not self._process.is_running():
            return False
        inode = listening_inode(host, port)
        if inode and inode == self._proven:
            return True
        try:
            its_own = self._process.net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True
        if not any(_is_listening(each, port) for each in its_own):
            return False
        self._proven = inode
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


def listening_inode(host: str, port: int) -> int | None:
    """Return the number of the socket that listens there, 0 for none, None where only Linux would tell.

    /proc/net/tcp says it too, but Linux walks through its whole table of connections for that.
    """
    if sys.platform != "linux":
        return None
    address = ipaddress.ip_address(host.partition("%")[0])
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    question = _QUESTION.pack(
        family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF,
        port.to_bytes(2, "big"), b"", address.packed, b"", 0, _NO_COOKIE, _NO_COOKIE,
    )  # fmt: skip
    length = _HEADER.size + len(question)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:  # 4: NETLINK_SOCK_DIAG
            kernel.settimeout(1.0)
            kernel.send(_HEADER.pack(length, _BY_FAMILY, _REQUEST, 0, 0) + question)
            answer = kernel.recv(4096)
    except OSError:  # a sandbox without it
        return None
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return 0
    return int.from_bytes(answer[_INODE_AT : _INODE_AT + 4], sys.byteorder)
