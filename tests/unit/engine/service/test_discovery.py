"""Finding a service: who answers, what the foundry command says, why a start failed. Nothing is started."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from processes import runs
from raw_server import RawServer, floods

from foundry_lab import Settings, engine
from foundry_lab.engine import paths
from foundry_lab.engine.private import own_folder
from foundry_lab.engine.service import discovery, foundry_cli, launch, probe, state
from foundry_lab.errors import ConfigurationError, EngineError, ServiceUnavailableError

CURRENT = b'{"endpoints":["http://127.0.0.1:1"],"modelCachePath":"/models","pid":4711}'
LEGACY = b'{"Endpoints":["http://127.0.0.1:1"],"ModelDirPath":"/models","PipeName":"x"}'


@contextmanager
def answering(
    routes: dict[str, tuple[int, bytes]], *, delay_s: float = 0, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A loopback server that answers these routes with a status and a body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = routes.get(self.path, (404, b"<html>No such page</html>"))
            self.send_response(status)
            self.end_headers()
            for start in range(len(body)):
                self.wfile.write(body[start : start + 1])
                time.sleep(delay_s)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Catch the start of the embedded service; the list tells with which catalog."""
    starts: list[bool] = []

    def start(*, public_catalog: bool, progress: bool) -> state.ServiceState:
        starts.append(public_catalog)
        return state.ServiceState(pid=1, create_time=0, url="http://embedded")

    monkeypatch.setattr(discovery, "_start", start)
    monkeypatch.setattr(discovery, "prepare_model", lambda **_: None)
    return starts


@pytest.mark.parametrize(("route", "body"), [("/status", CURRENT), ("/openai/status", LEGACY)])
def test_both_contracts_are_known(route: str, body: bytes) -> None:
    with answering({route: (200, body)}) as url:
        probe.check_foundry_local(url)
        assert probe.answering_pid(url) == (4711 if route == "/status" else None)


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ({}, "answered 404"),
        ({"/status": (200, b"<html>Welcome to nginx</html>")}, "answered 404"),
        ({"/openai/status": (200, b"<html>Welcome to nginx</html>")}, "Welcome to nginx"),
        ({"/status": (200, b'{"ok": true}'), "/openai/status": (200, b"[1]")}, "[1]"),
        ({"/status": (500, CURRENT)}, "answered 404"),
        ({"/openai/status": (200, b"\xff\xfe\x00")}, "answered 200"),
        ({"/openai/status": (200, b"[" * 4000)}, "answered 200"),  # too deep to read
    ],
)
def test_another_server_is_refused_with_what_it_said(routes: dict[str, tuple[int, bytes]], said: str) -> None:
    with answering(routes) as url, pytest.raises(EngineError) as caught:
        engine.ensure_service(Settings(endpoint=url))
    message = str(caught.value)
    assert url in message and "is not Foundry Local" in message and said in message
    assert "FOUNDRY_ENDPOINT" in message


def test_a_gateway_that_wants_a_key_may_be_one() -> None:
    with answering({"/status": (401, b"")}) as url:
        assert engine.ensure_service(Settings(endpoint=url)) == url


def test_nobody_at_the_endpoint() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"refused.*FOUNDRY_ENDPOINT"):
        engine.ensure_service(Settings(endpoint=f"http://127.0.0.1:{free_port()}"))


def test_https_where_plain_http_is_spoken() -> None:
    """Somebody answers there, and a service that is started would change nothing."""
    with answering({"/status": (200, CURRENT)}) as url, pytest.raises(EngineError) as caught:
        engine.ensure_service(Settings(endpoint=url.replace("http:", "https:")))
    assert "WRONG_VERSION_NUMBER" in str(caught.value) and "speaks plain HTTP" in str(caught.value)


def test_a_certificate_of_an_unknown_authority() -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with (
        answering({"/status": (200, CURRENT)}, tls=context) as url,
        pytest.raises(EngineError, match=r"isn't trusted.*CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"),
    ):
        engine.ensure_service(Settings(endpoint=url))


@pytest.mark.parametrize("port", [99_999, -1, 1.5, "80", None])
def test_a_port_that_cannot_be_is_told(port: Any) -> None:
    """Foundry Local would take what is left of it after 65,536."""
    with pytest.raises(ConfigurationError, match=r"port=.* must be a whole number from 1 to 65535, or 0"):
        engine.serve(port=port)


def test_what_cannot_serve_here_leaves_the_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals are the main thread's."""
    monkeypatch.setattr(discovery, "prepare_model", lambda: None)
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor() as threads, pytest.raises(RuntimeError, match="main thread"):
            threads.submit(engine.serve).result()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert state.live_state() is None


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5"])
def test_threads_that_are_none_are_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, started: list[bool], value: str
) -> None:
    """The service's process was started to say so, and it was an EngineError."""
    monkeypatch.setenv("FOUNDRY_LAB_THREADS", value)
    with pytest.raises(ConfigurationError, match="FOUNDRY_LAB_THREADS="):
        discovery.ensure_service()
    assert not started


def test_settings_that_are_none_are_told() -> None:
    with pytest.raises(ConfigurationError, match="settings is a str"):
        discovery.ensure_service("http://127.0.0.1:5273")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", ["soon", None, -1, float("nan")])
def test_a_time_to_stop_that_is_none_is_told(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"timeout=.* must be 0 or more seconds"):
        engine.stop_service(timeout)


def test_a_server_that_trickles_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.3)
    with answering({"/status": (200, CURRENT * 3)}, delay_s=0.02) as url:
        assert probe.answering_pid(url) is None


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_server_that_floods_does_not_hang_us(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    """Python's own reader goes on for ever where one "100 Continue" follows the other."""
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.3)
    with RawServer(floods(head, b"HTTP/1.1 100 Continue\r\n\r\n" * 2600), path=None) as server:
        assert probe.answering_pid(server.url) is None


def test_an_answer_without_end_does_not_fill_the_memory() -> None:
    with answering({"/status": (200, b"x" * 3 * probe.MAX_BODY)}) as url:
        assert probe.answering_pid(url) is None


def test_a_service_can_be_asked_when_python_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `atexit.register(stop_service)` does; Python 3.12 starts no threads then."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with answering({"/status": (200, CURRENT)}) as url:
        monkeypatch.setattr(threading.Timer, "start", refuse)
        assert probe.answering_pid(url) == 4711


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with answering({"/status": (200, CURRENT)}) as url:
        assert probe.answering_pid(url) == 4711


@pytest.mark.parametrize(
    ("output", "endpoint"),
    [
        ("🟢 Service is Started on http://127.0.0.1:50920/, PID 78399!\n", "http://127.0.0.1:50920"),
        (
            "🟢 Model management service is running on http://127.0.0.1:50920/openai/status\n",
            "http://127.0.0.1:50920",
        ),
        (
            "Model management service is running on http://localhost:5273/openai/status",
            "http://localhost:5273",
        ),
        ("🔴 Model management service is not running!\nTo start the service: foundry service start", None),
        ("see https://aka.ms/foundry-local-docs and http://10.0.0.1:5273/", None),
        ("", None),
    ],
)
def test_what_the_foundry_command_prints(output: str, endpoint: str | None) -> None:
    assert foundry_cli.parse_endpoint(output) == endpoint


Install = Callable[[str], None]


@pytest.fixture
def install(home: Path) -> Install:
    """Put a stub of the `foundry` command on the PATH that runs this Python code."""
    if os.name != "posix":
        pytest.skip("a script with a #! line")

    def write(code: str) -> None:
        (home / "bin").mkdir()
        script = home / "bin" / "foundry"
        script.write_text(f"#!{sys.executable}\nimport os, subprocess, sys, time\n{code}\n")
        script.chmod(0o755)

    return write


def test_the_foundry_commands_service_is_found(
    install: Install, started: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foundry_cli, "STATUS_TIMEOUT_S", 60.0)
    with answering({"/openai/status": (200, LEGACY)}) as url:
        install(f"assert sys.argv[1:] == ['service', 'status']; print('running on {url}/openai/status')")
        assert engine.ensure_service() == url
    assert started == []


def test_one_that_no_longer_answers_is_not_taken(install: Install, started: list[bool]) -> None:
    install(f"print('running on http://127.0.0.1:{free_port()}/openai/status')")
    assert engine.ensure_service() == "http://embedded"


def test_a_foundry_command_that_hangs_is_killed_with_its_children(install: Install, home: Path) -> None:
    install("")
    shell = f"/bin/sleep 600 &\necho $$ $! > '{home / 'pids'}'\n/bin/sleep 600\n"
    (home / "bin" / "foundry").write_text(f"#!/bin/sh\n{shell}")  # it starts sooner than Python
    assert foundry_cli.running_endpoint() is None
    pids = [int(pid) for pid in (home / "pids").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)  # the kernel ends a killed process in its own time
    assert not any(map(runs, pids))


def test_a_foundry_command_that_cannot_run_is_none(install: Install, home: Path) -> None:
    install("")
    (home / "bin" / "foundry").write_text("#!/no/such/interpreter\n")
    assert foundry_cli.running_endpoint() is None


def test_without_the_command_the_embedded_service_starts(started: list[bool]) -> None:
    assert engine.ensure_service() == "http://embedded"
    assert engine.ensure_service(Settings(catalog="public")) == "http://embedded"
    assert started == [False, True]


def test_a_running_lab_service_comes_before_the_command(install: Install, started: list[bool]) -> None:
    own = psutil.Process()
    status = json.dumps({"endpoints": [], "pid": own.pid}).encode()
    install("print('running on http://127.0.0.1:1/')")
    with answering({"/status": (200, status)}) as url:
        state.note(own.pid, url=url)
        assert engine.ensure_service() == url
        assert engine.control_for(url) is not None
    assert started == []


def test_a_running_service_without_the_public_catalog_is_told(
    started: list[bool], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a notebook too, where the log is quiet: else the model that is missed would seem not to exist."""
    own = psutil.Process()
    status = json.dumps({"endpoints": [], "pid": own.pid}).encode()
    with answering({"/status": (200, status)}) as url:
        state.note(own.pid, url=url)
        assert engine.ensure_service(Settings(catalog="public")) == url
        assert "without Microsoft's catalog" in capsys.readouterr().err and not caplog.text
        assert engine.ensure_service(Settings(catalog="public"), progress=False) == url
        assert "without Microsoft's catalog" in caplog.text and not capsys.readouterr().err


def test_a_service_that_is_starting_is_not_running_yet() -> None:
    own = psutil.Process()
    state.note(own.pid)
    assert engine.service_status() is None
    assert state.state_file().exists()


def test_a_lock_that_is_never_released_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "LOCK_TIMEOUT_S", 0.1)
    with discovery._lock(), pytest.raises(EngineError, match=r"Another process.*service\.lock"):
        engine.stop_service()


def test_why_a_start_failed_is_read_from_the_log() -> None:
    own_folder(paths.run_dir())
    launch.log_file().write_text("INFO x\nTraceback\nfoundry-lab: The disk is full. Free some.\n[info] bye\n")
    assert str(launch.failure("It ended.")) == "The disk is full. Free some."


def test_a_crash_shows_the_end_of_the_log() -> None:
    own_folder(paths.run_dir())
    launch.log_file().write_text(
        "".join(f"line {number}\n" for number in range(100)) + "Segmentation fault\n"
    )
    message = str(launch.failure("It ended."))
    assert message.startswith("It ended. Check this machine with `foundry-lab doctor`.")
    assert message.endswith("line 99\nSegmentation fault")
    assert "line 90" not in message


def test_no_log_at_all_is_said() -> None:
    assert str(launch.failure("It ended.")).endswith("service.log, ends with: nothing.")


def test_the_log_of_the_service_before_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own_folder(paths.run_dir())
    launch.log_file().write_text("first")
    monkeypatch.setattr(launch, "SERVICE_MODULE", "no_such_module")
    launch.launch(public_catalog=False)
    assert launch.log_file().with_suffix(".log.1").read_text() == "first"
    assert "first" not in launch.log_file().read_text()


def test_the_service_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives longer than who started it, and a crash report shows its environment."""
    secret = ("FOUNDRY_API_KEY", "JUPYTERHUB_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "db_passwd")
    for name in secret:
        monkeypatch.setenv(name, "secret")
    environment = launch._environment()
    assert not {*environment} & {*secret} and "secret" not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]


def test_the_service_has_another_working_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is to find the same folders."""
    monkeypatch.chdir(home)
    for name in ("FOUNDRY_LAB_HOME", "FOUNDRY_LAB_MODELS"):
        monkeypatch.setenv(name, "mine")
        assert launch._environment()[name] == str(home / "mine")


def test_importing_the_engine_is_light() -> None:
    code = (
        "import sys, foundry_lab.engine as engine; before = set(sys.modules); engine.ensure_service\n"
        "heavy = {'onnx', 'gguf', 'aiohttp', 'foundry_local_sdk', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted({'requests', 'aiohttp'} & before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_every_public_name_is_there() -> None:
    for name in engine.__all__:
        assert getattr(engine, name).__name__ == name
    assert set(engine.__all__) <= set(dir(engine))
    with pytest.raises(AttributeError, match="no_such_name"):
        engine.no_such_name  # noqa: B018
