"""Forks: a child that does something and tells of it, and processes that ask questions side by side."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

SCRIPT = """
import asyncio, json, os, sys, warnings, zlib
warnings.simplefilter("ignore")  # Python 3.12 and later warn of every fork of a process with threads
from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, complete
endpoint, how = sys.argv[1:3]
children, questions, distinct = map(int, sys.argv[3:6])
options = json.loads(sys.argv[6])
client = (FoundryAPIClient if how == "async" else SyncFoundryAPIClient)(endpoint, **json.loads(sys.argv[7]))

def ask_all(who):
    asked = [f"process {who}, question {number % distinct}" for number in range(questions)]
    def check(prompt, answer):
        return [prompt, answer.content, answer.request_id]
    def chosen(prompt):
        return options | ({"seed": zlib.crc32(prompt.encode()) >> 1} if options.get("temperature") else {})
    if how == "async":
        async def everything():
            try:
                return [check(prompt, await client.complete(prompt, **chosen(prompt))) for prompt in asked]
            finally:
                await client.close()
        return asyncio.run(everything())
    ask = complete if how == "one-liner" else client.complete
    if how == "stream":
        found = []
        for prompt in asked:
            stream = client.stream_complete(prompt, **chosen(prompt))
            text = "".join(chunk.content for chunk in stream)
            found.append([prompt, text, ""])
        return found
    return [check(prompt, ask(prompt, **chosen(prompt))) for prompt in asked]

ask_all("before")
pipes = []
for child in range(children):
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        with os.fdopen(write, "w") as out:
            json.dump(ask_all(child), out)
        sys.exit()  # an ordinary end, so that a child's goodbye to its parent's connections would show
    os.close(write)
    pipes.append(read)
answers = ask_all("parent")
for read in pipes:
    with os.fdopen(read) as found:
        answers += json.load(found)
print(json.dumps(answers))
"""


@contextlib.contextmanager
def child_that(does: Callable[[], object], limit_s: float = 60.0) -> Iterator[object]:
    """Fork; yield what `does` returned in the child, as JSON. The child lives as long as the block."""
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 and later warn of every fork of a process with threads
        child = os.fork()
    if child == 0:
        signal.alarm(int(limit_s))  # a child that hangs at a parent's lock ends, and so does the test
        try:
            said = does()
        except BaseException as error:
            said = repr(error)
        os.write(tell, json.dumps(said).encode() + b"\n")
        time.sleep(limit_s)
        os._exit(0)
    os.close(tell)
    try:
        with os.fdopen(told) as answer:
            line = answer.readline()
        assert line, "the child hung"
        yield json.loads(line)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def seed_of(prompt: str) -> int:
    """Return a question's seed: below 2**31, as foundry-local-sdk 2.2.1 ignores seeds above."""
    return zlib.crc32(prompt.encode()) >> 1


def answers_of_forks(
    endpoint: str,
    how: str,
    *,
    children: int = 4,
    questions: int = 50,
    distinct: int | None = None,
    arguments: dict[str, Any] | None = None,
    **options: Any,
) -> list[tuple[str, str, str]]:
    """Return prompt, answer and request id of all that the forks and their parent asked, at the same time.

    Args:
        how: "sync", "async", "stream" or "one-liner".
        questions: of each process; `distinct` of them differ, all if not given, and the rest repeats them.
        arguments: of the client.
        options: of each call. With a temperature each question has a seed of its own, as `seed_of` says.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-c", SCRIPT, endpoint, how),
            *(str(children), str(questions), str(distinct or questions)),
            *(json.dumps(options), json.dumps(arguments or {})),
        ],
        env={**os.environ, "FOUNDRY_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [(prompt, answer, request_id) for prompt, answer, request_id in json.loads(done.stdout)]
