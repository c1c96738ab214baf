"""A model loaded over REST computes as fast as the one loaded at the start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
import requests
from service_tools import ask, eventually

from foundry_lab import engine
from foundry_lab.engine import spec
from foundry_lab.engine.model import genai


@pytest.mark.skipif(sys.platform != "linux", reason="the web service pins its threads on Linux alone")
@pytest.mark.skipif(genai.usable_cpus() < 2, reason="on one CPU there is nothing to pin to")
def test_no_thread_of_the_model_is_pinned(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(genai.THREADS, raising=False)
    endpoint = engine.ensure_service(progress=False)
    for step in ("unload", "load"):
        requests.get(f"{endpoint}/models/{step}/{spec.ALIAS}", timeout=30).raise_for_status()
    assert ask(endpoint)
    state = engine.service_status()
    assert state is not None
    service = psutil.Process(state.pid)
    everywhere = os.sched_getaffinity(0)

    def nothing_pinned() -> bool:
        try:
            return all(os.sched_getaffinity(thread.id) == everywhere for thread in service.threads())
        except ProcessLookupError:  # one ended since
            return False

    assert eventually(nothing_pinned), "only the threads of connections are, and these are closed"
