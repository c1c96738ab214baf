"""Batch files made for a cloud run here as they are, but for the model's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batch_tools import asked, ids
from stub_server import CHAT, MODEL, StubService

from foundry_lab import FoundryAPIClient
from foundry_lab.errors import ModelNotFoundError

DATA = Path(__file__).parent / "data"


def line(url: str, method: str = "POST", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"custom_id": "x", "method": method, "url": url, "body": {"messages": messages, **body}}


@pytest.mark.parametrize(
    "url",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/chat/completions/",
        "https://api.openai.com/v1/chat/completions",
        "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
    ],
)
@pytest.mark.parametrize("method", ["POST", "post"])
async def test_a_cloud_lines_address_is_the_chat(
    client: FoundryAPIClient, stub: StubService, url: str, method: str
) -> None:
    assert (await client.complete_batch([line(url, method)])).done == 1
    assert asked(stub) == 1


@pytest.mark.parametrize("name", ["openai_cookbook.jsonl", "azure.jsonl"])
async def test_example_files_run_unedited_with_one_option(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, name: str
) -> None:
    """In the forms of OpenAI's cookbook and Azure's documentation, with prompts of our own."""
    output = tmp_path / "out.jsonl"
    with pytest.raises(ModelNotFoundError, match=r'model="stub-1b", override_model=True\)'):
        await client.complete_batch(DATA / name, output=output)
    assert asked(stub) == 0
    report = await client.complete_batch(DATA / name, output=output, override_model=True, concurrency=1)
    lines = [json.loads(text) for text in (DATA / name).read_text(encoding="utf-8").splitlines()]
    assert (report.done, report.failed) == (len(lines), 0)
    assert ids(output) == [line["custom_id"] for line in lines]
    sent = [seen.json for seen in stub.seen if seen.path == CHAT]
    assert {body["model"] for body in sent} == {MODEL}
    for body, original in zip(sent, lines, strict=True):
        rest = original["body"] | {"model": MODEL}
        assert {name: body[name] for name in rest} == rest


async def test_the_model_that_is_named_takes_the_items_models_place(
    client: FoundryAPIClient, stub: StubService
) -> None:
    items = [line(CHAT, model="gpt-4o"), {"prompt": "a", "model": "gpt-4o"}, "b"]
    assert (await client.complete_batch(items, model="stub-1b", override_model=True)).done == 3
    with pytest.raises(ModelNotFoundError) as caught:
        await client.complete_batch(items, model="other", override_model=True)
    assert "override_model" not in str(caught.value)  # it wouldn't help


async def test_an_iterators_item_with_another_model_is_one_failed_item(client: FoundryAPIClient) -> None:
    report = await client.complete_batch(iter([line(CHAT, model="gpt-4o"), "b"]))
    assert (report.done, report.failed) == (1, 1)
