"""Both clients against the real service: answers, names, errors, loading, structured output."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import msgspec
import psutil
import pytest
from pydantic import BaseModel

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, errors
from foundry_lab.engine import spec

GREEDY = {"temperature": 0, "timeout": 60}
Ask = Callable[..., Any]


@pytest.fixture(params=["async", "sync"])
def ask(request: pytest.FixtureRequest, endpoint: str) -> Iterator[Ask]:
    """Call a method of one of the clients by name, and wait for its result."""
    if request.param == "sync":
        with SyncFoundryAPIClient(endpoint) as client:
            yield lambda method, *args, **kwargs: getattr(client, method)(*args, **kwargs)
        return
    with asyncio.Runner() as runner:
        other = FoundryAPIClient(endpoint)
        yield lambda method, *args, **kwargs: runner.run(getattr(other, method)(*args, **kwargs))
        runner.run(other.close())


@pytest.mark.parametrize("name", [None, spec.ALIAS, spec.MODEL_ID])
def test_a_completion_by_any_name(ask: Ask, name: str | None) -> None:
    answer = ask("complete", "Name three colours.", model=name, max_tokens=16, **GREEDY)
    assert answer.content.strip() and answer.model == spec.MODEL_ID
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.tokens_per_s > 0


def test_parameters_have_their_effect(ask: Ask) -> None:
    greedy = [ask("complete", "Name a colour.", max_tokens=12, **GREEDY).content for _ in range(2)]
    assert greedy[0] == greedy[1]
    seeded = [
        ask("complete", "Name a colour.", max_tokens=12, temperature=1.5, seed=seed, timeout=60).content
        for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]
    cut = ask("complete", "Count from 1 to 9.", max_tokens=40, stop=["3"], **GREEDY)
    assert "3" not in cut.content and cut.finish_reason == "stop"
    assert ask("complete", "Count from 1 to 9.", max_tokens=4, **GREEDY).finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"model": "smollm2-135"}, errors.ModelNotFoundError, f"Did you mean {spec.ALIAS}\\?"),
        ({"max_tokens": 0}, errors.BadRequestError, "must be >= 1"),
        ({"temperature": 5}, errors.BadRequestError, "temperature must be in the range"),
        ({"max_tokens": 9000}, errors.ContextLengthError, "8192"),
        ({"timeout": 0.2, "max_tokens": 500}, errors.RequestTimeoutError, "max_tokens"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_errors_say_what_to_do(
    ask: Ask, options: dict[str, Any], kind: type[errors.FoundryError], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        ask("complete", "Tell a story.", **options)
    assert ".cc:" not in str(caught.value)


def test_health_is_that_of_the_process(ask: Ask) -> None:
    health = ask("health_check", probe=True)
    assert health.loaded_models == (spec.MODEL_ID,)
    process = psutil.Process(health.pid)
    assert health.memory_usage == pytest.approx(process.memory_info().rss / 2**20, rel=0.3)
    assert health.uptime_s == pytest.approx(time.time() - process.create_time(), abs=30)
    assert health.version and set(health.versions) >= {"foundry-local-sdk", "foundry-lab", "python"}
    assert health.latency_s > 0 and health.probe_latency_s > 0


def test_the_catalog_is_told_in_detail(ask: Ask) -> None:
    (model,) = ask("list_models")
    assert (model.id, model.alias, model.loaded, model.cached) == (spec.MODEL_ID, spec.ALIAS, True, True)
    assert model.size_bytes > 100e6 and model.context_length == spec.CONTEXT_LENGTH
    assert model.task == "chat-completion" and model.device and model.license


def test_a_model_that_is_there_needs_no_download(ask: Ask) -> None:
    percents: list[float] = []
    model = ask("download_model", spec.ALIAS, progress=percents.append)
    assert model.cached and all(0 <= percent <= 100 for percent in percents)


def test_unloaded_it_is_missed_and_loaded_it_answers(ask: Ask) -> None:
    assert not ask("unload_model", spec.MODEL_ID).loaded
    try:
        assert ask("loaded_models") == []
        assert ask("health_check").status == "degraded"
        with pytest.raises(errors.ModelNotLoadedError, match="load_model"):
            ask("complete", "Hello", model=spec.ALIAS, max_tokens=4)
    finally:
        assert ask("load_model", spec.ALIAS).loaded
    assert ask("complete", "Hello", max_tokens=4, **GREEDY).content


async def test_unloading_waits_for_the_requests_under_way(endpoint: str) -> None:
    async with FoundryAPIClient(endpoint) as client:
        stream = client.stream_complete("Tell a long story about the sea.", max_tokens=150, **GREEDY)
        await anext(stream)
        unloading = asyncio.create_task(client.unload_model(spec.ALIAS, timeout=60))
        try:
            text = "".join([chunk.content async for chunk in stream])
            assert len(text) > 100 and stream.finish_reason
            assert not (await unloading).loaded
        finally:
            await client.load_model(spec.ALIAS)


async def test_unloading_that_waits_too_long_says_so(endpoint: str) -> None:
    async with FoundryAPIClient(endpoint) as client:
        # At temperature 0 this story has no end; another might be over before the time is.
        async with client.stream_complete(
            "Tell a long story.", max_tokens=6000, temperature=0, timeout=120
        ) as stream:
            await anext(stream)
            try:
                with pytest.raises(errors.ModelBusyError):
                    await client.unload_model(spec.ALIAS, timeout=3)
            finally:
                await client.load_model(spec.ALIAS)
        assert await client.loaded_models() == [spec.MODEL_ID]


# --- structured output ------------------------------------------------------------------------------------


class PydanticPerson(BaseModel):
    name: str
    age: int


class StructPerson(msgspec.Struct):
    name: str
    age: int
    mood: Literal["happy", "sad"] = "happy"


@dataclass
class DataPerson:
    name: str
    age: int


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    "shape",
    [PydanticPerson, StructPerson, DataPerson, SCHEMA],
    ids=["pydantic", "msgspec", "dataclass", "schema"],
)
def test_an_answer_has_the_shape_that_was_asked_for(ask: Ask, shape: Any) -> None:
    answer = ask("complete", "Invent a person.", response_model=shape, max_tokens=120, **GREEDY)
    parsed = answer.parsed
    if isinstance(shape, dict):
        jsonschema.validate(parsed, shape)
    else:
        assert isinstance(parsed, shape) and parsed.name and isinstance(parsed.age, int)


def test_the_callers_parser_is_obeyed_or_the_text_is_told(ask: Ask) -> None:
    def impossible(text: str) -> None:
        raise ValueError("it must rhyme")

    with pytest.raises(errors.StructuredOutputError, match="it must rhyme") as caught:
        ask("complete", "Say hello.", parser=impossible, parse_attempts=2, max_tokens=8, **GREEDY)
    assert caught.value.text and caught.value.attempts == 2
