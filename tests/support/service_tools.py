"""What several tests of the service process need."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests

from foundry_lab.engine import spec


def service_processes(home: Path) -> list[psutil.Process]:
    """Return the service processes of this home that are no zombies."""
    log = str(home / "run" / "service.log")
    found = []
    for process in psutil.process_iter():
        try:
            if log in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def chat(prompt: str, **options: object) -> dict[str, object]:
    """Return the body of a request for a chat completion."""
    return {"model": spec.MODEL_ID, "messages": [{"role": "user", "content": prompt}], **options}


def ask(endpoint: str, prompt: str = "What is the capital of France?") -> str:
    """Return what the service's model says, with plain requests."""
    url = f"{endpoint}/v1/chat/completions"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(url, json=chat(prompt, max_tokens=12, temperature=0), timeout=60)
        answer.raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]


def eventually(condition: Callable[[], bool], timeout: float = 60.0) -> bool:
    """Wait until the condition holds, for at most `timeout` seconds; return whether it does."""
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
