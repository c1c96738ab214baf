"""Every kind of fault, met by every operation of both clients: success or the documented error, in time.

Each cell also looks for what a fault may leave behind: requests that go on, connections, tasks, threads.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from fault_table import ROW
from threads import left, working

from foundry_lab import FoundryAPIClient, RetryPolicy, SyncFoundryAPIClient
from foundry_lab.engine import spec
from foundry_lab.errors import FoundryError
from foundry_lab.faults.proxy import Fault, FaultProxy
from foundry_lab.protocol import CHAT_PATH

DEADLINE_S = 0.5
"""Where the deadline is what ends the call."""
AMPLE_S = 30.0
"""Where it isn't: a slow machine needs some time for three whole answers of the model."""
GRACE_S = 0.5
"""How far past its deadline a call may come back, beside the time that the machine kept from this process."""

PROMPT = "Name three colours."
OPTIONS: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
ITEMS = 2
BATCH_OPTIONS: dict[str, Any] = {
    **OPTIONS,
    "concurrency": ITEMS,
    "wait_for_service": 30.0,
    "retry_failed": True,
    "progress": False,
}
RETRY = RetryPolicy(retries=2, backoff_initial_s=0.02)

OK = "success"
REFUSED = "ServiceUnavailableError"
TIMEOUT = "RequestTimeoutError"
CUT = "StreamInterruptedError"
FORMAT = "ResponseFormatError"


def on_chat(kind: Any, **parameters: Any) -> Fault:
    return Fault(kind, route=CHAT_PATH, **parameters)


ALWAYS: dict[str, tuple[Fault, str, str]] = {
    # the fault that every request meets; what comes of a plain answer; what comes of a stream
    "latency": (on_chat("latency", delay_s=0.1), OK, OK),
    "latency lognormal": (on_chat("latency", delay_s=0.05, sigma=0.5), OK, OK),
    "latency too long": (on_chat("latency", delay_s=60), TIMEOUT, TIMEOUT),
    "refused": (Fault("refused"), REFUSED, REFUSED),
    "reset": (on_chat("reset"), REFUSED, REFUSED),
    "reset_body": (on_chat("reset_body"), CUT, CUT),
    "429": (on_chat("status", status=429, retry_after=0), "RateLimitError", "RateLimitError"),
    "500": (on_chat("status", status=500), "ServerError", "ServerError"),
    "503 Retry-After 60": (on_chat("status", status=503, retry_after=60), "ServerError", "ServerError"),
    "black_hole": (on_chat("black_hole"), TIMEOUT, TIMEOUT),
    "stall": (on_chat("stall"), TIMEOUT, TIMEOUT),
    "cut": (on_chat("cut"), CUT, CUT),
    "drip": (on_chat("drip", delay_s=0.0005), OK, OK),
    "drip too slow": (on_chat("drip", delay_s=0.5), TIMEOUT, TIMEOUT),
    "malformed_json": (on_chat("malformed_json"), FORMAT, FORMAT),
    "wrong_content_type": (on_chat("wrong_content_type"), OK, FORMAT),
    "broken_event": (on_chat("broken_event"), OK, FORMAT),
    "duplicate": (on_chat("duplicate"), OK, "a piece twice"),
}
ONCE: dict[str, Fault] = {
    # what only the first attempt meets, so that the second one must make it good
    "reset once": on_chat("reset"),
    "reset_body once": on_chat("reset_body"),
    "429 once": on_chat("status", status=429, retry_after=0),
    "500 once": on_chat("status", status=500),
    "503 once": on_chat("status", status=503, retry_after=0.05),
}
BATCH: dict[str, str] = {
    # what comes of each item of a batch, where it isn't what comes of a plain answer: the word in its result
    "latency too long": "timeout",
    "reset": "unavailable",
    "reset_body": "interrupted",
    "429": "http_429",
    "500": "http_500",
    "503 Retry-After 60": "http_503",
    "black_hole": "timeout",
    "stall": "timeout",
    "cut": "interrupted",
    "drip too slow": "timeout",
    "malformed_json": "format",
}
BATCH_ROUNDS = 3
"""An item whose connection was lost is asked three times, each time within its own deadline."""


class Stolen:
    """Adds up the time in which this process was kept from running, as a starved machine does."""

    TICK_S = 0.01

    def __init__(self) -> None:
        self.seconds = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stolen time")

    def _watch(self) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            time.sleep(self.TICK_S)
            self.seconds += max(0.0, time.monotonic() - began - 2 * self.TICK_S)

    def __enter__(self) -> Stolen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def stolen() -> Iterator[Stolen]:
    with Stolen() as watch:
        yield watch


OPERATIONS = ("complete", "stream", "batch")
CLIENTS = ("async", "sync")


@pytest.fixture(scope="module")
def right(endpoint: str) -> str:
    """The answer that every success must give."""
    with SyncFoundryAPIClient(endpoint, metrics=False) as client:
        return client.complete(PROMPT, max_tokens=6, temperature=0).content


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [*ALWAYS, *ONCE])
def test_cell(
    name: str,
    operation: str,
    client: str,
    proxy: FaultProxy,
    right: str,
    record_property: Callable[[str, object], None],
    stolen: Stolen,
    tmp_path: Path,
) -> None:
    proxy.clear()
    if name in ALWAYS:
        fault, plain, streamed = ALWAYS[name]
        expected = {"complete": plain, "stream": streamed, "batch": BATCH.get(name, plain)}[operation]
        proxy.set_faults(fault)
    else:
        expected = OK
        proxy.script(*[ONCE[name]] * (ITEMS if operation == "batch" else 1))
    threads = working()
    output = tmp_path / "results.jsonl"

    run = _run_async if client == "async" else _run_sync
    stolen_before_s = stolen.seconds
    limit_s = DEADLINE_S if expected in (TIMEOUT, "timeout") else AMPLE_S
    texts, error, elapsed_s = run(operation, proxy.url, output, limit_s)

    if operation == "batch":
        outcome = _batch_outcome(output, right, error)
    elif error is not None:
        outcome = type(error).__name__
    else:
        outcome = (
            OK if texts == [right] else "a piece twice" if len(texts[0]) > len(right) else "WRONG ANSWER"
        )
    record_property(ROW, (name, operation, client, outcome, elapsed_s))
    assert outcome == expected
    rounds = BATCH_ROUNDS if operation == "batch" else 1
    assert elapsed_s <= rounds * limit_s + GRACE_S + stolen.seconds - stolen_before_s
    _nothing_is_left(proxy, threads)
    if operation == "batch":
        proxy.clear()
        run(operation, proxy.url, output, AMPLE_S)
        assert _batch_outcome(output, right, None) == OK, "the batch lost something"


def _batch_outcome(output: Path, right: str, error: Exception | None) -> str:
    """What the result file says: every item once, and all of them the same word."""
    if error is not None:
        return type(error).__name__
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == [f"item-{n:06d}" for n in range(1, ITEMS + 1)]
    words = set()
    for line in lines:
        if line["error"] is not None:
            words.add(line["error"]["code"])
        else:
            text = line["response"]["body"]["choices"][0]["message"]["content"]
            words.add(OK if text == right else "WRONG ANSWER")
    return " ".join(sorted(words))


def _run_async(
    operation: str, url: str, output: Path, limit_s: float
) -> tuple[list[str], FoundryError | None, float]:
    async def run() -> tuple[list[str], FoundryError | None, float]:
        texts: list[str] = []
        error = None
        async with FoundryAPIClient(
            url, model=spec.MODEL_ID, timeout=AMPLE_S, retry=RETRY, metrics=False
        ) as client:
            began = time.perf_counter()
            try:
                if operation == "complete":
                    texts.append((await client.complete(PROMPT, **OPTIONS, timeout=limit_s)).content)
                elif operation == "stream":
                    stream = client.stream_complete(PROMPT, **OPTIONS, timeout=limit_s)
                    texts.append("".join([chunk.content async for chunk in stream]))
                else:
                    await client.complete_batch(
                        [PROMPT] * ITEMS, output=output, timeout=limit_s, **BATCH_OPTIONS
                    )
            except FoundryError as caught:
                error = caught
            elapsed_s = time.perf_counter() - began
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert tasks == [], "the call left tasks behind"
        return texts, error, elapsed_s

    return asyncio.run(run())


def _run_sync(
    operation: str, url: str, output: Path, limit_s: float
) -> tuple[list[str], FoundryError | None, float]:
    texts: list[str] = []
    error = None
    with SyncFoundryAPIClient(
        url, model=spec.MODEL_ID, timeout=AMPLE_S, retry=RETRY, metrics=False
    ) as client:
        began = time.perf_counter()
        try:
            if operation == "complete":
                texts.append(client.complete(PROMPT, **OPTIONS, timeout=limit_s).content)
            elif operation == "stream":
                texts.append(
                    "".join(
                        chunk.content for chunk in client.stream_complete(PROMPT, **OPTIONS, timeout=limit_s)
                    )
                )
            else:
                client.complete_batch([PROMPT] * ITEMS, output=output, timeout=limit_s, **BATCH_OPTIONS)
        except FoundryError as caught:
            error = caught
        elapsed_s = time.perf_counter() - began
    return texts, error, elapsed_s


def _nothing_is_left(proxy: FaultProxy, threads: set[str]) -> None:
    """The client has closed: no request goes on, no connection is open, no thread runs."""
    port = urlsplit(proxy.url).port
    process = psutil.Process()

    def open_connections() -> list[Any]:
        return [
            each
            for each in process.net_connections("tcp4")
            if each.raddr and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
        ]

    assert _soon(lambda: not open_connections()), f"connections are left: {open_connections()}"
    assert _soon(lambda: not proxy.in_flight), "requests go on after their client has gone"
    assert left(threads) == set()


def _soon(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()
