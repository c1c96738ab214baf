"""Which CPUs a model computes on."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import psutil
import pytest
import requests
from service_tools import eventually

from foundry_lab import engine
from foundry_lab.engine import spec
from foundry_lab.engine.model import genai


@pytest.mark.skipif(sys.platform != "linux", reason="the web service pins its threads on Linux alone")
@pytest.mark.skipif(genai.usable_cpus() < 2, reason="on one CPU there is nothing to pin to")
@pytest.mark.parametrize("cpus", ["all", "last"])
def test_a_model_computes_where_its_process_may_and_nowhere_else(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, cpus: str
) -> None:
    """Also in the threads of connections, and when it was loaded over one."""
    monkeypatch.delenv(genai.THREADS, raising=False)
    before = os.sched_getaffinity(0)
    allowed = before if cpus == "all" else {max(before)}
    os.sched_setaffinity(0, allowed)  # which the service inherits, as from a hub
    try:
        endpoint = engine.ensure_service(progress=False)
    finally:
        os.sched_setaffinity(0, before)
    state = engine.service_status()
    assert state is not None
    service = psutil.Process(state.pid)

    def used_cpus() -> list[set[int]]:
        """Of each thread."""
        found = []
        for thread in service.threads():
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                found.append(os.sched_getaffinity(thread.id))
        return found

    with requests.Session() as session:
        session.trust_env = False
        for step in ("unload", "load"):
            session.get(f"{endpoint}/models/{step}/{spec.ALIAS}", timeout=30).raise_for_status()
        session.get(f"{endpoint}/status", timeout=30).raise_for_status()
        assert eventually(lambda: all(each == allowed for each in used_cpus())), used_cpus()
        assert len(used_cpus()) > 3
