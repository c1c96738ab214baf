"""A service without work stops by itself where that is asked for."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from types import SimpleNamespace

import pytest

from foundry_lab import Settings, engine
from foundry_lab.engine.service import discovery, idle, state
from foundry_lab.engine.service.state import ServiceState
from foundry_lab.engine.service.supervisor import Restarter, Supervisor
from foundry_lab.errors import ConfigurationError


class Clocks:
    """Seconds that went by and seconds of CPU time, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 0.0
        clocks = SimpleNamespace(monotonic=lambda: self.now, process_time=lambda: self.cpu)
        monkeypatch.setattr(idle, "time", clocks)

    def pass_by(self, seconds: float, busy: float) -> None:
        self.now += seconds
        self.cpu += seconds * busy


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


RESTING = 0.004  # of a CPU, as measured


def looks(watch: idle.IdleWatch, clocks: Clocks, seconds: float, busy: float) -> list[bool]:
    found = []
    for _ in range(int(seconds / 0.5)):
        clocks.pass_by(0.5, busy)
        found.append(watch.over())
    return found


def test_it_is_over_after_the_time_at_rest_and_not_before(clocks: Clocks) -> None:
    watch = idle.IdleWatch(60)
    assert looks(watch, clocks, 60, RESTING) == [False] * 119 + [True]


def test_work_begins_the_time_anew(clocks: Clocks) -> None:
    watch = idle.IdleWatch(60)
    looks(watch, clocks, 59, RESTING)
    assert looks(watch, clocks, 0.5, 0.14) == [False], "one token"
    assert not any(looks(watch, clocks, 59.5, RESTING))
    assert looks(watch, clocks, 0.5, RESTING) == [True]


def test_a_long_answer_on_a_starved_machine_is_work(clocks: Clocks) -> None:
    watch = idle.IdleWatch(5)
    assert not any(looks(watch, clocks, 600, 0.1))


def test_a_download_over_a_slow_line_is_work(clocks: Clocks) -> None:
    """It takes hardly more CPU time than rest."""
    watch = idle.IdleWatch(5)
    for _ in range(100):
        clocks.pass_by(0.5, RESTING)
        assert not watch.over(downloads=1)
    assert looks(watch, clocks, 5, RESTING)[-1]


def test_by_default_it_is_never_over(clocks: Clocks) -> None:
    assert not any(looks(idle.IdleWatch(idle.idle_stop_s()), clocks, 10_000, 0))


def test_the_variable_is_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_LAB_IDLE_STOP", " 600 ")
    assert idle.idle_stop_s() == 600


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "10 min"])
def test_a_bad_value_is_an_error_before_anything_starts(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FOUNDRY_LAB_IDLE_STOP", value)
    monkeypatch.setattr(discovery, "_start", lambda **options: pytest.fail("started"))
    with pytest.raises(ConfigurationError, match=f"FOUNDRY_LAB_IDLE_STOP='{value}'"):
        engine.ensure_service(Settings())


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> list[dict[str, object]]:
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path))
    made: list[dict[str, object]] = []

    def start(**options: object) -> ServiceState:
        made.append(options)
        return ServiceState(pid=1, create_time=0, url="http://again")

    monkeypatch.setattr(discovery, "_start", start)
    monkeypatch.setattr(discovery, "prepare_model", lambda **options: made.append(options))
    return made


def last_service(ended: state.End | None, *, public_catalog: bool = False) -> None:
    """Leave a note of a service whose process is gone."""
    gone = ServiceState(
        pid=1, create_time=0.5, url="http://before", public_catalog=public_catalog, ended=ended
    )
    state.write_state(gone)


@pytest.mark.parametrize("public_catalog", [False, True])
def test_a_service_that_stopped_for_idleness_is_resumed_as_it_was(
    starts: list[dict[str, object]], public_catalog: bool
) -> None:
    """Who started it with Microsoft's catalog, be it by Settings(catalog="public"), uses a model of that."""
    last_service("idle", public_catalog=public_catalog)
    again = engine.resume_service()
    assert again is not None and again.url == "http://again"
    prepared, started = starts
    assert prepared == {"progress": False} and started["public_catalog"] == public_catalog


@pytest.mark.parametrize("ended", [None, "shut down"])
def test_one_that_ended_otherwise_is_not(starts: list[dict[str, object]], ended: state.End | None) -> None:
    """Who stopped it, or sees it crash, decides himself."""
    assert engine.resume_service() is None and not starts
    last_service(ended)
    assert engine.resume_service() is None and not starts


def test_how_one_ended_is_forgotten_when_another_serves(
    starts: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed one would else be taken for idle, and no supervisor would start it again."""
    last_service("idle")

    def serve_and_die(coroutine: object) -> None:
        assert state.ended("idle") is None
        assert state.live_state() is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(discovery, "prepare_model", lambda: None)
    monkeypatch.setattr("foundry_lab.engine.service.process.run", lambda **options: None)
    monkeypatch.setattr(asyncio, "run", serve_and_die)
    with pytest.raises(KeyboardInterrupt):
        engine.serve()
    assert engine.resume_service() is None and not starts


def test_one_that_ended_is_not_running_though_its_process_winds_up(starts: list[dict[str, object]]) -> None:
    noted = state.note(os.getpid(), url="http://127.0.0.1:1")
    assert engine.service_status() == noted
    state.note(os.getpid(), url="http://127.0.0.1:1", ended="idle")
    assert engine.service_status() is None
    state.remove_state(os.getpid())
    assert state.ended("idle") is not None, "it stays for who looks later"


@pytest.mark.parametrize(("ended", "restarts"), [("idle", 0), ("shut down", 1)])
def test_a_supervisor_leaves_an_idle_service_to_the_next_request(
    starts: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, ended: state.End, restarts: int
) -> None:
    """A monitor left open would start it again for ever."""
    monkeypatch.setattr(discovery, "prepare_model", lambda **options: None)
    monkeypatch.setattr(discovery.foundry_cli, "running_endpoint", lambda: None)
    last_service(ended)
    restarter = Restarter(Supervisor(), Settings(), deque())
    restarter.restart_if_dead()
    assert len(restarter.restarts) == len(starts) == restarts
