"""Downloads over the control route: progress, failures, and the token that opens it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from clients import Client, both_clients
from hypothesis import given
from hypothesis import strategies as st
from stub_server import ALIAS, MODEL, Answer, StubService, error, reply

from foundry_lab import errors
from foundry_lab.calls.download import MAX_LINE_BYTES, DownloadLines
from foundry_lab.engine.service.state import ServiceState

TOKEN = "token-of-the-control-route"
ROUTE = "/control/download"
DETAILS = {
    "id": MODEL,
    "alias": ALIAS,
    "name": "Stub 1B",
    "size_bytes": 1 << 30,
    "task": "chat-completion",
    "device": "CPU",
    "license": "MIT",
    "cached": False,
    "loaded": False,
    "context_length": 4096,
}


def lines(*values: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


DONE = lines({"percent": 0.0}, {"percent": 41.5}, {"percent": 100.0}, {"done": True, "id": MODEL})


def answer(body: bytes) -> Answer:
    return reply(200, body, content_type="application/x-ndjson")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubService]:
    """A stub of a lab service: its control routes are found through its state."""
    with StubService() as stub:
        state = ServiceState(pid=1, create_time=0, url=stub.url, control_url=stub.url, control_token=TOKEN)
        monkeypatch.setattr("foundry_lab.engine.control_for", lambda endpoint: state)
        stub.on("GET", "/control/models", reply(200, [DETAILS]), reply(200, [DETAILS | {"cached": True}]))
        stub.on("POST", ROUTE, answer(DONE))
        yield stub


@both_clients
@pytest.mark.parametrize("name", [ALIAS, MODEL])
def test_progress_is_reported_and_the_model_returned(kind: str, name: str, stub: StubService) -> None:
    percents: list[float] = []
    with Client(kind, stub.url) as client:
        model = client.download_model(name, progress=percents.append)
    assert percents == [0.0, 41.5, 100.0]
    assert (model.id, model.cached, model.license, model.size_bytes) == (MODEL, True, "MIT", 1 << 30)
    (sent,) = (seen for seen in stub.seen if seen.path == ROUTE)
    assert sent.json == {"alias": MODEL} and sent.headers["authorization"] == f"Bearer {TOKEN}"


@both_clients
def test_the_token_goes_to_the_control_route_only_and_never_shows(kind: str, stub: StubService) -> None:
    with Client(kind, stub.url, api_key="key") as client:
        client.list_models()
        client.complete("hi", model=MODEL)
        assert TOKEN not in repr(client.raw) + repr(client.raw.caller.target)
    tokens = {seen.path: seen.headers["authorization"] for seen in stub.seen}
    assert tokens.pop("/control/models") == f"Bearer {TOKEN}" and set(tokens.values()) == {"Bearer key"}


@both_clients
def test_a_bar_is_shown_by_default_and_can_be_left_out(
    kind: str, stub: StubService, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(kind, stub.url) as client:
        client.download_model(ALIAS, progress=False)
        assert capsys.readouterr().err == ""
        client.download_model(ALIAS)
        assert f"{ALIAS}: 100%" in capsys.readouterr().err


@both_clients
@pytest.mark.parametrize(
    ("given", "kind_of_error", "said"),
    [
        (answer(lines({"percent": 1.0}, {"error": "The disk is full."})), errors.EngineError, "disk is full"),
        (answer(lines({"percent": 1.0})), errors.StreamInterruptedError, "before it was done"),
        (answer(b"<html>\n"), errors.ResponseFormatError, "html"),
        (error(404, "The catalog has no model 'x'"), errors.ModelNotFoundError, "no model"),
        (error(401, "no token"), errors.AuthenticationError, "no token"),
        (error(503, "The service is still starting.", "server_error"), errors.ServerError, "starting"),
    ],
    ids=["failed", "cut short", "nonsense", "unknown", "refused", "starting"],
)
def test_what_goes_wrong_is_told_and_not_tried_again(
    kind: str, given: Answer, kind_of_error: type[errors.FoundryError], said: str, stub: StubService
) -> None:
    stub.on("POST", ROUTE, given)
    with Client(kind, stub.url) as client, pytest.raises(kind_of_error, match=said):
        client.download_model(ALIAS, progress=False)
    assert stub.count("POST", ROUTE) == 1


@both_clients
def test_a_typo_is_noticed_before_anything_is_fetched(kind: str, stub: StubService) -> None:
    with Client(kind, stub.url) as client, pytest.raises(errors.ModelNotFoundError, match=f"mean {ALIAS}\\?"):
        client.download_model("stubb-1b")
    assert stub.count("POST", ROUTE) == 0


@both_clients
def test_another_service_cannot_be_asked(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        with pytest.raises(errors.ConfigurationError, match="foundry model download"):
            client.download_model(ALIAS)
        assert not stub.seen


@given(st.lists(st.integers(0, len(DONE)), max_size=8))
def test_lines_in_any_split(cuts: list[int]) -> None:
    percents: list[float] = []
    reader = DownloadLines(percents.append)
    places = sorted({0, len(DONE), *cuts})
    for begin, end in itertools.pairwise(places):
        reader.feed(DONE[begin:end])
    reader.end()
    assert percents == [0.0, 41.5, 100.0]


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_format_errors(noise: bytes) -> None:
    reader = DownloadLines(lambda percent: None)
    try:
        reader.feed(noise)
        reader.end()
    except (errors.ResponseFormatError, errors.StreamInterruptedError):
        pass


def test_an_endless_line_is_given_up() -> None:
    reader = DownloadLines(lambda percent: None)
    with pytest.raises(errors.ResponseFormatError, match="bytes"):
        for _ in range(100):
            reader.feed(b"x" * (MAX_LINE_BYTES // 50))
