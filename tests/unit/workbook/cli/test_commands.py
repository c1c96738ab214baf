"""The commands but `run`: what they ask of the engine, what they print, how they fail."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cli_stubs import StubEngine, write_notebook
from click.testing import CliRunner, Result
from other_user import as_nobody, needs_root

import foundry_lab
from foundry_lab import workbook
from foundry_lab.engine import PreparedModel, ServiceState
from foundry_lab.errors import ConfigurationError, EngineError
from foundry_lab.workbook.cli import main


@pytest.fixture
def state() -> ServiceState:
    return ServiceState(
        pid=os.getpid(),
        create_time=0.0,
        url="http://127.0.0.1:5",
        control_token="hush-hush",
        model_id="smollm2:1",
        versions={"python": "3.11"},
        log_file="service.log",
    )


@pytest.fixture
def ready(tmp_path: Path) -> PreparedModel:
    return PreparedModel(
        model_id="smollm2-135m-instruct-generic-cpu:1",
        alias="smollm2-135m",
        path=tmp_path / "model",
        size_bytes=160 * 2**20,
    )


def call(*args: str, **kwargs: str) -> Result:
    return CliRunner().invoke(main, args, **kwargs)  # type: ignore[arg-type]


def test_status_of_nothing(engine: StubEngine) -> None:
    result = call("status")
    assert result.exit_code == 1
    assert "No service is running" in result.stdout
    assert call("status", "--json").stdout.strip() == "null"


def test_status_shows_everything_but_the_token(engine: StubEngine, state: ServiceState) -> None:
    engine.state = state
    text = call("status")
    assert text.exit_code == 0
    assert "http://127.0.0.1:5" in text.stdout
    assert "python 3.11" in text.stdout
    shown = json.loads(call("status", "--json").stdout)
    assert shown["pid"] == os.getpid()
    assert shown["memory_mib"] > 10
    assert "hush" not in text.stdout + json.dumps(shown)


def test_status_of_a_process_that_just_ended(engine: StubEngine, state: ServiceState) -> None:
    engine.state = msgspec.structs.replace(state, pid=2**22 + 1)
    assert call("status").exit_code == 0
    assert "memory_mib" not in json.loads(call("status", "--json").stdout)


def test_status_names_the_endpoint_that_clients_use_instead(
    engine: StubEngine, state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_ENDPOINT", "http://127.0.0.1:7")
    assert "attached   http://127.0.0.1:7" in call("status").stdout
    engine.state = state
    assert "http://127.0.0.1:5" in (shown := call("status").stdout) and "http://127.0.0.1:7" in shown
    assert json.loads(call("status", "--json").stdout)["url"] == "http://127.0.0.1:5"


def test_stop(engine: StubEngine, state: ServiceState) -> None:
    assert call("stop").stdout == "No service was running.\n"
    engine.state = state
    assert call("stop").stdout == "Stopped.\n"


def test_serve(engine: StubEngine, state: ServiceState, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.state = state
    assert "http://127.0.0.1:5 with smollm2:1" in call("serve", "--port", "5").stdout
    call("serve", "--public-catalog")
    monkeypatch.setenv("FOUNDRY_LAB_CATALOG", "public")
    call("serve")
    expected = ["serve port=5 public=False", "serve port=0 public=True", "serve port=0 public=True"]
    assert engine.calls == expected
    assert call("serve", "--port", "70000").exit_code == 2


def test_model_commands(engine: StubEngine, ready: PreparedModel, tmp_path: Path) -> None:
    assert "foundry-lab model prepare" in call("model", "list").stdout
    engine.models = [ready, msgspec.structs.replace(ready, alias="other", problem="model.onnx is missing")]
    assert "smollm2-135m is ready" in call("model", "prepare", "--force").stdout
    listed = call("model", "list").stdout
    assert "160 MiB" in listed
    assert "damaged: model.onnx is missing" in listed
    assert "1 MiB" in call("model", "export", str(tmp_path / "m.tar")).stdout
    assert "is ready" in call("model", "import", str(tmp_path / "m.tar")).stdout
    assert "is ready" in call("model", "import", "--trust", str(tmp_path / "m.tar")).stdout
    assert call("model", "remove", input="n\n").exit_code == 1
    assert "Removed." in call("model", "remove", "--yes").stdout
    assert engine.calls == [
        "prepare force=True",
        "export m.tar",
        "import m.tar",
        "import m.tar trust",
        "remove",
    ]


@pytest.mark.parametrize(
    "command", [["run"], ["lab"], ["stop"], ["serve"], ["model", "prepare"], ["model", "remove", "-y"]]
)
def test_an_engine_error_is_one_paragraph(
    engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    write_notebook(tmp_path / "01.ipynb", "1")
    monkeypatch.setattr(workbook, "folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    engine.error = EngineError("The disk is full. Free some.")
    result = call(*command)
    assert result.exit_code == 1
    assert result.stderr == "Error: The disk is full. Free some.\n"
    assert result.stdout == "" or command == ["lab"]  # which says first what it copied
    assert isinstance(call("--debug", *command).exception, EngineError)


@needs_root
def test_a_place_out_of_reach_is_one_paragraph(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01.ipynb", "1")
    call("run", str(notebook), "--output", str(tmp_path))  # imports what it needs, as another user may not
    said = as_nobody(lambda: call("run", str(notebook)).stderr)
    advice = "Choose another place, or get the right to it."
    assert said == f"Error: Permission denied: {notebook}. {advice}\n"
    assert as_nobody(lambda: type(call("--debug", "run", str(notebook)).exception)) == f"{PermissionError}"


def test_a_bad_setting_is_one_paragraph(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_TIMEOUT", "abc")
    result = call("serve")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: FOUNDRY_TIMEOUT='abc' is not a time limit.")
    assert isinstance(call("--debug", "serve").exception, ConfigurationError)


def test_new_leaves_the_solutions_to_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(tmp_path / "books" / "01.ipynb", "1")
    write_notebook(tmp_path / "books" / "solutions" / "01_solutions.ipynb", "1")
    monkeypatch.setattr(workbook, "folder", lambda: tmp_path / "books")
    call("new", str(tmp_path / "mine"))
    assert not (tmp_path / "mine" / "solutions").exists()
    call("new", str(tmp_path / "all"), "--teacher")
    assert (tmp_path / "all" / "solutions" / "01_solutions.ipynb").is_file()
    assert (tmp_path / "all" / "grading" / "source" / "01" / "01.ipynb").is_file()


def test_new_reports_what_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(tmp_path / "books" / "01.ipynb", "1")
    monkeypatch.setattr(workbook, "folder", lambda: tmp_path / "books")
    assert "1 files copied" in call("new", str(tmp_path / "mine")).stdout
    (tmp_path / "mine" / "01.ipynb").write_text("work")
    result = call("new", str(tmp_path / "mine"))
    assert result.exit_code == 0
    assert "Kept as they are, because they were changed: 01.ipynb" in result.stdout


class Jupyter:
    """Stands in for subprocess.Popen; a signal comes while it is waited for, by default a Ctrl-C."""

    code = 0
    signal = signal.SIGINT
    terminated = False

    def __init__(self, command: list[str]) -> None:
        Jupyter.command = command

    def wait(self) -> int:
        signal.raise_signal(self.signal)
        return self.code

    def terminate(self) -> None:
        Jupyter.terminated = True


@pytest.mark.parametrize("place", ["foundry_lab/_notebooks", "notebooks"], ids=["installed", "checkout"])
def test_lab_opens_the_learners_own_copy(
    engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Nobody edits inside site-packages, or changes a checkout by learning from it."""
    write_notebook(tmp_path / place / "01.ipynb", "1")
    write_notebook(tmp_path / place / "solutions" / "01_solutions.ipynb", "1")
    monkeypatch.setattr(workbook, "_PACKAGE", tmp_path / "foundry_lab")
    monkeypatch.setattr(subprocess, "Popen", Jupyter)
    monkeypatch.chdir(tmp_path)
    result = call("lab", "--no-browser", "--port", "9999")
    assert result.exit_code == 0, result.output
    copied = [path.name for path in (tmp_path / "foundry-lab-notebooks").rglob("*.ipynb")]
    assert copied == ["01.ipynb"]
    assert Jupyter.command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert Jupyter.command[3:7] == ["foundry-lab-notebooks", "--no-browser", "--port", "9999"]
    assert engine.calls == ["ensure", "stop"]


def test_lab_may_open_the_notebooks_of_a_checkout(
    engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those who write them; they are not copied onto themselves."""
    write_notebook(tmp_path / "notebooks" / "01.ipynb", "1")
    monkeypatch.setattr(workbook, "_PACKAGE", tmp_path / "foundry_lab")
    monkeypatch.setattr(subprocess, "Popen", Jupyter)
    monkeypatch.setattr(Jupyter, "code", 1)
    result = call("lab", "--folder", str(tmp_path / "notebooks"))
    assert Jupyter.command[3] == str(tmp_path / "notebooks")
    assert "copied" not in result.stdout
    assert result.exit_code == 1
    assert "JupyterLab ended with exit code 1" in result.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_ends_lab_ends_jupyterlab_and_the_service(
    engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A Ctrl-C reaches JupyterLab by itself, and it asks whether it is meant."""
    if not hasattr(signal, name):
        pytest.skip(f"this system has no {name}")
    write_notebook(tmp_path / "notebooks" / "01.ipynb", "1")
    monkeypatch.setattr(workbook, "_PACKAGE", tmp_path / "foundry_lab")
    monkeypatch.setattr(subprocess, "Popen", Jupyter)
    monkeypatch.setattr(Jupyter, "signal", getattr(signal, name))
    monkeypatch.setattr(Jupyter, "terminated", False)
    assert call("lab", "--folder", str(tmp_path / "notebooks")).exit_code == 0
    assert Jupyter.terminated == (name != "SIGINT")
    assert engine.calls == ["ensure", "stop"]


@pytest.mark.parametrize("command", [["-m", "foundry_lab", "--help"], ["-m", "foundry_lab", "model", "-h"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: foundry-lab")
    for heavy in ("nbclient", "nbconvert", "matplotlib", "psutil", "aiohttp", "foundry_local_sdk"):
        assert f" {heavy}\n" not in done.stderr


def test_old_python_is_told_what_to_do() -> None:
    code = (
        "import runpy, sys; sys.version_info = (3, 10); runpy.run_module('foundry_lab', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Foundry Lab needs Python 3.11 or newer")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_an_old_python_reads_first_parses_there(name: str) -> None:
    source = (Path(foundry_lab.__file__).parent / name).read_text(encoding="utf-8")
    assert ast.parse(source, feature_version=(3, 8))


def test_python_version_is_in_the_metadata() -> None:
    from importlib.metadata import metadata

    assert metadata("foundry-lab")["Requires-Python"] == "<3.15,>=3.11"
