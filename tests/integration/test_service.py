"""The life of the real service process: start, sharing, death, stop."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import requests
from service_tools import ask, chat, eventually, service_processes

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, engine
from foundry_lab.engine import paths
from foundry_lab.engine.private import own_folder
from foundry_lab.engine.service import discovery, launch, probe, state
from foundry_lab.errors import EngineError

ENSURE = "from foundry_lab import engine; print(engine.ensure_service(progress=False), flush=True)"
SERVE = "from foundry_lab import engine; engine.serve(on_ready=lambda state: print(state.url, flush=True))"
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def python(code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)


def test_four_processes_at_once_get_one_service(own_home: Path) -> None:
    """Four notebooks opened together share it."""
    callers = [python(ENSURE) for _ in range(4)]
    answers = {caller.communicate(timeout=120)[0].strip() for caller in callers}
    assert len(answers) == 1
    assert len(service_processes(own_home)) == 1
    assert ask(answers.pop())


def test_two_calls_and_two_threads_cost_one_process(own_home: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(engine.ensure_service(progress=False))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.append(engine.ensure_service(progress=False))
    assert len(found) == 3 and len(set(found)) == 1
    assert len(service_processes(own_home)) == 1


def test_a_killed_service_is_replaced(own_home: Path) -> None:
    engine.ensure_service(progress=False)
    first = engine.service_status()
    assert first is not None
    psutil.Process(first.pid).kill()
    assert eventually(lambda: engine.service_status() is None)

    endpoint = engine.ensure_service(progress=False)
    second = engine.service_status()
    assert second is not None and second.url == endpoint
    assert second.pid != first.pid
    assert ask(endpoint)


def test_a_service_that_no_longer_answers_is_replaced(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.5)
    engine.ensure_service(progress=False)
    first = engine.service_status()
    assert first is not None
    psutil.Process(first.pid).suspend()
    engine.ensure_service(progress=False)
    second = engine.service_status()
    assert second is not None and second.pid != first.pid
    assert [process.pid for process in service_processes(own_home)] == [second.pid]


def test_stop_leaves_no_process_and_no_state(own_home: Path) -> None:
    endpoint = engine.ensure_service(progress=False)
    assert engine.stop_service() is True
    assert service_processes(own_home) == []
    assert not state.state_file().exists()
    assert probe.answering_pid(endpoint) is None
    assert engine.stop_service() is False


@pytest.mark.skipif(os.name != "posix", reason="Windows names these folders in other ways")
def test_the_runtime_keeps_its_files_in_our_folder(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "user"
    user.mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(user))
    assert ask(engine.ensure_service(progress=False))
    assert engine.stop_service()
    assert list(user.rglob("*")) == []


def test_stop_ends_a_running_generation(own_home: Path) -> None:
    endpoint = engine.ensure_service(progress=False)
    body = chat("Tell a long story.", max_tokens=4000, stream=True, temperature=0)
    with requests.post(f"{endpoint}/v1/chat/completions", json=body, stream=True, timeout=60) as answer:
        next(answer.iter_lines())
        assert engine.stop_service()
    assert service_processes(own_home) == []


def test_stop_while_it_starts(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that was interrupted with Ctrl-C leaves a process; stop finds it all the same."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(discovery, "_await_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.ensure_service(progress=False)
    assert len(service_processes(own_home)) == 1
    assert engine.stop_service() is True
    assert service_processes(own_home) == []


def test_an_interrupted_start_is_taken_up(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(discovery, "_await_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.ensure_service(progress=False)
    (process,) = service_processes(own_home)
    engine.ensure_service(progress=False)
    assert service_processes(own_home) == [process]


def test_a_slow_parent_does_not_bury_its_childs_note(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service could be ready before the process that started it gets round to noting it as starting."""

    def slow(pid: int, **known: Any) -> None:
        time.sleep(3)
        state.note(pid, **known)

    monkeypatch.setattr(launch, "note", slow)
    endpoint = engine.ensure_service(progress=False)
    assert engine.control_for(endpoint) is not None


def test_a_service_that_nobody_noted_ends(own_home: Path) -> None:
    """Who started it was killed in that moment; the next one starts another."""
    own_folder(paths.run_dir())
    code = "import os; from foundry_lab.engine.service import launch\n"
    code += "launch.note = lambda *_, **__: os._exit(9); launch.launch(public_catalog=False)"
    killed = python(code)
    assert killed.communicate(timeout=60) and killed.returncode == 9
    assert eventually(lambda: service_processes(own_home) == [])
    assert ask(engine.ensure_service(progress=False))


def test_survives_the_process_that_started_it(own_home: Path) -> None:
    """A kernel restart kills the kernel's whole process group."""
    code = f"{ENSURE}; import time; time.sleep(600)"
    parent = python(code, start_new_session=True)
    assert parent.stdout is not None
    endpoint = parent.stdout.readline().strip()
    if os.name == "posix":
        os.killpg(parent.pid, signal.SIGKILL)
    else:
        parent.kill()
    parent.communicate()
    assert ask(endpoint)
    assert engine.ensure_service(progress=False) == endpoint


def test_a_garbage_state_is_as_good_as_none(own_home: Path) -> None:
    own_folder(paths.run_dir())
    state.state_file().write_bytes(b"\xff garbage \x00")
    endpoint = engine.ensure_service(progress=False)
    assert engine.control_for(endpoint) is not None


def test_the_state_of_another_process_is_stale(own_home: Path) -> None:
    """The pid was reused, here by this test: nothing but a new service will do, and nobody is killed."""
    own = psutil.Process()
    state.write_state(
        state.ServiceState(pid=own.pid, create_time=state.started_at(own.pid) - 100, url="http://127.0.0.1:1")
    )
    assert engine.stop_service() is False
    assert engine.ensure_service(progress=False) != "http://127.0.0.1:1"


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(own_home: Path, number: int) -> None:
    engine.ensure_service(progress=False)
    (process,) = service_processes(own_home)
    process.send_signal(number)
    assert eventually(lambda: service_processes(own_home) == [])
    assert not state.state_file().exists()


def test_the_web_services_own_shutdown_is_noticed_and_told(
    own_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's handler never ends; the process must all the same. Any program may have asked."""
    endpoint = engine.ensure_service(progress=False)
    with contextlib.suppress(requests.RequestException):
        requests.post(f"{endpoint}/shutdown", timeout=2)
    assert eventually(lambda: service_processes(own_home) == [])
    assert engine.service_status() is None and state.ended("shut down")
    assert engine.resume_service() is None
    assert engine.ensure_service(progress=False) != ""
    assert "shut down by a POST to its /shutdown" in caplog.text
    assert not state.ended("shut down"), "it is told once"


@pytest.mark.parametrize("client_type", [FoundryAPIClient, SyncFoundryAPIClient])
async def test_an_idle_service_stops_and_comes_back_at_the_next_request(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, client_type: type
) -> None:
    """A hub of thirty wants its memory back, and no learner wants to know."""
    monkeypatch.setenv("FOUNDRY_LAB_IDLE_STOP", "3")

    async def ask_with(client: Any) -> str:
        answer = client.complete("What is the capital of France?", max_tokens=4, temperature=0)
        return (await answer if inspect.isawaitable(answer) else answer).content

    client = client_type(timeout=120)
    first = await ask_with(client)
    (before,) = service_processes(own_home)
    assert eventually(lambda: service_processes(own_home) == [])
    assert engine.service_status() is None
    look = client.health_check()
    health = await look if inspect.isawaitable(look) else look
    assert health.status == "unavailable", "a dashboard that looks on starts nothing"
    assert service_processes(own_home) == []
    assert await ask_with(client) == first
    (after,) = service_processes(own_home)
    assert after != before
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing


def test_a_service_at_work_is_not_idle(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer that takes longer than the time it may be idle."""
    monkeypatch.setenv("FOUNDRY_LAB_IDLE_STOP", "2")
    endpoint = engine.ensure_service(progress=False)
    began = time.monotonic()
    body = chat("Tell a very long story.", max_tokens=4000, stream=True, temperature=0)
    with requests.post(f"{endpoint}/v1/chat/completions", json=body, stream=True, timeout=60) as answer:
        for _ in answer.iter_lines():
            if time.monotonic() - began > 8:
                break
        else:
            assert time.monotonic() - began > 4, "too short an answer to show anything"
    assert eventually(lambda: service_processes(own_home) == [])
    assert state.ended("idle")


@posix_only
def test_nobody_else_can_read_where_it_is(own_home: Path) -> None:
    """Who knows the address can use the service."""
    before = os.umask(0)
    try:
        endpoint = engine.ensure_service(progress=False)
    finally:
        os.umask(before)
    assert ask(endpoint)
    address = f":{endpoint.rpartition(':')[2]}".encode()
    own_home.chmod(0o755)  # as an older version made it
    for folder, folders, files in os.walk(own_home):
        folders[:] = [name for name in folders if (Path(folder) / name).stat().st_mode & 0o011]
        for file in (Path(folder) / name for name in files):
            assert address not in file.read_bytes() or not file.stat().st_mode & 0o044, file


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_service_holds_no_secret(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_API_KEY", "sesame")
    engine.ensure_service(progress=False)
    (process,) = service_processes(own_home)
    assert b"sesame" not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_a_shared_model_is_served_and_left_as_it_is(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty learners, one copy; each has a service, state and logs of his own."""
    shared = tmp_path / "shared"
    (own_home / "models").rename(shared)
    (shared / paths.model_dir().relative_to(own_home / "models") / "genai_config.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in shared.rglob("*")}
    monkeypatch.setenv("FOUNDRY_LAB_MODELS", str(shared))
    assert ask(engine.ensure_service(progress=False))
    assert {file: file.stat().st_mtime_ns for file in shared.rglob("*")} == before
    assert sum(file.lstat().st_size for file in own_home.rglob("*")) < 10_000_000


def test_serve_in_the_foreground(own_home: Path) -> None:
    server = python(SERVE)
    try:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        assert engine.ensure_service(progress=False) == endpoint
        with pytest.raises(EngineError, match=r"runs already.*foundry-lab stop"):
            engine.serve()
        assert ask(endpoint)
        if os.name == "posix":
            server.send_signal(signal.SIGINT)
        else:
            engine.stop_service()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.communicate()
    assert engine.service_status() is None


def test_a_taken_port_is_named(own_home: Path) -> None:
    """`serve` changes the environment of its process, which here is ours."""
    with socket.create_server(("127.0.0.1", 0)) as other, mock.patch.dict(os.environ):
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=f"Port {port} of 127.0.0.1 is taken"):
            engine.serve(port=port)
    assert engine.service_status() is None


def test_a_start_without_model_says_what_to_do(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's own last words reach the caller."""
    paths.model_dir().rename(own_home / "elsewhere")
    monkeypatch.setattr(discovery, "prepare_model", lambda **_: None)
    with pytest.raises(EngineError, match=r"The model isn't prepared.*foundry-lab model prepare"):
        engine.ensure_service(progress=False)
    assert service_processes(own_home) == []


def test_a_damaged_model_says_what_to_do(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = paths.model_dir() / "model.onnx"
    network.unlink()  # a hard link: writing to it would damage the others' model
    network.write_bytes(b"damaged")
    monkeypatch.setattr(discovery, "prepare_model", lambda **_: None)
    with pytest.raises(EngineError, match=r"Foundry Local didn't start.*foundry-lab model prepare --force"):
        engine.ensure_service(progress=False)


def test_progress_goes_to_stderr(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.ensure_service()
    engine.ensure_service()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("Starting Foundry Local ... ready after") == 1
