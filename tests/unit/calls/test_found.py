"""A service that was found: no credentials go there, and nothing at all goes to whoever takes its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cli_stubs import StubEngine
from clients import Client, both_clients
from stub_server import ALIAS, CHAT, MODEL, StubService, reply

from foundry_lab import errors
from foundry_lab._ground.listeners import Listener
from foundry_lab.calls import async_caller
from foundry_lab.calls.target import Target, locate, relocate
from foundry_lab.config import Settings

SECRETS = {"Api-Key": "s1", "x-api-key": "s2", "Cookie": "s3", "Proxy-Authorization": "s4"}
both_ways = pytest.mark.parametrize("how", ["complete", "stream"])


@pytest.fixture
def gone() -> Iterator[Listener]:
    """A process of ours that listens nowhere."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield Listener(child.pid)
        child.kill()


def found_at(url: str, listener: Listener | None, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Have clients find a service there."""
    there = Target(url, found=True, listener=listener, **more)
    monkeypatch.setattr(async_caller, "locate", lambda settings: there)
    monkeypatch.setattr(async_caller, "relocate", lambda target, resume: None)


@both_clients
@both_ways
def test_credentials_go_to_a_named_endpoint_and_never_to_a_found_one(
    kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {**SECRETS, "X-Team": "a"}
    names = {name.lower() for name in (*SECRETS, "authorization")}
    with StubService() as stub:
        with monkeypatch.context() as patched, Client(kind, None, api_key="k", headers=headers) as client:
            found_at(stub.url, None, patched)
            client.ask(how)
        assert stub.seen
        for seen in stub.seen:
            assert not names & set(seen.headers) and seen.headers["x-team"] == "a"
        with Client(kind, stub.url, api_key="k", headers=headers) as client:
            client.ask(how)
        assert names <= set(stub.seen[-1].headers)
        assert stub.seen[-1].headers["authorization"] == "Bearer k"


@both_clients
@both_ways
def test_nothing_is_sent_to_another_process(
    kind: str, how: str, gone: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StubService() as stranger:
        found_at(stranger.url, gone, monkeypatch)
        with (
            Client(kind, None, retries=0) as client,
            pytest.raises(errors.ServiceUnavailableError, match=r"Another process listens.*ensure_service"),
        ):
            client.ask(how)
        assert not stranger.seen


@both_clients
def test_the_control_token_is_not_sent_to_another_process_either(
    kind: str, gone: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StubService() as stranger:
        found_at("http://127.0.0.1:9", gone, monkeypatch, control_url=stranger.url, control_token="t")
        with Client(kind, None, retries=0) as client, pytest.raises(errors.ServiceUnavailableError):
            client.download_model("phi-4-mini", progress=False)
        assert not stranger.seen


@both_clients
@both_ways
def test_the_client_looks_again_and_goes_on_where_the_service_is_now(
    kind: str, how: str, gone: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StubService() as stranger, StubService() as service:
        found_at(stranger.url, gone, monkeypatch)
        there = Target(service.url, found=True, listener=Listener(os.getpid()))
        monkeypatch.setattr(async_caller, "relocate", lambda target, resume: there)
        with Client(kind, None, retries=1) as client:
            assert client.ask(how) == "hello"
        assert not stranger.seen and service.count("POST", CHAT) == 1


@both_clients
def test_the_process_is_looked_at_for_a_new_connection_only(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = Listener.listens_at
    monkeypatch.setattr(Listener, "listens_at", lambda *given: looks.append(given) or look(*given))
    with StubService() as stub:
        found_at(stub.url, Listener(os.getpid()), monkeypatch)
        with Client(kind, None) as client:
            for _ in range(5):
                assert client.ask("complete") == "hello"
        assert len(looks) == 1


def lab_service(url: str, pid: int) -> SimpleNamespace:
    return SimpleNamespace(url=url, pid=pid, control_url="", control_token="", versions={})


def test_a_service_that_came_back_at_the_same_port_is_another_target(
    engine: StubEngine, gone: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_lab.engine.control_for", lambda url: engine.state, raising=False)
    url = "http://127.0.0.1:1"  # where the stub engine finds one
    engine.state = lab_service(url, os.getpid())
    before = locate(Settings())
    assert before.found and before.listener == Listener(os.getpid())
    assert relocate(before) is None
    engine.state = lab_service(url, os.getppid())
    after = relocate(before)
    assert after is not None and after.endpoint == url and after.listener != before.listener


def test_an_endpoint_that_somebody_named_is_nobodys_to_check(engine: StubEngine) -> None:
    engine.state = lab_service("http://127.0.0.1:1", os.getpid())
    assert locate(Settings(endpoint="http://127.0.0.1:1")).listener is None


@both_clients
def test_a_named_service_of_the_lab_that_was_started_again_has_another_control_route(
    kind: str, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `serve --port 5273`. Models are looked up at the control route, whose port is another then."""
    monkeypatch.setattr("foundry_lab.engine.control_for", lambda url: engine.state, raising=False)
    model = reply(200, [{"id": MODEL, "alias": ALIAS, "loaded": True}])
    with StubService() as service, Client(kind, service.url, retries=1) as client:
        for pid in (1, 2):
            with StubService() as control:
                control.on("GET", "/control/models", model)
                engine.state = lab_service(service.url, pid)
                engine.state.control_url = control.url
                assert [each.id for each in client.list_models()] == [MODEL]
                client.raw.caller.directory.forget()
                assert client.ask("complete") == "hello"
        engine.state = None
        with pytest.raises(errors.ServiceUnavailableError):
            client.list_models()
