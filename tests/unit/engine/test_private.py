"""Other users of the machine can't have the lab believe, load, run or wait for what is theirs."""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_user import NOBODY, as_nobody, needs_root, process_of_nobody, public_folder
from processes import runs

from foundry_lab import engine
from foundry_lab.engine import paths, private
from foundry_lab.engine.model import bundle
from foundry_lab.engine.service import discovery, state
from foundry_lab.errors import EngineError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that isn't there yet, in a folder that other users can read."""
    with public_folder() as folder:
        monkeypatch.setenv("FOUNDRY_LAB_HOME", str(folder / "lab home"))
        yield folder / "lab home"


def use_models() -> None:
    with private.exclusive():
        pass


USES: list[Callable[[], object]] = [
    use_models,
    lambda: private.own_folder(paths.run_dir()),
    engine.stop_service,
    functools.partial(state.write_state, state.ServiceState(pid=1, create_time=0)),
]


@pytest.mark.parametrize("use", USES)
def test_a_home_is_made_for_its_owner_alone(home: Path, use: Callable[[], object]) -> None:
    before = os.umask(0)
    try:
        use()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_home_that_others_can_change_is_refused_until_mended(
    home: Path, use: Callable[[], object], mode: int
) -> None:
    home.mkdir()
    home.chmod(mode)
    with pytest.raises(EngineError, match="can be changed by every user of this machine") as caught:
        use()
    command = str(caught.value).rpartition("then: ")[2]
    subprocess.run(shlex.split(command), check=True)
    use()


def test_a_home_that_a_group_can_change_is_refused_but_not_ones_own_groups(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each user has a group to himself, umask 002 is usual."""
    home.mkdir()
    home.chmod(0o775)
    monkeypatch.setattr(private, "_is_alone_in", lambda group: True)
    use_models()
    monkeypatch.setattr(private, "_is_alone_in", lambda group: False)
    with pytest.raises(EngineError, match=f"the users of group {home.stat().st_gid}"):
        use_models()


def test_a_group_is_private_if_it_has_ones_name_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    import grp
    import pwd

    own = pwd.getpwuid(os.getuid()).pw_name

    def group(name: str, *members: str) -> None:
        entry = grp.struct_group((name, "x", 5, list(members)))
        monkeypatch.setattr(grp, "getgrgid", lambda number: entry)

    group(own)
    assert private._is_alone_in(5)
    group(own, own, "other")
    assert not private._is_alone_in(5)
    group("staff")
    assert not private._is_alone_in(5)


@needs_root
@pytest.mark.parametrize("use", [*USES, engine.service_status])
def test_another_users_home_is_refused(home: Path, use: Callable[[], object]) -> None:
    """He could have put a note of a service of his there."""
    run = home / "run"
    run.mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"pid": os.getpid(), "create_time": 0, "url": "http://evil"}))
    for path in (home, run, run / "state.json"):
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(EngineError, match=r"belongs to user \w+, and you are.*FOUNDRY_LAB_HOME to a folder"):
        use()


@needs_root
@pytest.mark.parametrize("part", ["run", "run/state.json"])
def test_a_state_that_another_user_could_have_written_is_refused(home: Path, part: str) -> None:
    state.write_state(state.ServiceState(pid=os.getpid(), create_time=0, url="http://evil"))
    os.chown(home / part, NOBODY, NOBODY)
    with pytest.raises(EngineError, match="belongs to user"):
        engine.service_status()


@needs_root
def test_nobody_else_can_hold_our_locks_or_read_our_note(home: Path) -> None:
    """A lock needs no more than a file that can be read; a home may be open to readers."""
    state.write_state(state.ServiceState(pid=os.getpid(), create_time=0))
    with private.exclusive(), discovery._lock():
        files = [*home.rglob("*.lock"), state.state_file()]
    home.chmod(0o755)
    assert len(files) == 3

    def hold(file: Path) -> None:
        fcntl.flock(os.open(file, os.O_RDONLY), fcntl.LOCK_EX)

    for file in files:
        assert as_nobody(functools.partial(hold, file)) == "PermissionError"


@needs_root
def test_a_model_or_an_archive_that_is_closed_to_us_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a hub's copy of the model in a folder that its learners can't enter."""
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    archive = closed / "model.tar"
    archive.touch()
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(closed / "home"))
    assert as_nobody(engine.prepared_models) == "EngineError"
    assert as_nobody(lambda: bundle.import_model(archive)) == "EngineError"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(home))
    monkeypatch.setenv("FOUNDRY_LAB_MODELS", str(closed / "models"))
    problem = "manifest.json is missing or unreadable"
    assert as_nobody(lambda: engine.prepared_models()[0].problem) == problem
    assert as_nobody(lambda: engine.prepare_model(progress=False)) == "EngineError"


@needs_root
def test_stop_ends_no_process_of_another_user(home: Path) -> None:
    with process_of_nobody() as pid:
        state.note(pid, url="http://127.0.0.1:1")
        assert engine.service_status() is None
        assert engine.stop_service() is False
        assert runs(pid)


def test_stop_ends_no_process_that_somebody_at_the_port_names(home: Path) -> None:
    """The service is gone, and who listens at its port now says what he likes about his pid."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"endpoints": [], "pid": stranger.pid}).encode())

        def log_message(self, *words: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        noted = state.ServiceState(
            pid=stranger.pid,
            create_time=state.started_at(stranger.pid) - 100,
            url=f"http://127.0.0.1:{server.server_port}",
        )
        state.write_state(noted)
        assert engine.stop_service() is False
        server.shutdown()
        thread.join()
    assert runs(stranger.pid)
    stranger.communicate()
