"""What a client is made of and asked for: each bad value is refused in words, each header sent once."""

from __future__ import annotations

import asyncio
import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from clients import Client, both_clients
from stub_server import ALIAS, CHAT, StubService, chat

from foundry_lab import FoundryAPIClient, RetryPolicy, SyncFoundryAPIClient, errors

BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"timeout": 3}}, "settings is a dict; give a foundry_lab.Settings"),
    ({"headers": ["x"]}, "headers is a list; give a dict"),
    ({"headers": "abc"}, "headers is a str; give a dict"),
    ({"retry": 3}, "retry is a int; give a foundry_lab.RetryPolicy"),
    ({"retry": RetryPolicy(), "retries": 0}, "retries or retry, not both"),  # it was asked three times more
    ({"breaker": "x"}, "breaker is a str; give a foundry_lab.CircuitBreaker"),
    ({"metrics": "x"}, "metrics is a str; give a foundry_lab.metrics.Metrics"),
    ({"cache": 5}, "cache is a int; give True, a path"),
    ({"headers": {"": "a"}}, "Number 1 of the headers has a name"),
    ({"headers": {"X-Team": "a", "X hunter2": "a"}}, "Number 2 of the headers has a name"),
    ({"headers": {"Authorization: Bearer hunter2": ""}}, "Number 1 of the headers has a name"),
    ({"headers": {"hunter2": 5}}, "Number 1 of the headers can't be sent"),
    ({"headers": {"X": "hunter2\n"}}, "Number 1 of the headers can't be sent"),
    ({"api_key": "hunter2\u20ac"}, "The api_key can't be sent"),
    ({"headers": {"X": "a", "content-length": "5"}}, "Leave content-length out"),
    ({"headers": {"Expect": "100-continue"}}, "Leave Expect out"),
    ({"endpoint": "http://127.0.0.1:1/v1?key=hunter2"}, "no query"),
    ({"ca_file": 5}, "ca_file=5 can't be a file: it is a int"),
    ({"ca_file": "~nobody-of-that-name/ca.pem"}, "nobody's home"),
    ({"ca_file": "a\0b"}, "holds a NUL"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_ARGUMENTS, ids=str)
def test_a_client_says_which_argument_cannot_be_used(arguments: dict[str, Any], said: str) -> None:
    for kind in (FoundryAPIClient, SyncFoundryAPIClient):
        with pytest.raises(errors.ConfigurationError, match=said) as caught:
            kind(**{"endpoint": "http://127.0.0.1:1", **arguments})
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", [FoundryAPIClient, SyncFoundryAPIClient])
def test_a_client_is_not_pickled_with_its_key(kind: type[FoundryAPIClient]) -> None:
    client = kind("http://127.0.0.1:1", api_key="hunter2")
    for taken in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Make one where it is used"):
            taken(client)


@both_clients
@pytest.mark.parametrize("name", [None, 5, "", " "])
def test_what_is_no_name_of_a_model_is_refused(kind: str, name: Any) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        for method in (client.load_model, client.unload_model, client.download_model):
            with pytest.raises(errors.ConfigurationError, match="is no name"):
                method(name)
        assert not stub.seen


@both_clients
def test_a_limit_given_as_text_is_a_number_too(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        assert client.load_model(ALIAS, timeout="3").loaded


@both_clients
@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_a_health_check_refuses_a_limit_that_is_none(kind: str, timeout: Any) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        with pytest.raises(errors.ConfigurationError, match="timeout"):
            client.health_check(timeout=timeout)
        assert not stub.seen


@both_clients
@pytest.mark.parametrize("timeout", [1e10, 1e300])
def test_a_limit_larger_than_sockets_can_count(kind: str, timeout: float) -> None:
    with StubService() as stub, Client(kind, stub.url, timeout=timeout) as client:
        assert client.ask("complete", timeout=timeout) == client.ask("stream") == "hello"


@both_clients
def test_a_header_of_the_caller_replaces_ours_in_any_case(kind: str) -> None:
    came: list[web.Request] = []

    async def answer(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
        came.append(request)
        return await chat("hello")(request, stop)

    mine = {"authorization": "Bearer mine", "CONTENT-TYPE": "application/json; charset=utf-8", "X-A": " a "}
    with StubService() as stub, Client(kind, stub.url, api_key="other", headers=mine) as client:
        stub.on("POST", CHAT, answer)
        client.complete("hi")
    for name, value in mine.items():
        assert came[0].headers.getall(name) == [value.strip()]


@both_clients
def test_numbers_and_texts_of_numpy_are_sent_as_what_they_are(kind: str) -> None:
    with StubService() as stub, Client(kind, stub.url, retries=np.int64(0)) as client:
        client.complete(
            np.str_("hi"), max_tokens=np.int64(3), temperature=np.float64(0.5), top_p=np.float32(0.5)
        )
        sent = stub.seen[-1].json
        assert sent["messages"] == [{"role": "user", "content": "hi"}]
        assert (sent["max_tokens"], sent["temperature"], sent["top_p"]) == (3, 0.5, 0.5)
        for wrong in (
            {"max_tokens": np.float64(3)},
            {"temperature": np.float32("nan")},
            {"seed": np.bool_(1)},
        ):
            with pytest.raises(errors.ConfigurationError, match=next(iter(wrong))):
                client.complete("hi", **wrong)
        report = client.complete_batch(np.array(["a", "b"]), concurrency=np.int64(1), progress=False)
        assert (report.done, report.failed) == (2, 0)


@both_clients
@pytest.mark.parametrize("how", ["complete", "stream_text"])
def test_a_number_too_large_for_a_float_is_refused(kind: str, how: str) -> None:
    with StubService() as stub, Client(kind, stub.url) as client:
        for name in ("temperature", "top_p"):
            with pytest.raises(errors.ConfigurationError, match=f"{name}=1000.*can't be sent"):
                getattr(client, how)("hi", **{name: 10**400})
        assert stub.count("POST", CHAT) == 0


@both_clients
def test_a_large_prompt_is_sent_without_a_warning(kind: str) -> None:
    text = "x" * 5_000_000
    with StubService(max_bytes=2**24) as stub, Client(kind, stub.url) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert client.complete(text).content == "hello"
        assert stub.seen[-1].json["messages"][0]["content"] == text
