"""A script that uses a client, forks, and has every process ask questions whose answers it can tell apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

SCRIPT = """
import asyncio, json, os, sys, warnings
warnings.simplefilter("ignore")  # Python 3.12 and later warn of every fork of a process with threads
from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, complete
endpoint, how, children, questions = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
options = json.loads(sys.argv[5])
client = (FoundryAPIClient if how == "async" else SyncFoundryAPIClient)(endpoint, **json.loads(sys.argv[6]))

def ask_all(who):
    asked = [f"process {who}, question {number}" for number in range(questions)]
    def check(prompt, answer):
        return [prompt, answer.content, answer.request_id]
    if how == "async":
        async def everything():
            try:
                return [check(prompt, await client.complete(prompt, **options)) for prompt in asked]
            finally:
                await client.close()
        return asyncio.run(everything())
    ask = complete if how == "one-liner" else client.complete
    if how == "stream":
        found = []
        for prompt in asked:
            stream = client.stream_complete(prompt, **options)
            text = "".join(chunk.content for chunk in stream)
            found.append([prompt, text, ""])
        return found
    return [check(prompt, ask(prompt, **options)) for prompt in asked]

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


def answers_of_forks(
    endpoint: str,
    how: str,
    *,
    children: int = 4,
    questions: int = 50,
    arguments: dict[str, Any] | None = None,
    **options: Any,
) -> list[tuple[str, str, str]]:
    """Return prompt, answer and request id of all that the forks and their parent asked, at the same time.

    Args:
        how: "sync", "async", "stream" or "one-liner". arguments: of the client. options: of each call.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-c", SCRIPT, endpoint, how, str(children), str(questions)),
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
