"""The examples against the real service, as a reader runs them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LIMIT_S = 60


def run(name: str, *arguments: str | Path, endpoint: str) -> str:
    """Run an example and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        env={**os.environ, "PYTHONUTF8": "1", "FOUNDRY_ENDPOINT": endpoint},
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_enough_to_copy(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40


def test_basic_usage_shows_an_answer_and_a_shape(endpoint: str) -> None:
    said = run("basic_usage.py", endpoint=endpoint)
    assert "colour" in said.lower()
    assert re.search(r"^\[\d+ tokens in \d+\.\d\d s by \S+\]$", said, re.MULTILINE)
    assert re.search(r"^\[the message is a (praise|complaint|question)\]$", said, re.MULTILINE)
    assert "[the service is healthy, with " in said


def test_streaming_stops_the_second_stream_early(endpoint: str) -> None:
    said = run("streaming.py", endpoint=endpoint)
    assert re.search(r"^\[first token after \d+\.\d\d s, then \d+ tokens/s\]$", said, re.MULTILINE)
    stopped = re.search(r"^\[stopped after (\d+) characters\]$", said, re.MULTILINE)
    assert stopped and int(stopped[1]) < 200


def test_batch_processing_goes_on_where_it_was(endpoint: str, tmp_path: Path) -> None:
    table = tmp_path / "messages.csv"
    lines = (ROOT / "notebooks" / "data" / "messages.csv").read_text("utf-8").splitlines(keepends=True)
    table.write_text("".join(lines[:7]), "utf-8")
    output = tmp_path / "verdicts.jsonl"
    assert "6 answered, 0 failed, 0 done before" in run(
        "batch_processing.py", table, output, endpoint=endpoint
    )
    table.write_text("".join(lines[:9]), "utf-8")
    said = run("batch_processing.py", table, output, endpoint=endpoint)
    assert "2 answered, 0 failed, 6 done before" in said
    counts = re.findall(r"'(?:praise|complaint|question)': (\d+)", said)
    assert sum(map(int, counts)) == len(output.read_text("utf-8").splitlines()) == 8


class Worker:
    """production.py as a process, with its lines as they come."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "production.py")],
            env={**os.environ, "METRICS_PORT": "0"},
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

    def metrics_port(self) -> int:
        """Where it serves its metrics. A port that was free before it started might be another's by now."""
        open_now = psutil.Process(self.process.pid).net_connections("tcp4")
        (port,) = [each.laddr.port for each in open_now if each.status == psutil.CONN_LISTEN]
        return port

    def end(self) -> int:
        code = self.process.wait(LIMIT_S)
        for thread in self.threads:
            thread.join(5)
        return code


@pytest.fixture
def worker(endpoint: str) -> Iterator[Worker]:
    made = Worker()
    yield made
    made.process.kill()
    made.end()
    for pipe in (made.process.stdin, made.process.stdout, made.process.stderr):
        with contextlib.suppress(BrokenPipeError):  # a prompt that nobody was there to read
            pipe.close()


def test_production_answers_logs_and_counts(worker: Worker) -> None:
    prompts = ["Name three colours.", "What is the capital of France?"]
    for prompt in prompts:
        worker.ask(prompt)
    assert [worker.answer()["prompt"] for _ in prompts] == prompts
    line = worker.log('"complete"')
    assert (line["outcome"], line["attempts"]) == ("ok", 1)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{worker.metrics_port()}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert re.search(r'operation="complete",outcome="ok"} 2\.0', text)
    worker.process.stdin.close()
    assert worker.end() == 0


def test_production_takes_a_bad_prompt_for_an_answer_too(worker: Worker) -> None:
    worker.ask("word " * 9000)
    worker.ask("Say hello.")
    assert "error" in worker.answer()
    assert "answer" in worker.answer()
    worker.process.stdin.close()
    assert worker.end() == 0


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_production_finishes_what_is_under_way_at_a_signal(worker: Worker, name: signal.Signals) -> None:
    worker.ask("Write a long story about a lighthouse.")
    worker.log("no model was asked for")  # the request is on its way
    worker.process.send_signal(name)
    with contextlib.suppress(BrokenPipeError):  # it may have ended already
        for number in range(20):  # after the signal: before it, it could rightly answer some
            worker.ask(f"Say the number {number}.")
    assert worker.end() == 0
    story = worker.answer()
    assert story["prompt"].startswith("Write a long story") and story["answer"]
    assert worker.answers.empty()


@pytest.mark.skipif(os.name != "posix", reason="a shell's pipe")
def test_production_ends_quietly_when_nobody_reads_on(endpoint: str) -> None:
    command = f'yes "Say hi." | head -50 | "{sys.executable}" examples/production.py | head -1'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "METRICS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert json.loads(done.stdout)["prompt"] == "Say hi."
    for line in done.stderr.splitlines():
        assert json.loads(line)["level"] == "INFO"
