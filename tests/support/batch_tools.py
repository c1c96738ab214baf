"""What the tests of batches share: how a stub answers, and what it and the output have seen."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web
from stub_server import CHAT, StubService, chat_body, error

from foundry_lab import RetryPolicy

QUICK = RetryPolicy(retries=1, backoff_initial_s=0.01)


def asked(stub: StubService) -> int:
    return stub.count("POST", CHAT)


def prompts_asked(stub: StubService) -> list[str]:
    return [seen.json["messages"][-1]["content"] for seen in stub.seen if seen.path == CHAT]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(path: Path) -> list[str]:
    return [row["custom_id"] for row in rows(path)]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def by_prompt(request: web.Request, stop: asyncio.Event) -> web.StreamResponse:
    """Answer in a way that the prompt asks for."""
    prompt = (await request.json())["messages"][-1]["content"]
    if prompt.startswith("slow"):
        await asyncio.sleep(0.2)
    if prompt.startswith("bad"):
        return await error(400, "no such thing")(request, stop)
    if prompt.startswith("broken"):
        return await error(500, "it broke", "server_error")(request, stop)
    return web.json_response(chat_body(f"re: {prompt}"))


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - the stub lives in another thread
        await asyncio.sleep(0.005)
