"""examples/production.py when it ends early: no prompt is lost, no traceback, whoever is to blame."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_server import CHAT, StubService, hang

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "production.py"
LIMIT_S = 60


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


def begin(endpoint: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *options],
        env={
            **os.environ,
            "FOUNDRY_ENDPOINT": endpoint,
            "PYTHONUTF8": "1",
            "PYTHONIOENCODING": "utf-8:strict",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
    )


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to catch")
def test_a_signal_names_every_prompt_it_leaves_undone(stub: StubService) -> None:
    stub.on("POST", CHAT, hang)
    prompts = [f"prompt {number}" for number in range(6)]
    worker = begin(stub.url, "--metrics-port", "0", "--grace-s", "0.2")
    assert worker.stdin is not None
    worker.stdin.write("\n".join(prompts) + "\n")
    worker.stdin.flush()
    deadline = time.monotonic() + LIMIT_S
    while stub.count("POST", CHAT) < 2 and time.monotonic() < deadline:  # both under way, four wait
        time.sleep(0.01)
    worker.send_signal(signal.SIGTERM)  # stdin stays open: its end is not what ends the worker
    worker.wait(LIMIT_S)
    out, log = worker.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted(line["prompt"] for line in lines) == prompts
    assert {line["error"] for line in lines} == {"stopped"}
    assert worker.returncode == 0
    assert "Traceback" not in log


def test_empty_lines_are_no_prompts(stub: StubService) -> None:
    out, _ = begin(stub.url, "--metrics-port", "0").communicate("one\n\n  \ntwo\n", LIMIT_S)
    assert sorted(json.loads(line)["prompt"] for line in out.splitlines()) == ["one", "two"]
    assert stub.count("POST", CHAT) == 2


def test_bytes_that_are_no_text_do_not_end_the_reading(stub: StubService) -> None:
    worker = begin(stub.url, "--metrics-port", "0")
    out, _ = worker.communicate("caf\udce9\ntwo\n", LIMIT_S)
    assert worker.returncode == 0
    assert sorted(json.loads(line)["prompt"] for line in out.splitlines()) == ["caf\ufffd", "two"]


def test_a_taken_port_ends_it_before_the_service_is_asked(stub: StubService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = begin(stub.url, "--metrics-port", str(taken.getsockname()[1]))
        _, log = worker.communicate("one\n", LIMIT_S)
    assert worker.returncode == 1
    assert log.startswith("The metrics can't be served on port") and "Traceback" not in log
    assert stub.seen == []


def test_a_setting_that_makes_no_sense_ends_it_with_its_message() -> None:
    worker = begin("not-a-url", "--metrics-port", "0")
    _, log = worker.communicate("one\n", LIMIT_S)
    assert worker.returncode == 1
    assert log.startswith("FOUNDRY_ENDPOINT='not-a-url'")
