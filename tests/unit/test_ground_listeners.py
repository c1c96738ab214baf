"""Who listens at a port: the process that was noted, or whoever took the port when that one had ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from foundry_lab._ground.listeners import Listener, listener_at

SERVER = """
import os, socket, sys
if sys.argv[1:]:
    os.setuid(int(sys.argv[1]))
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
for line in sys.stdin:
    server.shutdown(socket.SHUT_RDWR)
    print("shut down", flush=True)
"""
NOBODY = "65534"


@contextmanager
def server(*user: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a process that listens, and its port."""
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER, *user], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())
        child.kill()


def test_the_noted_process_listens_until_it_ends_and_another_has_its_port() -> None:
    with server() as (child, port):
        noted = Listener(child.pid)
        assert noted.listens_at(port)
        assert not Listener(os.getpid()).listens_at(port)
        child.kill()
        child.wait()
        with socket.create_server(("127.0.0.1", port)):
            assert not noted.listens_at(port)
            assert Listener(os.getpid()).listens_at(port)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a listening socket isn't shut down")
def test_a_process_that_lives_on_and_listens_no_more() -> None:
    """As the service does after a POST /shutdown: its process stays, and its port is free."""
    with server() as (child, port):
        noted = Listener(child.pid)
        assert noted.listens_at(port)
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        with socket.create_server(("127.0.0.1", port)):
            assert not noted.listens_at(port)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can make one")
def test_another_users_process_is_never_the_noted_one() -> None:
    """A number in a note may have come to mean another user's process, which listens there on purpose."""
    with server(NOBODY) as (child, port):
        assert not Listener(child.pid).listens_at(port)


def test_who_listens_is_found_by_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        found = listener_at(port)
        if sys.platform == "darwin" and found is None:
            pytest.skip("macOS tells root only")
        assert found == Listener(os.getpid())
    assert listener_at(port) is None


def test_a_system_that_does_not_tell_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: psutil.Process, kind: str) -> None:
        raise psutil.AccessDenied(self.pid)

    with server() as (child, port):
        noted = Listener(child.pid)
        monkeypatch.setattr(psutil.Process, "net_connections", refused)
        assert noted.listens_at(port)


def test_it_is_loaded_with_a_psutil_that_has_no_names_for_what_it_gives() -> None:
    """Before 7.2; pyproject.toml allows 6.1."""
    code = "import psutil; vars(psutil).pop('_ntuples', None); import foundry_lab._ground.listeners"
    subprocess.run([sys.executable, "-c", code], check=True)
