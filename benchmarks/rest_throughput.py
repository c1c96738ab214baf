"""Tokens per second through HTTP against the SDK's in-process ChatSession: same model instance, same prompts.

    python -m benchmarks.rest_throughput [--rounds 5]

One process runs the Foundry Local runtime; each prompt is answered alternately by `complete()` over loopback
HTTP and by a `ChatSession` of the same loaded model, with the same JSON body. Prints a table, and JSON with
`--json FILE`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from foundry_lab import SyncFoundryAPIClient
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.engine import prepare_model, spec
from foundry_lab.engine.service.catalog import CATALOG_ROUTE, handle_query
from foundry_lab.engine.service.runtime import Runtime

PROMPTS = (
    "Write a long story about a lighthouse.",
    "Explain how rain forms.",
    "Describe a market in the morning.",
)
MAX_TOKENS = 96


@contextmanager
def loopback_catalog() -> Iterator[str]:
    """Serve the catalog from a thread of its own; give its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_post(CATALOG_ROUTE, handle_query)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{port}{CATALOG_ROUTE}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def in_process(runtime: Runtime, body: str) -> int:
    """Answer one request body in a ChatSession; return the completion tokens."""
    from foundry_local_sdk.items import TextItem, TextItemType
    from foundry_local_sdk.request import Request
    from foundry_local_sdk.session import ChatSession

    model = runtime.catalog.get_model_variant(spec.MODEL_ID)
    assert model is not None
    with ChatSession(model) as session, Request() as request:
        request.add_item(TextItem(body, TextItemType.OPENAI_JSON))
        with session.process_request(request) as response:
            answer = response.get_item(0)
            assert isinstance(answer, TextItem)
            return int(json.loads(answer.text)["usage"]["completion_tokens"])


def over_http(client: SyncFoundryAPIClient, prompt: str) -> int:
    """Answer one prompt through `complete()`; return the completion tokens."""
    completion = client.complete(prompt, max_tokens=MAX_TOKENS, temperature=0)
    assert completion.usage is not None
    return completion.usage.completion_tokens


def measure(rounds: int) -> dict[str, float]:
    """Return the median tokens per second of both ways and their ratio."""
    rates: dict[str, list[float]] = {"complete() over HTTP": [], "ChatSession in process": []}
    runtime = Runtime()
    with loopback_catalog() as catalog_url:
        runtime.start(0, catalog_url, public_catalog=False)
        client = SyncFoundryAPIClient(runtime.url, model=spec.MODEL_ID)
        try:
            for number in range(rounds + 1):  # the first round warms up
                for prompt in PROMPTS:
                    options = {"max_tokens": MAX_TOKENS, "temperature": 0}
                    body = ChatRequest.build(prompt, options, 30.0).call(spec.MODEL_ID).body
                    assert body is not None
                    for name, answer in (
                        ("complete() over HTTP", lambda: over_http(client, prompt)),  # noqa: B023
                        ("ChatSession in process", lambda: in_process(runtime, body.decode())),  # noqa: B023
                    ):
                        started = time.perf_counter()
                        tokens = answer()
                        if number:
                            rates[name].append(tokens / (time.perf_counter() - started))
        finally:
            client.close()
            runtime.close(10.0)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {**medians, "ratio": medians["complete() over HTTP"] / medians["ChatSession in process"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    prepare_model()
    result = measure(arguments.rounds)
    for name, value in result.items():
        print(f"{name:24} {value:8.2f}" + ("" if name == "ratio" else " tokens/s"))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
