"""Options that are none, and complaints about answers: what is said instead."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from clients import Client
from stub_server import CHAT, StubService, chat

from foundry_lab.calls.chat import ChatRequest
from foundry_lab.errors import ConfigurationError, StructuredOutputError


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream_complete"])
@pytest.mark.parametrize("options", [{"stream": True}, {"extra_body": {"stream": True}}], ids=str)
def test_stream_is_no_option(options: dict[str, Any], stream: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"use stream_complete\(") as caught:
        ChatRequest.build("hi", options, 30.0, stream=stream)
    assert "system" not in str(caught.value) and "extra_body" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream_complete"])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("api_key", "api_key"),
        ("retries", "retries"),
        ("headers", "headers"),
        ("endpoint", "endpoint"),
        ("base_url", "endpoint"),
        ("max_retries", "retries"),
    ],
)
def test_what_belongs_to_the_client_is_told_as_that(name: str, argument: str, stream: bool) -> None:
    with pytest.raises(ConfigurationError, match="belongs to the client") as caught:
        ChatRequest.build("hi", {name: "x"}, 30.0, stream=stream)
    assert f"FoundryAPIClient({argument}=…)" in str(caught.value) and "extra_body" not in str(caught.value)


@pytest.mark.parametrize("cache", ["answers.db", 1, "no"])
def test_a_call_takes_no_cache_of_its_own(cache: Any) -> None:
    """A file here looked as if answers were kept in it, and nothing was kept."""
    for stream in (False, True):
        with pytest.raises(ConfigurationError, match=r"FoundryAPIClient\(cache=…\)"):
            ChatRequest.build("hi", {"cache": cache}, 30.0, stream=stream)


def test_on_stall_of_another_kind_is_told() -> None:
    """numpy's arrays compare to arrays, and the test of one is a ValueError."""
    with pytest.raises(ConfigurationError, match="on_stall"):
        ChatRequest.build("hi", {"on_stall": np.array(["error", "fallback"])}, 30.0, stream=True)


def test_a_complaint_is_short_however_long_the_answer() -> None:
    """The model reads it, and so does who catches the error: a validator may repeat all of the answer."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with StubService() as stub, Client("sync", stub.url) as client:
        stub.on("POST", CHAT, chat(json.dumps({"a": "x" * 100_000})))
        with pytest.raises(StructuredOutputError) as caught:
            client.complete("x", response_model=schema, parse_attempts=2)
        told = [seen.json["messages"] for seen in stub.seen if seen.path == CHAT][1][-1]["content"]
    assert len(str(caught.value)) < 1000 and len(told) < 1000
