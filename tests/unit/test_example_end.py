"""examples/production.py when it ends early: nothing half done, no traceback, whoever is to blame."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stub_server import CHAT, StubService, hang

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "production.py"
LIMIT_S = 60
POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to catch")


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


def begin(endpoint: str, **environment: str) -> subprocess.Popen[str]:
    utf8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    settings = {"FOUNDRY_ENDPOINT": endpoint, "METRICS_PORT": "0", **environment}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, **utf8, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
    )


def wait_for(stub: StubService, requests: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while stub.count("POST", CHAT) < requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stub.count("POST", CHAT) == requests


def wait_until_at_rest(worker: subprocess.Popen[str]) -> None:
    """Until it waits for a prompt. Python may not see a signal that comes just before it begins to read."""
    process, used, before = psutil.Process(worker.pid), 0.0, -1.0
    deadline = time.monotonic() + LIMIT_S
    while used != before and time.monotonic() < deadline:
        before = used
        time.sleep(0.3)
        used = sum(process.cpu_times()[:2])


@POSIX_ONLY
def test_a_signal_lets_the_deadline_end_what_hangs_and_begins_nothing_more(stub: StubService) -> None:
    worker = begin(stub.url, FOUNDRY_TIMEOUT="2")
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("zero\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["answer"]  # the deadline isn't for finding the model
    stub.on("POST", CHAT, hang)
    worker.stdin.write("one\n")
    worker.stdin.flush()
    wait_for(stub, 2)
    worker.send_signal(signal.SIGTERM)  # stdin stays open: its end is not what ends the worker
    # After the signal: where this process was kept from sending it in time, the deadline came first, and the
    # worker would rightly have begun the next prompt.
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write("two\nthree\n")
        worker.stdin.flush()
    worker.wait(LIMIT_S)
    out, log = worker.communicate()
    [line] = [json.loads(line) for line in out.splitlines()]
    assert line["prompt"] == "one" and "error" in line
    assert worker.returncode == 0
    asked = [(each.headers["x-request-id"], each.body) for each in stub.seen if each.path == CHAT]
    assert len(asked) == 2 and b'"one"' in asked[1][1], f"{asked}\n{log}"
    assert "Traceback" not in log


@POSIX_ONLY
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_that_waits_for_a_prompt(stub: StubService, name: signal.Signals) -> None:
    worker = begin(stub.url)
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("one\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["prompt"] == "one"
    wait_until_at_rest(worker)
    worker.send_signal(name)
    worker.wait(LIMIT_S)
    out, log = worker.communicate()
    assert (worker.returncode, out) == (0, "")
    assert "Traceback" not in log


@POSIX_ONLY
def test_a_reader_that_has_enough_ends_it_quietly(stub: StubService) -> None:
    """As behind `| head -1`: Python would complain twice, of the write and at its exit."""
    worker = begin(stub.url)
    assert worker.stdin is not None and worker.stdout is not None and worker.stderr is not None
    worker.stdin.write("\n".join(["prompt"] * 100))
    worker.stdin.close()
    assert json.loads(worker.stdout.readline())["prompt"] == "prompt"
    worker.stdout.close()
    log = worker.stderr.read()
    worker.stderr.close()
    assert worker.wait(LIMIT_S) == 0
    assert stub.count("POST", CHAT) < 100
    for line in log.splitlines():
        assert json.loads(line)["level"] == "INFO"


def test_empty_lines_are_no_prompts(stub: StubService) -> None:
    out, _ = begin(stub.url).communicate("one\n\n  \ntwo\n", LIMIT_S)
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["one", "two"]
    assert stub.count("POST", CHAT) == 2


def test_bytes_that_are_no_text_do_not_end_the_reading(stub: StubService) -> None:
    worker = begin(stub.url)
    out, _ = worker.communicate("caf\udce9\ntwo\n", LIMIT_S)
    assert worker.returncode == 0
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["caf\ufffd", "two"]


def test_a_taken_port_ends_it_before_the_service_is_asked(stub: StubService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = begin(stub.url, METRICS_PORT=str(taken.getsockname()[1]))
        _, log = worker.communicate("one\n", LIMIT_S)
    assert worker.returncode == 1
    assert log.startswith("The metrics can't be served on port") and "Traceback" not in log
    assert stub.seen == []


def test_a_setting_that_makes_no_sense_ends_it_with_its_message() -> None:
    worker = begin("not-a-url")
    _, log = worker.communicate("one\n", LIMIT_S)
    assert worker.returncode == 1
    assert log.startswith("FOUNDRY_ENDPOINT='not-a-url'")
