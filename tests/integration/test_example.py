"""examples/production.py against the real service: answers, metrics, JSON logs, a graceful end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "production.py"
LIMIT_S = 60


class Worker:
    """The script as a process, with its lines as they come."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self.logs: queue.Queue[str] = queue.Queue()
        self.threads = [
            threading.Thread(target=self._pump, args=(self.process.stdout, self.answers)),
            threading.Thread(target=self._pump, args=(self.process.stderr, self.logs)),
        ]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _pump(pipe: IO[str], lines: queue.Queue[str]) -> None:
        for line in pipe:
            lines.put(line)

    def ask(self, prompt: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(prompt + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, str]:
        return json.loads(self.answers.get(timeout=LIMIT_S))

    def log(self, word: str) -> dict[str, object]:
        """The next log line that holds a word; every line before it must be JSON too."""
        while True:
            line = self.logs.get(timeout=LIMIT_S)
            if word in line:
                return json.loads(line)
            if not line.startswith("Starting Foundry Local"):
                json.loads(line)

    def end(self) -> int:
        code = self.process.wait(LIMIT_S)
        for thread in self.threads:
            thread.join(5)
        return code


@pytest.fixture
def worker(endpoint: str) -> Iterator[Worker]:
    made = Worker("--metrics-port", "0")
    yield made
    made.process.kill()
    made.end()
    for pipe in (made.process.stdin, made.process.stdout, made.process.stderr):
        pipe.close()


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 80


def test_answers_metrics_and_logs(worker: Worker) -> None:
    url = str(worker.log("metrics at")["message"]).rpartition(" ")[2]
    worker.ask("Name three colours.")
    worker.ask("What is the capital of France?")
    assert {worker.answer()["prompt"] for _ in range(2)} == {
        "Name three colours.",
        "What is the capital of France?",
    }
    line = worker.log('"complete"')
    assert (line["outcome"], line["attempts"]) == ("ok", 1)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        text = answer.read().decode()
    assert 'operation="complete",outcome="ok"} 2.0' in text
    worker.process.stdin.close()
    assert worker.end() == 0


def test_a_bad_prompt_is_an_answer_too(worker: Worker) -> None:
    worker.ask("word " * 9000)
    worker.ask("Say hello.")
    results = [worker.answer(), worker.answer()]
    assert sorted(key for result in results for key in result if key != "prompt") == ["answer", "error"]
    worker.process.stdin.close()
    assert worker.end() == 0


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_what_is_under_way(worker: Worker, name: signal.Signals) -> None:
    worker.log("metrics at")
    worker.ask("Write a long story about a lighthouse.")
    worker.log("no model was asked for")  # the request is on its way
    for number in range(20):
        worker.ask(f"Say the number {number}.")
    worker.process.send_signal(name)
    assert worker.end() == 0
    lines = [worker.answer() for _ in range(21)]  # a line for every prompt, answered or not
    assert lines[0]["answer"]
    assert lines[-1] == {"prompt": "Say the number 19.", "error": "stopped"}  # the queue wasn't worked off


def test_a_taken_port_is_named(endpoint: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--metrics-port", "70000"],
        input="",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 1
    assert "can't be served on port 70000" in done.stderr.splitlines()[-1]
