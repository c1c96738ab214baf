"""The state file: whole or absent, private, and never believed about a process that isn't ours."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_lab import engine
from foundry_lab.engine import paths
from foundry_lab.engine.private import own_folder
from foundry_lab.engine.service import state
from foundry_lab.engine.service.state import ServiceState
from foundry_lab.errors import EngineError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path))
    return tmp_path


def own_state(**changes: object) -> ServiceState:
    pid = os.getpid()
    known = ServiceState(pid=pid, create_time=state.started_at(pid), control_token="secret-token")
    return msgspec.structs.replace(known, **changes)


def test_what_is_written_is_read_back() -> None:
    written = own_state(url="http://127.0.0.1:5273", versions={"python": "3.11"})
    state.write_state(written)
    assert state.read_state() == written
    assert state.live_state() == written


def test_no_state_is_none() -> None:
    assert state.read_state() is None
    assert state.live_state() is None


def test_nothing_else_is_left_in_the_directory() -> None:
    for pid in range(1, 20):
        state.write_state(own_state(pid=pid))
    assert list(paths.run_dir().iterdir()) == [state.state_file()]


def test_half_a_note_of_a_killed_process_goes_with_the_next_one() -> None:
    state.write_state(own_state())
    state.state_file().with_name("state.json.part").write_bytes(b'{"pid": ')
    state.write_state(own_state(url="http://127.0.0.1:1"))
    assert list(paths.run_dir().iterdir()) == [state.state_file()]
    assert state.read_state() == own_state(url="http://127.0.0.1:1")


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_the_owner_can_read_it() -> None:
    paths.run_dir().mkdir(mode=0o777)
    state.write_state(own_state())
    assert stat.S_IMODE(paths.run_dir().stat().st_mode) == 0o700
    assert stat.S_IMODE(state.state_file().stat().st_mode) == 0o600


@given(content=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_none(content: bytes) -> None:
    own_folder(paths.run_dir())
    state.state_file().write_bytes(content)
    assert state.read_state() is None
    assert engine.service_status() is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"pid": 1}',
        b'{"pid": "1", "create_time": 0}',
        b"[]",
        b"null",
        b'{"pid": 1, "create_time": 0, "url": "http://127.0.0.1:1"',
        b'{"pid": 99999999999999999999999, "create_time": 0}',
        b'{"pid": -5, "create_time": 0}',
        b'{"pid": 4194999999, "create_time": 0}',
        b'{"more": ' + b"[" * 100_000,  # too deep to read
    ],
)
def test_half_right_garbage_is_none_too(content: bytes) -> None:
    own_folder(paths.run_dir())
    state.state_file().write_bytes(content)
    assert engine.service_status() is None


def test_readers_never_see_half_a_state() -> None:
    """Written over and over while it is read."""
    state.write_state(own_state(log_file="x" * 50_000))
    done = threading.Event()
    seen: list[ServiceState | None] = []

    def read() -> None:
        while not done.is_set():
            seen.append(state.read_state())

    reader = threading.Thread(target=read)
    reader.start()
    while not seen:  # a thread may be slow to begin
        time.sleep(0.001)
    for _ in range(200):
        state.write_state(own_state(log_file="x" * 50_000))
    done.set()
    reader.join()
    assert None not in seen


def test_the_token_is_not_in_the_repr() -> None:
    assert "secret-token" not in repr(own_state())
    assert "secret-token" not in f"{own_state()}"


def test_a_process_that_ended_is_not_the_service() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state.note(child.pid, url="http://127.0.0.1:1")
    assert engine.service_status() is not None
    child.kill()
    zombie = psutil.Process(child.pid)
    while zombie.status() != psutil.STATUS_ZOMBIE and os.name == "posix":
        time.sleep(0.01)
    assert engine.service_status() is None  # nobody has reaped it yet
    child.communicate()
    assert engine.service_status() is None


def test_a_reused_pid_is_not_the_service() -> None:
    own = own_state(url="http://127.0.0.1:1")
    state.write_state(own_state(url="http://127.0.0.1:1", create_time=own.create_time - 60))
    assert engine.service_status() is None


@pytest.mark.skipif(sys.platform != "linux", reason="start times that a clock moves are Linux's")
def test_a_clock_that_was_set_does_not_lose_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start times in seconds are reckoned from the boot time, which moves with the clock; ticks aren't."""
    noted = own_state(url="http://127.0.0.1:5273")
    state.write_state(noted)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    assert state.live_state() == noted


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts ticks")
def test_a_process_started_at_another_tick_is_another_one() -> None:
    """A pid may come round soon."""
    own = state.started_at(os.getpid())
    state.write_state(own_state(url="http://127.0.0.1:1", create_time=own - 1))
    assert engine.service_status() is None


def test_a_process_we_may_not_look_at_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: psutil.Process) -> str:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "status", deny)
    state.write_state(own_state(url="http://127.0.0.1:1"))
    assert engine.service_status() is None
    assert engine.stop_service() is False


def test_removing_spares_the_state_of_a_newer_service() -> None:
    state.write_state(own_state(pid=12345))
    state.remove_state(os.getpid())
    assert state.state_file().exists()
    state.remove_state(12345)
    assert not state.state_file().exists()


def test_a_state_that_may_not_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    state.write_state(own_state())

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(EngineError, match=r"can't be written or read \(Permission denied.*FOUNDRY_LAB_HOME"):
        state.read_state()


def test_a_home_that_is_a_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"can't be written or read \(Not a directory"):
        state.write_state(own_state())


def test_a_full_disk_is_an_error_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EngineError, match="No space left on device"):
        state.write_state(own_state())
    assert list(paths.run_dir().iterdir()) == []
