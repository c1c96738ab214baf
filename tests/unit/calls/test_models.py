"""What names mean, and what loading and unloading do, in both contracts."""

from __future__ import annotations

import logging
import time

import pytest
from clients import Client, both_clients
from stub_server import ALIAS, CHAT, MODEL, StubService, chat, error, error_body, reply

from foundry_lab import errors
from foundry_lab.calls.models import alias_of

OTHER = "Phi-4-mini-instruct-generic-cpu:5"
NOT_LOADED = error(400, "Model not loaded: Model 'x' must be loaded before inference")
NOT_FOUND = error(404, "Model not found: No model matching 'x'")
BUSY = error(500, "Cannot unload: 1 session(s) still using it", "server_error")


def serve(stub: StubService, *ids: str, loaded: tuple[str, ...] = ()) -> None:
    stub.on("GET", "/v1/models", reply(200, {"data": [{"id": each} for each in ids]}))
    stub.on("GET", "/models/loaded", reply(200, list(loaded)))


def asked_for(stub: StubService) -> list[str]:
    return [seen.json["model"] for seen in stub.seen if seen.path == CHAT]


@pytest.mark.parametrize(
    ("model_id", "alias"),
    [
        ("Phi-4-mini-instruct-generic-cpu:5", "phi-4-mini"),
        ("qwen2.5-0.5b-instruct-cuda-gpu:3", "qwen2.5-0.5b"),
        ("deepseek-r1-distill-qwen-7b-qnn-npu:1", "deepseek-r1-distill-qwen-7b"),
        ("smollm2-135m-instruct-generic-cpu:1", "smollm2-135m"),
        ("plain", "plain"),
    ],
)
def test_aliases_are_guessed_as_the_catalog_names_its_models(model_id: str, alias: str) -> None:
    assert alias_of(model_id) == alias


@both_clients
@pytest.mark.parametrize("name", [ALIAS, MODEL, ALIAS.upper(), MODEL.partition(":")[0]])
def test_alias_and_id_both_work_everywhere(kind: str, name: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        client.complete("hi", model=name)
        client.stream_text("hi", model=name)
        assert asked_for(stub) == [MODEL, MODEL]
        assert client.load_model(name).loaded and not client.unload_model(name).loaded
        assert stub.count("GET", f"/models/load/{ALIAS}") == stub.count("GET", f"/models/unload/{ALIAS}") == 1


@both_clients
@pytest.mark.parametrize("where", ["call", "client", "environment"])
def test_a_model_that_was_asked_for_is_never_replaced(
    kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "environment":
        monkeypatch.setenv("FOUNDRY_MODEL", "stubb-1b")
    with (
        StubService() as stub,
        Client(kind, stub.url, model="stubb-1b" if where == "client" else None) as client,
    ):
        with pytest.raises(errors.ModelNotFoundError) as caught:
            client.complete("hi", **({"model": "stubb-1b"} if where == "call" else {}))
        assert "Did you mean stub-1b?" in str(caught.value) and set(caught.value.available) == {ALIAS, MODEL}
        assert asked_for(stub) == []


@both_clients
def test_nobody_asked_takes_the_default_where_it_is_loaded(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        serve(stub, MODEL, OTHER, loaded=(MODEL, OTHER))
        client.complete("hi")
        assert asked_for(stub) == [OTHER]


@both_clients
def test_nobody_asked_takes_the_loaded_model_and_says_so(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        StubService() as stub,
        Client(kind, stub.url) as client,
        caplog.at_level(logging.INFO, "foundry_lab"),
    ):
        serve(stub, OTHER, MODEL, loaded=(MODEL,))
        client.complete("hi")
        assert asked_for(stub) == [MODEL] and f"using {MODEL}" in caplog.text


@both_clients
def test_nothing_loaded_says_what_could_be(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        serve(stub, MODEL, OTHER)
        with pytest.raises(errors.ModelNotLoadedError, match=r"load_model.*phi-4-mini, stub-1b"):
            client.complete("hi")


@both_clients
def test_an_empty_catalog_is_told_as_such(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        serve(stub)
        with pytest.raises(errors.ModelNotFoundError, match="catalog"):
            client.complete("hi", model="phi")


@both_clients
def test_names_are_looked_up_once(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        for _ in range(3):
            client.complete("hi")
        assert stub.count("GET", "/v1/models") == stub.count("GET", "/status") == 1


@both_clients
@pytest.mark.parametrize("gone", [NOT_LOADED, NOT_FOUND], ids=["unloaded", "renamed"])
@pytest.mark.parametrize("how", ["complete", "stream"])
def test_a_name_that_went_stale_is_looked_up_again(kind: str, gone: object, how: str) -> None:
    newer = MODEL.replace(":1", ":2")
    with StubService() as stub, Client(kind, stub.url) as client:
        client.ask(how, model=ALIAS)
        serve(stub, newer, loaded=(newer,))
        stub.on("POST", CHAT, gone, chat("hello again"))  # type: ignore[arg-type]
        assert client.ask(how, model=ALIAS) == "hello again"
        assert asked_for(stub) == [MODEL, MODEL, newer]


@both_clients
def test_a_model_that_stays_away_is_an_error_after_one_look(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("POST", CHAT, NOT_LOADED)
        with pytest.raises(errors.ModelNotLoadedError):
            client.complete("hi")
        assert stub.count("POST", CHAT) == 1


@both_clients
def test_loaded_names_without_a_version_are_recognized(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        serve(stub, MODEL, loaded=(MODEL.partition(":")[0],))
        assert [model.loaded for model in client.list_models()] == [True]


@both_clients
def test_unloading_waits_while_requests_use_the_model(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        route = f"/models/unload/{ALIAS}"
        stub.on("GET", route, BUSY, BUSY, reply(200, {"status": "unloaded"}))
        assert not client.unload_model(ALIAS, timeout=5).loaded
        assert stub.count("GET", route) == 3


@both_clients
def test_unloading_gives_up_where_the_next_look_would_come_too_late(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_lab.calls.models.BUSY_POLL_S", 60)
    with StubService() as stub, Client(kind, stub.url) as client:
        stub.on("GET", f"/models/unload/{ALIAS}", BUSY)
        began = time.monotonic()
        with pytest.raises(errors.ModelBusyError, match="still using it"):
            client.unload_model(ALIAS, timeout=30)
        assert time.monotonic() - began < 20


@both_clients
def test_unloading_says_that_the_model_is_busy_though_answers_are_slow(kind: str) -> None:
    """The last look has time for its answer; else the end were a timeout, as chance has it."""
    with StubService() as stub, Client(kind, stub.url) as client:
        busy = {"error": {"message": "Cannot unload: 1 session(s) still using it", "type": "server_error"}}
        stub.on("GET", f"/models/unload/{ALIAS}", reply(500, busy, delay_s=0.2))
        with pytest.raises(errors.ModelBusyError):
            client.unload_model(ALIAS, timeout=1.5)


@both_clients
@pytest.mark.parametrize("timeout", [0, -1, "soon", None])
def test_limits_that_are_none_are_refused(kind: str, timeout: object) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        for method in (client.load_model, client.unload_model):
            with pytest.raises(errors.ConfigurationError, match="timeout"):
                method(ALIAS, timeout=timeout)
        assert not stub.seen


# --- the contract before SDK 2 ----------------------------------------------------------------------------


def legacy(stub: StubService) -> None:
    """A STUB of the legacy contract, written from the REST reference's table, not measured."""
    stub.on("GET", "/openai/status", reply(200, {"Endpoints": [], "ModelDirPath": "", "PipeName": ""}))
    stub.on("GET", "/openai/models", reply(200, [OTHER.partition(":")[0], MODEL]))
    stub.on("GET", "/openai/loadedmodels", reply(200, [MODEL.partition(":")[0]]))
    stub.on("GET", f"/openai/load/{MODEL}", reply(200, b""))  # "200 OK, empty response body"
    stub.on("GET", f"/openai/unload/{MODEL}", reply(200, b""))
    stub.on("POST", CHAT, chat("hello"))


@both_clients
def test_the_legacy_contract(kind: str) -> None:
    with StubService(healthy=False) as stub, Client(kind, stub.url) as client:
        legacy(stub)
        assert client.complete("hi").content == "hello" and asked_for(stub) == [MODEL]
        assert [(m.alias, m.loaded) for m in client.list_models()] == [("phi-4-mini", False), (ALIAS, True)]
        assert client.loaded_models() == [MODEL.partition(":")[0]]
        assert client.load_model(ALIAS).loaded
        assert not client.unload_model(ALIAS).loaded
        health = client.health_check()
        assert health.status == "healthy" and health.pid is None and health.memory_usage is None
        assert stub.count("GET", "/openai/status") >= 1


@both_clients
@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_status_route_nobody_knows_leads_to_the_legacy_one(kind: str, status: int) -> None:
    with StubService(healthy=False) as stub, Client(kind, stub.url) as client:
        legacy(stub)
        stub.on("GET", "/status", reply(status, b"what?", content_type="text/plain"))
        assert client.complete("hi").content == "hello"


@both_clients
def test_a_service_that_is_starting_is_not_taken_for_the_legacy_one(kind: str) -> None:
    with StubService(healthy=False) as stub, Client(kind, stub.url, retries=0) as client:
        legacy(stub)
        stub.on("GET", "/status", reply(503, error_body("starting", "server_error")))
        with pytest.raises(errors.ServerError):
            client.complete("hi")
        assert stub.count("GET", "/openai/status") == 0


@both_clients
@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_fails_in_other_words_is_not_taken_for_foundry_local(kind: str, status: int) -> None:
    """To restart a service that nobody has started helps nobody."""
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("GET", "/status", reply(status, b"<h1>Oops</h1>", content_type="text/html"))
        with pytest.raises(errors.ServerError, match=r"Oops.*isn't Foundry Local.*endpoint") as caught:
            client.list_models()
        assert "foundry-lab stop" not in str(caught.value)
        (reason,) = client.health_check().reasons
        assert "isn't Foundry Local" in reason


@both_clients
def test_foundry_locals_own_failure_at_its_status_is_told_as_such(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retries=0) as client:
        stub.on("GET", "/status", error(500, "out of memory", "server_error"))
        with pytest.raises(errors.ServerError, match=r"out of memory.*foundry-lab stop"):
            client.list_models()
