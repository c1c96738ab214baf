"""Each finding of `foundry-lab doctor`, made to show."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from cli_stubs import StubEngine
from click.testing import CliRunner
from other_user import NOBODY, as_nobody, needs_root, process_of_nobody, public_folder

from foundry_lab.engine import paths, private
from foundry_lab.engine.service import native, state
from foundry_lab.engine.spec import PreparedModel
from foundry_lab.errors import EngineError
from foundry_lab.workbook import doctor
from foundry_lab.workbook.cli import main

GOOD = PreparedModel(model_id="a:1", alias="a", path=Path("a"), size_bytes=2**20)
BAD = PreparedModel(
    model_id="a:1", alias="a", path=Path("a"), size_bytes=0, problem="model.onnx is cut short"
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, engine: StubEngine) -> None:
    for name in (*doctor.PROXIES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class _Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == self.server.served else 404)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(self.server.body)  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Service) as server:
        server.served, server.body = "/status", b'{"endpoints": [], "pid": 7}'  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_this_machine_can_run_the_workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real checks; only the cache and the service are stubs."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in ("python", "packages", "runtime", "kernel", "settings", "home", "loopback", "service"):
        assert f"ok    {name} " in result.output
    assert "foundry-lab model prepare" in result.output


def test_json_and_exit_code(engine: StubEngine) -> None:
    engine.models = [BAD]
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 1
    found = {check["name"]: check for check in json.loads(result.stdout)}
    assert set(found["model"]) == {"name", "status", "found", "advice"}
    assert found["model"]["status"] == "fail"
    assert len(found) == len(doctor.CHECKS)


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _check_odd_thing() -> doctor.Check:
        raise ValueError("surprise")

    monkeypatch.setattr(doctor, "CHECKS", (_check_odd_thing,))
    [check] = doctor.run_checks()
    assert (check.name, check.status, check.found) == ("odd thing", "fail", "ValueError: surprise")


def test_bad_setting_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_RETRIES", "many")
    by_name = {check.name: check for check in doctor.run_checks()}
    check = by_name["settings"]
    assert check.status == "fail" and "FOUNDRY_RETRIES='many'" in check.found
    assert check.advice == "Give a whole number from 0 (try once) to 100."


@pytest.mark.parametrize("name", ["FOUNDRY_LAB_IDLE_STOP", "FOUNDRY_LAB_THREADS"])
def test_a_setting_of_the_service_is_looked_at_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "many")
    by_name = {check.name: check for check in doctor.run_checks()}
    check = by_name["settings"]
    assert check.status == "fail" and f"{name}='many'" in check.found


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0)])
def test_python_out_of_range(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version, executable="python"))
    check = doctor._check_python()
    assert check.status == "fail"
    assert "Python 3.11 to 3.14" in check.advice


def test_platform_without_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    check = doctor._check_platform()
    assert check.status == "warn"
    assert "FOUNDRY_ENDPOINT" in check.advice


@pytest.mark.parametrize(
    ("code", "out", "error", "status", "found"),
    [
        (0, "No broken requirements found.\n", "", "ok", "No broken requirements found."),
        (1, "foundry-lab 1 requires x, which is not installed.\n", "", "fail", "requires x"),
        (1, "other 1 requires x, which is not installed.\n", "", "warn", "other 1"),
        (1, "", "python: No module named pip", "warn", "no pip"),
    ],
)
def test_what_pip_says_of_the_packages(
    monkeypatch: pytest.MonkeyPatch, code: int, out: str, error: str, status: str, found: str
) -> None:
    done = subprocess.CompletedProcess([], code, out, error)
    monkeypatch.setattr(doctor.subprocess, "run", lambda command, **kwargs: done)
    check = doctor._check_packages()
    assert check.status == status and found in check.found
    assert bool(check.advice) == (status != "ok")


def test_runtime_that_cannot_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(command: list[str], **kwargs: object) -> object:
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nImportError: libfoo.so: not found")

    monkeypatch.setattr(doctor.subprocess, "run", broken)
    check = doctor._check_runtime()
    assert (check.status, check.found) == ("fail", "ImportError: libfoo.so: not found")
    assert "force-reinstall foundry-local-sdk" in check.advice


@pytest.mark.parametrize("check", [doctor._check_runtime, doctor._check_packages])
def test_what_takes_too_long_is_no_bug_to_report(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], doctor.Check]
) -> None:
    def slow(command: list[str], timeout: float, **kwargs: object) -> object:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(doctor.subprocess, "run", slow)
    found = doctor._guarded(check)
    assert (found.status, found.found, found.advice) == ("fail", "no result within 60 s", "Try again.")


MISSING = "{}: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        (MISSING.format("libatomic.so.1"), "sudo apt-get install libatomic1"),
        (MISSING.format("libonnxruntime-genai.so"), "force-reinstall foundry-local-sdk"),
        (MISSING.format("libfoo-2.so.0.1"), "the system's package that has libfoo-2.so.0.1"),
        ("No module named 'foundry_local_sdk'", "force-reinstall foundry-local-sdk"),
    ],
)
def test_a_runtime_that_cannot_load_says_what_to_install(
    problem: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise OSError(problem)

    monkeypatch.setattr(native.importlib, "import_module", load)
    with pytest.raises(EngineError, match=r"can't be loaded") as caught:
        native.load_runtime()
    assert problem in str(caught.value) and advice in str(caught.value)
    assert not str(caught.value).endswith("."), "a command must be good to copy"


def test_the_library_that_is_behind_it_is_named() -> None:
    """The SDK goes on after the first failure, and ends with another one."""
    warned = "Failed to preload ORT: " + MISSING.format("libstdc++.so.6")
    assert native.remedy(f"{warned}\nOSError: {MISSING.format('libonnxruntime-genai.so')}").endswith(
        "libstdc++.so.6"
    )


def test_foreign_kernel_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        json.dumps({"argv": ["/opt/other/python"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = doctor._check_kernel()
    assert check.status == "warn"
    assert "/opt/other/python" in check.found
    assert "foundry-lab lab" in check.advice


def test_proxy_names_are_shown_and_values_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    check = doctor._check_proxy()
    assert check.status == "warn"
    assert "HTTPS_PROXY" in check.found
    assert "NO_PROXY=127.0.0.1,localhost" in check.advice
    assert "secret" not in repr(check)
    monkeypatch.setenv("NO_PROXY", "localhost, 127.0.0.1")
    assert doctor._check_proxy().status == "ok"


def test_home_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path / "file" / "home"))
    check = doctor._check_home()
    assert check.status == "fail"
    assert "FOUNDRY_LAB_HOME" in check.advice


@needs_root
def test_home_in_a_folder_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with public_folder() as folder:
        (folder / "closed").mkdir(mode=0o700)
        monkeypatch.setenv("FOUNDRY_LAB_HOME", str(folder / "closed" / "home"))
        assert as_nobody(lambda: doctor._guarded(doctor._check_home).found).endswith("home can't be written")


def test_disk_matters_until_the_model_is_prepared(
    engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr(psutil, "disk_usage", lambda path: Usage(free=100 * 2**20))
    assert doctor._check_home().status == "fail"
    engine.models = [GOOD]
    assert doctor._check_home().status == "ok"


def test_little_memory_is_a_warning(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory = namedtuple("Memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(available=1000 * 2**20))
    assert doctor._check_memory().status == "warn"
    engine.models = [GOOD]
    assert doctor._check_memory().status == "ok"


def test_model(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "model_parts", list)  # the stub has none
    missing = doctor._check_model()
    assert missing.status == "warn"
    assert "model import FILE" in missing.advice
    engine.models = [BAD]
    damaged = doctor._check_model()
    assert (damaged.status, damaged.found) == ("fail", "a: model.onnx is cut short")
    assert "foundry-lab model prepare --force" in damaged.advice
    engine.models = [GOOD]
    assert doctor._check_model().status == "ok"
    engine.models = []
    monkeypatch.setenv("FOUNDRY_ENDPOINT", "http://127.0.0.1:1")
    assert doctor._check_model().status == "ok"


def test_service_that_answers(
    engine: StubEngine, service: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that would swallow the call changes nothing."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    engine.state = SimpleNamespace(url=url(service), pid=7, log_file="x.log")
    check = doctor._check_service()
    assert check.status == "ok"
    assert "process 7" in check.found


def test_service_that_hangs_names_its_log(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    engine.state = SimpleNamespace(url=f"http://127.0.0.1:{port}", pid=7, log_file="x.log")
    check = doctor._check_service()
    assert check.status == "fail"
    assert "foundry-lab stop" in check.advice
    assert "x.log" in check.advice


@pytest.mark.parametrize(
    ("served", "status"), [("/status", "ok"), ("/openai/status", "ok"), ("/index.html", "fail")]
)
def test_attached_service_of_either_contract(
    service: HTTPServer, monkeypatch: pytest.MonkeyPatch, served: str, status: str
) -> None:
    service.served = served  # type: ignore[attr-defined]
    monkeypatch.setenv("FOUNDRY_ENDPOINT", url(service))
    check = doctor._guarded(doctor._check_service)
    assert check.status == status
    assert url(service) in check.found
    assert ("FOUNDRY_ENDPOINT, or unset it" in check.advice) == (status == "fail")


def test_a_named_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_ENDPOINT", "http://127.0.0.1:9")
    check = doctor._guarded(doctor._check_service)
    assert check.status == "fail" and check.found.startswith("Nobody answers at http://127.0.0.1:9 (")
    assert check.advice.startswith("Start that service, correct FOUNDRY_ENDPOINT, or unset it")


def test_another_server_is_no_service(service: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many servers answer 200 to anything."""
    service.body = b"<html>Welcome</html>"  # type: ignore[attr-defined]
    monkeypatch.setenv("FOUNDRY_ENDPOINT", url(service))
    assert doctor._guarded(doctor._check_service).status == "fail"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_home_that_others_can_change_is_told(home: Path) -> None:
    home.chmod(0o777)
    check = doctor._guarded(doctor._check_home)
    assert check.status == "fail" and "can be changed by every user" in check.found
    subprocess.run(check.advice.rpartition(": ")[2], shell=True, check=True)
    assert doctor._guarded(doctor._check_home).status == "ok"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("variable", ["FOUNDRY_LAB_HOME", "FOUNDRY_LAB_MODELS"])
def test_a_model_that_others_can_change_is_told(
    engine: StubEngine, home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The user's own, and the one that a class shares."""
    if variable == "FOUNDRY_LAB_MODELS":
        monkeypatch.setenv(variable, str(home / "models"))
    network = paths.model_dir() / "model.onnx"
    network.parent.mkdir(parents=True)
    network.touch()
    engine.models = [GOOD]
    assert doctor._guarded(doctor._check_model).status == "ok"
    network.chmod(0o666)
    check = doctor._guarded(doctor._check_model)
    assert check.status == "fail" and "model.onnx can be changed by every user" in check.found
    assert f"chmod -R go-w {network}" in check.advice


def test_an_empty_folder_of_shared_models_is_somebody_elses_to_fill(
    engine: StubEngine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`foundry-lab model prepare` refuses to write there, and nothing runs without a model."""
    monkeypatch.setenv("FOUNDRY_LAB_MODELS", str(home / "models"))
    engine.models = []
    check = doctor._guarded(doctor._check_model)
    assert check.status == "fail" and str(home / "models") in check.found
    assert check.advice.startswith("Ask who looks after") and "prepare" not in check.advice


@needs_root
@pytest.mark.parametrize(("shared", "status"), [(False, "fail"), (True, "ok")])
def test_a_shared_model_may_be_another_users(
    engine: StubEngine, home: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, status: str
) -> None:
    """Somebody was chosen to look after it."""
    if shared:
        monkeypatch.setenv("FOUNDRY_LAB_MODELS", str(home / "models"))
    paths.model_dir().mkdir(parents=True)
    os.chown(paths.model_dir(), NOBODY, NOBODY)
    engine.models = [GOOD]
    check = doctor._guarded(doctor._check_model)
    assert check.status == status
    assert ("FOUNDRY_LAB_HOME" in check.advice) == (status == "fail")


def test_a_bad_time_of_idleness_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_LAB_IDLE_STOP", "soon")
    by_name = {check.name: check for check in doctor.run_checks()}
    assert by_name["settings"].status == "fail"
    assert "FOUNDRY_LAB_IDLE_STOP='soon'" in by_name["settings"].found
    assert "positive number of seconds" in by_name["settings"].advice


def test_a_service_that_was_shut_down_from_outside_is_told(home: Path) -> None:
    state.write_state(state.ServiceState(pid=1, create_time=0.5, ended="shut down"))
    assert "POST to its /shutdown, which any program" in doctor._check_service().found
    state.write_state(state.ServiceState(pid=1, create_time=0.5, ended="idle"))
    assert "POST" not in doctor._check_service().found


def test_other_users_are_told_what_they_could_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_other_users", lambda: {"ann", "ben", "cleo", "dan"})
    check = doctor._check_other_users()
    assert check.status == "warn" and "ann, ben, cleo and others" in check.found
    for word in ("generate", "unload", "shut it down", "container"):
        assert word in check.advice
    monkeypatch.setattr(doctor, "_other_users", set)
    assert doctor._check_other_users().status == "ok"
    monkeypatch.setenv("JUPYTERHUB_USER", "ann")
    assert "JupyterHub" in doctor._check_other_users().found


@needs_root
def test_another_user_with_a_process_is_seen() -> None:
    number = 10_000 + os.getpid() % 40_000  # not that of another run of the tests on this machine
    assert str(number) not in doctor._other_users()
    with process_of_nobody(number):
        assert str(number) in doctor._other_users()


@needs_root
def test_the_commands_that_doctor_gives_work(tmp_path: Path) -> None:
    """In a network of the test's own: nobody else's firewall is touched."""
    if not all(map(shutil.which, ("nft", "unshare", "ip"))) or not can_unshare():
        pytest.skip("no nft, unshare or ip, or no right to use them")
    rule = doctor.FIREWALL.removeprefix("sudo ").replace("{ 0, 0 }", f"{{ 0, {NOBODY} }}")
    script = tmp_path / "try.sh"
    script.write_text(f"""ip link set lo up
{rule}
{sys.executable} -c '
import os, socket
server = socket.create_server(("127.0.0.1", 41001))
for user in (0, {NOBODY}, 54321):
    if not (child := os.fork()):
        os.setuid(user)
        try:
            socket.socket().connect(server.getsockname())
        except OSError:
            os._exit(1)
        os._exit(0)
    print(user, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'""")
    done = subprocess.run(["unshare", "-n", "sh", str(script)], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["0 0", f"{NOBODY} 0", "54321 1"], done.stderr
    own_network = doctor.OWN_NETWORK.replace("foundry-lab run", "ip -brief address show up")
    done = subprocess.run(own_network, shell=True, capture_output=True, text=True, check=True)
    assert "127.0.0.1/8" in done.stdout and len(done.stdout.splitlines()) == 1


def can_unshare() -> bool:
    return all(not subprocess.run(["unshare", options, "true"]).returncode for options in ("-n", "-Urn"))
