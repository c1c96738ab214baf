"""What a client costs: CPU and wall time of one request and of one streamed chunk, and of the import.

    python -m benchmarks.client_cost [--rounds 15] [--json FILE]

Every client asks the same stub, which runs in another process and answers with bodies measured on
foundry-local-sdk 2.2.1. The clients take turns within each round, in any order; the medians of the
rounds count, and of the ratios within each round, so that a busy machine spoils no comparison. Each does
what it does by default: foundry_lab with retries, deadline, circuit breaker and metrics; openai with its
retries and time limits; the bare libraries with nothing. A burst brings many events a read; a paced stream
one, as from a model that writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import openai
import requests

from benchmarks import stub_process
from benchmarks.stub_process import BURST_CHUNKS, MODEL, PACED, PACED_CHUNKS
from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient

MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]
CHAT = "/v1/chat/completions"
REQUESTS = 100  # a round
OPTIONS: dict[str, Any] = {"max_tokens": 40, "temperature": 0}


class AsyncSubject(ABC):
    """One async client under test."""

    runner: asyncio.Runner

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self.connect())

    def close(self) -> None:
        self.runner.run(self.disconnect())
        self.runner.close()

    def requests(self, number: int) -> int:
        async def ask() -> int:
            return sum([await self.complete() for _ in range(number)])

        return self.runner.run(ask())

    def streamed(self, model: str) -> int:
        return self.runner.run(self.stream(model))

    @abstractmethod
    async def connect(self) -> None: ...
    @abstractmethod
    async def disconnect(self) -> None: ...
    @abstractmethod
    async def complete(self) -> int:
        """Ask once; return the length of the text."""

    @abstractmethod
    async def stream(self, model: str) -> int:
        """Ask for a stream; return the number of chunks with text."""


class BareAiohttp(AsyncSubject):
    async def connect(self) -> None:
        self.session = aiohttp.ClientSession()

    async def disconnect(self) -> None:
        await self.session.close()

    async def complete(self) -> int:
        body = {"model": MODEL, "messages": MESSAGES, **OPTIONS}
        async with self.session.post(self.url + CHAT, json=body) as response:
            answer = await response.json()
        return len(answer["choices"][0]["message"]["content"])

    async def stream(self, model: str) -> int:
        chunks = 0
        body = {"model": model, "messages": MESSAGES, "stream": True, **OPTIONS}
        async with self.session.post(self.url + CHAT, json=body) as response:
            async for line in response.content:
                if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        chunks += 1
        return chunks


class LabAsync(AsyncSubject):
    async def connect(self) -> None:
        self.client = FoundryAPIClient(self.url)

    async def disconnect(self) -> None:
        await self.client.close()

    async def complete(self) -> int:
        return len((await self.client.complete(messages=MESSAGES, model=MODEL, **OPTIONS)).content)

    async def stream(self, model: str) -> int:
        chunks = 0
        async for chunk in self.client.stream_complete(messages=MESSAGES, model=model, **OPTIONS):
            if chunk.content:
                chunks += 1
        return chunks


class OpenAIAsync(AsyncSubject):
    async def connect(self) -> None:
        self.client = openai.AsyncOpenAI(base_url=self.url + "/v1", api_key="none")

    async def disconnect(self) -> None:
        await self.client.close()

    async def complete(self) -> int:
        answer = await self.client.chat.completions.create(model=MODEL, messages=MESSAGES, **OPTIONS)
        return len(answer.choices[0].message.content or "")

    async def stream(self, model: str) -> int:
        chunks = 0
        stream = await self.client.chat.completions.create(
            model=model, messages=MESSAGES, stream=True, **OPTIONS
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                chunks += 1
        return chunks


class SyncSubject(ABC):
    """One sync client under test."""

    def __init__(self, url: str) -> None:
        self.url = url

    def requests(self, number: int) -> int:
        return sum([self.complete() for _ in range(number)])

    @abstractmethod
    def open(self) -> None: ...
    @abstractmethod
    def close(self) -> None: ...
    @abstractmethod
    def complete(self) -> int:
        """Ask once; return the length of the text."""

    @abstractmethod
    def streamed(self, model: str) -> int:
        """Ask for a stream; return the number of chunks with text."""


class BareRequests(SyncSubject):
    def open(self) -> None:
        self.session = requests.Session()

    def close(self) -> None:
        self.session.close()

    def complete(self) -> int:
        body = {"model": MODEL, "messages": MESSAGES, **OPTIONS}
        answer = self.session.post(self.url + CHAT, json=body).json()
        return len(answer["choices"][0]["message"]["content"])

    def streamed(self, model: str) -> int:
        chunks = 0
        body = {"model": model, "messages": MESSAGES, "stream": True, **OPTIONS}
        with self.session.post(self.url + CHAT, json=body, stream=True) as response:
            for line in response.iter_lines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        chunks += 1
        return chunks


class LabSync(SyncSubject):
    def open(self) -> None:
        self.client = SyncFoundryAPIClient(self.url)

    def close(self) -> None:
        self.client.close()

    def complete(self) -> int:
        return len(self.client.complete(messages=MESSAGES, model=MODEL, **OPTIONS).content)

    def streamed(self, model: str) -> int:
        chunks = 0
        for chunk in self.client.stream_complete(messages=MESSAGES, model=model, **OPTIONS):
            if chunk.content:
                chunks += 1
        return chunks


class OpenAISync(SyncSubject):
    def open(self) -> None:
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none")

    def close(self) -> None:
        self.client.close()

    def complete(self) -> int:
        answer = self.client.chat.completions.create(model=MODEL, messages=MESSAGES, **OPTIONS)
        return len(answer.choices[0].message.content or "")

    def streamed(self, model: str) -> int:
        chunks = 0
        stream = self.client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **OPTIONS)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                chunks += 1
        return chunks


SUBJECTS: dict[str, type[AsyncSubject] | type[SyncSubject]] = {
    "aiohttp + json": BareAiohttp,
    "FoundryAPIClient": LabAsync,
    "openai.AsyncOpenAI": OpenAIAsync,
    "requests + json": BareRequests,
    "SyncFoundryAPIClient": LabSync,
    "openai.OpenAI": OpenAISync,
}
IMPORTS = {
    "foundry_lab": "import foundry_lab",
    "foundry_lab, async client": "from foundry_lab import FoundryAPIClient",
    "foundry_lab, sync client": "from foundry_lab import SyncFoundryAPIClient",
    "aiohttp": "import aiohttp",
    "requests": "import requests",
    "openai": "import openai",
}


def costs(work: Callable[[], int], expected: int, units: int) -> tuple[float, float]:
    """Return CPU and wall microseconds a unit of some work, which must give what is expected."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if result != expected:
        raise SystemExit(f"{work} gave {result}, not {expected}: the clients don't do the same work.")
    return cpu / units * 1e6, wall / units * 1e6


Samples = dict[str, dict[str, list[float]]]
"""Microseconds by client, kind of work and round."""


def measure_calls(url: str, rounds: int) -> Samples:
    """Return what each client took."""
    subjects = {name: kind(url) for name, kind in SUBJECTS.items()}
    samples: Samples = {name: defaultdict(list) for name in subjects}
    names = list(subjects)
    for subject in subjects.values():
        subject.open()
        subject.requests(20)
        subject.streamed(MODEL)
    length = subjects[names[0]].requests(1)
    for _ in range(rounds):
        for name in random.sample(names, len(names)):  # who comes before has an effect, too
            subject = subjects[name]
            for what, (cpu, wall) in {
                "request": costs(lambda: subject.requests(REQUESTS), length * REQUESTS, REQUESTS),  # noqa: B023
                "chunk": costs(lambda: subject.streamed(MODEL), BURST_CHUNKS, BURST_CHUNKS),  # noqa: B023
                "paced": costs(lambda: subject.streamed(PACED), PACED_CHUNKS, PACED_CHUNKS),  # noqa: B023
            }.items():
                samples[name][f"{what}_cpu_us"].append(cpu)
                samples[name][f"{what}_wall_us"].append(wall)
    for subject in subjects.values():
        subject.close()
    return samples


def measure_imports(rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each import, the interpreter's own start taken off."""
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, code in {"nothing": "pass", **IMPORTS}.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            samples[name].append((time.perf_counter() - began) * 1e3)
    start = statistics.median(samples.pop("nothing"))
    return {name: statistics.median(values) - start for name, values in samples.items()}


def ratios(calls: Samples, imports: dict[str, float]) -> dict[str, float]:
    """Return what the project promises, as ratios."""
    bare, ours, theirs = calls["aiohttp + json"], calls["FoundryAPIClient"], calls["openai.AsyncOpenAI"]
    plain, blocking = calls["requests + json"], calls["SyncFoundryAPIClient"]

    def ratio(one: dict[str, list[float]], other: dict[str, list[float]], what: str) -> float:
        return statistics.median(a / b for a, b in zip(one[what], other[what], strict=True))

    return {
        "complete(), of bare aiohttp + json": ratio(ours, bare, "request_cpu_us"),
        "AsyncOpenAI's request, of complete()": ratio(theirs, ours, "request_cpu_us"),
        "a chunk, of a bare aiohttp line loop": ratio(ours, bare, "chunk_cpu_us"),
        "AsyncOpenAI's chunk, of ours": ratio(theirs, ours, "chunk_cpu_us"),
        "the sync client's request, of requests + json": ratio(blocking, plain, "request_cpu_us"),
        "import foundry_lab, of import openai": imports["foundry_lab"] / imports["openai"],
    }


def medians(calls: Samples) -> dict[str, dict[str, float]]:
    """Return one figure for each client and kind of work."""
    return {
        name: {what: statistics.median(values) for what, values in kinds.items()}
        for name, kinds in calls.items()
    }


def table(calls: Samples, imports: dict[str, float]) -> str:
    """Return the figures as a Markdown table."""
    columns = ["request_cpu_us", "request_wall_us", "chunk_cpu_us", "chunk_wall_us", "paced_cpu_us"]
    heads = ["request, CPU µs", "request, wall µs", "chunk, CPU µs", "chunk, wall µs", "paced chunk, CPU µs"]
    lines = [
        f"| client | {' | '.join(heads)} |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {name} | " + " | ".join(f"{figures[column]:.1f}" for column in columns) + " |"
            for name, figures in medians(calls).items()
        ),
        "",
        "| import | ms |",
        "|---|--:|",
        *(f"| {name} | {milliseconds:.0f} |" for name, milliseconds in imports.items()),
        "",
        "| ratio | |",
        "|---|--:|",
        *(f"| {name} | {value:.2f} |" for name, value in ratios(calls, imports).items()),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with stub_process.running() as url:
        calls = measure_calls(url, arguments.rounds)
    imports = measure_imports(max(3, arguments.rounds // 2))
    print(table(calls, imports))
    if arguments.json:
        report = {
            "versions": {name: version(name) for name in ("aiohttp", "foundry-lab", "openai", "requests")},
            "python": platform.python_version(),
            "rounds": arguments.rounds,
            "calls": medians(calls),
            "import_ms": imports,
            "ratios": ratios(calls, imports),
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
